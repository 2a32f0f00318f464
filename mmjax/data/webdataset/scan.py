"""The scan of shards for their examples, in this process or in others."""

import concurrent.futures
import dataclasses
import errno
import functools
import hashlib
import json
import logging
import os
import sys
import tempfile
import threading
import zlib
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data.webdataset.index_file import MISSING, IndexWriter, TarIndex, ends_of
from mmjax.data.webdataset.shard_cache import user_cache
from mmjax.data.webdataset.tar_format import BLOCK, Read, ShardTable, scan
from mmjax.errors import UserError
from mmjax.io.reader import Reader, is_local, local_path
from mmjax.io.regular_file import check_regular
from mmjax.io.retries import ReadError
from mmjax.utils.piped_process import PipedProcess

_LOCAL_CHUNK, _REMOTE_CHUNK = 8192, 16 << 20  # bytes
_SHARDS_FOR_PROCESSES = 32  # below as many, processes take longer to start than this one to be done

log = logging.getLogger("mmjax.data")


@dataclasses.dataclass(frozen=True)
class Scanned:
    """One shard, scanned: its size (MISSING where there is no such file), version, examples and `check_of` them."""

    size: int
    modified: int
    table: ShardTable
    check: int = -1


def check_of(read: Read, ends: Sequence[int]) -> int:
    """CRC-32 of the headers of a shard's first and last example, which begin at these blocks."""
    return zlib.crc32(b"".join(read(block * BLOCK, BLOCK) for block in ends))


def scan_shard(path: str, reader: Reader) -> Scanned:
    """Finds a shard's examples. Of local shards only headers are read; remote ones are read once, from start to end.

    Raises:
      OSError: it cannot be read, for another reason than that it is not there.
    """
    try:
        if is_local(path):
            # Opened for the scan alone: the files that stay open are for reading examples.
            check_regular(local_path(path))
            with open(local_path(path), "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                read = lambda offset, length: os.pread(file.fileno(), length, offset)
                table = scan(read, status.st_size, chunk=_LOCAL_CHUNK)
                return Scanned(status.st_size, status.st_mtime_ns, table, check_of(read, ends_of(table.rows)))
        size, version = reader.stamp(path)
        read = functools.partial(reader.read_range, path)
        if size:
            read(0, 1)
        if reader.has_ranges(path):
            return Scanned(size, version, scan(read, size, chunk=_REMOTE_CHUNK))
        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, "shard.tar")
            reader.download(path, copy)
            return dataclasses.replace(scan_shard(copy, reader), modified=version, check=-1)
    except FileNotFoundError:
        return Scanned(MISSING, 0, ShardTable(np.zeros((0, 2), np.uint32), {}, "missing"))


def scan_path(path: str, cache: str) -> str:
    """Where `scan_once` stores its scan of a local shard in a cache folder; "" is the user's."""
    digest = hashlib.blake2b(
        os.path.abspath(local_path(path)).encode("utf-8", "surrogatepass"), digest_size=12
    ).hexdigest()
    return os.path.join(local_path(cache) or user_cache(), "tables", f"{digest}.index")


def scan_once(path: str, reader: Reader, stored: str) -> Scanned:
    """Finds a local shard's examples, or reads them from the file in which an earlier call has stored them.

    Args:
      path: of the shard.
      reader: as `scan_shard`'s.
      stored: local path of that file. It counts while the shard's size and time are what they were; where it cannot be
        written, every process scans for itself.

    Raises:
      FileNotFoundError: there is no such shard.
      OSError: as `scan_shard` does.
    """
    try:
        index = TarIndex(stored)
        description = index.shards()
        if len(description.names) == 1:
            check = int(description.checks[0])
            now = os.stat(local_path(path))
            table = ShardTable(
                index.rows(0, len(index)), description.key_sets[0], description.problems.get(description.names[0], "")
            )
            # A copy's time changes whenever it is used, and its scan is removed with it.
            if now.st_size == description.sizes[0] and description.modified[0] in (0, now.st_mtime_ns):
                return Scanned(now.st_size, now.st_mtime_ns, table, check)
    except (OSError, UserError):
        pass
    scanned = scan_shard(path, reader)
    if scanned.size == MISSING:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    try:
        os.makedirs(os.path.dirname(stored), exist_ok=True)
        beside = os.path.dirname(stored) == os.path.dirname(local_path(path))
        with IndexWriter(stored) as writer:
            name = os.path.basename(path)
            writer.add(name, scanned.size, 0 if beside else scanned.modified, scanned.table, scanned.check)
    except OSError as error:
        log.debug("%s is not stored: %s", stored, error)
    return scanned


def scan_all(paths: Sequence[str], reader: Reader, workers: int) -> Generator[Scanned, None, None]:
    """Yields shards in order, scanned a few at a time and not far ahead; many local ones by other processes.

    Raises:
      OSError: one cannot be read.
    """
    workers = min(workers, len(paths))
    # Parsing holds the interpreter; waiting for a network does not.
    use_processes = workers > 1 and is_local(paths[0]) and len(paths) >= _SHARDS_FOR_PROCESSES and bool(sys.executable)
    processes = _Processes(reader) if use_processes else None
    scan_one = processes.scan if processes else functools.partial(scan_shard, reader=reader)
    if workers <= 1:
        yield from map(scan_one, paths)
        return
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    ahead: list[concurrent.futures.Future] = []
    try:
        for path in paths:
            ahead.append(pool.submit(scan_one, path))
            if len(ahead) >= 4 * workers:
                yield ahead.pop(0).result()
        while ahead:
            yield ahead.pop(0).result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if processes:
            processes.close()


class _Processes:
    """A scanning process for each calling thread. They run this module alone: nothing of the caller's main module."""

    def __init__(self, reader: Reader):
        self._reader, self._local = reader, threading.local()
        self._started: list[PipedProcess] = []

    def scan(self, path: str) -> Scanned:
        process: PipedProcess | None = getattr(self._local, "process", None)
        if process is None:
            process = self._local.process = self._start()
        try:
            process.stdin.write(json.dumps(path).encode() + b"\n")
            process.stdin.flush()
            header = json.loads(process.stdout.readline())
            if "error" in header:
                raise ReadError(header["error"])
            data = process.stdout.read(8 * header["rows"])
            table = ShardTable(np.frombuffer(data, "<u4").reshape(-1, 2), header["key_sets"], header["problem"])
            if len(table.rows) < header["rows"]:
                raise ValueError("cut off")
        except (ValueError, BrokenPipeError) as error:
            raise ReadError(
                f"{path}: the process that scanned it ended with status {process.process.poll()}"
            ) from error
        return Scanned(header["size"], header["modified"], table, header["check"])

    def _start(self) -> PipedProcess:
        root = str(Path(__file__).parents[3])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        process = PipedProcess.start(
            [sys.executable, "-m", "mmjax.data.webdataset.scan", str(self._reader.retry_seconds)],
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C is for us; they end when we do, by the end of their input
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        for process, _, _ in self._started:
            process.kill()
            process.wait()


def _scan_message(path: str, reader: Reader) -> tuple[dict[str, Any], bytes]:
    try:
        scanned = scan_shard(path, reader)
    except OSError as error:
        return {"error": f"{path}: {error.strerror or error}"}, b""
    rows, key_sets, problem = scanned.table
    header = {"size": scanned.size, "modified": scanned.modified, "check": scanned.check}
    return {**header, "rows": len(rows), "key_sets": key_sets, "problem": problem}, rows.astype("<u4").tobytes()


def main() -> None:
    """Scans the shards whose paths come in, one JSON string a line; a line of JSON and the rows go out for each."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints
    reader = Reader(float(sys.argv[1]))
    for line in iter(sys.stdin.buffer.readline, b""):
        header, rows = _scan_message(json.loads(line), reader)
        out.write(json.dumps(header).encode() + b"\n" + rows)
        out.flush()


if __name__ == "__main__":
    main()
