"""Files of stores that fsspec knows: their file systems, their versions, and parts of them."""

import asyncio
import datetime
import errno
import hashlib
import re
from typing import Any, NamedTuple

import fsspec

from mmjax.io.retries import RANGE_NOT_SATISFIABLE, ReadError, is_past_the_end, log

_without_ranges: set[str] = set()  # servers that send a whole file on a request for a part of it
_SILENCE = 60.0  # seconds
# The names that stores have for the version of a file.
_VERSIONS = (
    *("ETag", "etag", "generation", "md5Hash", "Content-MD5", "Digest", "mtime", "LastModified", "last_modified"),
    *("Last-Modified", "updated", "created"),
)


class Stamp(NamedTuple):
    """A file's size in bytes, and what changes when it is written anew: for local files nanoseconds since 1970, for
    others a positive hash of what the store has as a version (ETag, generation, times), 0 where it has none."""

    size: int
    version: int


def stamp_of(info: dict) -> Stamp | None:
    """The stamp in a store's entry of a file; None where the entry has no size."""
    if info.get("size") is None:
        return None
    version = next((info[name] for name in _VERSIONS if info.get(name)), "")
    # A listing may have it either way.
    version = str(version.timestamp() if isinstance(version, datetime.datetime) else version)
    digest = int.from_bytes(hashlib.blake2b(version.encode(), digest_size=8).digest(), "big") >> 1
    return Stamp(int(info["size"]), digest if version else 0)


def filesystem(path: str, silence: float) -> Any:
    """The fsspec file system of a URL; fsspec keeps one for each thread.

    Args:
      path: the URL.
      silence: seconds without a byte, after which an HTTP connection counts as broken; a minute at most.
    """
    if not path.startswith(("http://", "https://")):
        return fsspec.core.url_to_fs(path)[0]
    import aiohttp  # fsspec says how to get it where it is missing

    silence = min(_SILENCE, max(1.0, silence))
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=silence, sock_read=silence)
    return fsspec.core.url_to_fs(path, client_kwargs={"timeout": timeout})[0]


def read_range(fs: Any, path: str, offset: int, length: int) -> bytes:
    """Part of a file in a file system of `filesystem`; fewer bytes where the file ends before."""
    if path.startswith(("http://", "https://")):
        return asyncio.run_coroutine_threadsafe(_read_http_range(fs, path, offset, length), fs.loop).result()
    try:
        return fs.cat_file(path, start=offset, end=offset + length)
    except Exception as error:
        if is_past_the_end(error):
            return b""
        raise


def has_ranges(url: str) -> bool:
    """Whether the server of a URL sends parts of files on request, as far as this process has tried."""
    return _server(url) not in _without_ranges


async def _read_http_range(fs: Any, url: str, offset: int, length: int) -> bytes:
    """Part of a file over HTTP. fsspec's own takes a whole file for a part."""
    session = await fs.set_session()
    request = dict(fs.kwargs)
    headers = {
        **request.pop("headers", {}),
        "Range": f"bytes={offset}-{offset + length - 1}",
        "Accept-Encoding": "identity",
    }
    async with session.get(fs.encode_url(url), headers=headers, **request) as response:
        if response.status == RANGE_NOT_SATISFIABLE:
            return b""
        if response.status == 404:
            raise FileNotFoundError(errno.ENOENT, "no such file", url)
        response.raise_for_status()
        if response.status == 206:
            begins = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if begins and int(begins[1]) != offset:
                raise ReadError(f"{url}: the server was asked for byte {offset} and sent byte {begins[1]}")
            return (await response.read())[:length]
        if has_ranges(url):
            _without_ranges.add(_server(url))
            log.warning("%s sends whole files when asked for a part: every example costs a shard", _server(url))
        await _skip(response.content, offset)
        parts = []
        while length > 0 and (part := await response.content.read(length)):
            parts.append(part)
            length -= len(part)
        response.close()
        return b"".join(parts)


async def _skip(stream: Any, count: int) -> None:
    while count > 0 and (part := await stream.read(min(count, 1 << 20))):
        count -= len(part)


def _server(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])
