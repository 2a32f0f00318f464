"""The search for the index of shards: beside them, or in the cache folder."""

import contextlib
import logging
import os

from mmjax.data.webdataset.index_file import HEAD_BYTES, TarIndex
from mmjax.data.webdataset.shard_list import ShardList
from mmjax.errors import UserError
from mmjax.io.file_locks import locked
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader
from mmjax.io.regular_file import check_regular

log = logging.getLogger("mmjax.data")


def find_index(shards: ShardList, *, cache: str, reader: Reader) -> TarIndex | None:
    """Returns the shards' index, None where there is none.

    Of the one beside the shards (which of remote ones is copied to the cache folder) and the one in the cache folder
    it is the one built last; one of other shards only where no index is of these.

    Raises:
      OSError: the storage fails, or the copy cannot be written.
      UserError: none that is there can be read.
    """
    beside = shards.index_beside() if shards.is_local else copy_index(shards, cache=cache, reader=reader)
    candidates, broken = [], None
    for path in filter(None, (beside, shards.index_in(cache))):
        try:
            index = TarIndex(path)
            names = set(index.shards().names)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            log.warning("%s is passed over: %s", path, error.strerror)
            continue
        except UserError as error:
            broken = broken or error
            continue
        candidates.append((names.issuperset(shards.names), index.built, index))
    if not candidates and broken:
        raise broken
    return max(candidates, key=lambda entry: entry[:2])[2] if candidates else None


def copy_index(shards: ShardList, *, cache: str, reader: Reader) -> str | None:
    """Returns the local copy of the index that lies beside remote shards, brought up to date; None where there is none.

    Raises:
      OSError: the storage fails, or the copy cannot be written.
    """
    beside, copy = shards.index_beside(), shards.index_copy_in(cache)
    if not beside:
        return None
    try:
        head = reader.read_range(beside, 0, HEAD_BYTES)  # has the time when it was built
    except FileNotFoundError:
        return None
    except PermissionError as error:  # some stores forbid what they do not have
        log.warning("%s is taken to be missing: %s", beside, error.strerror or error)
        return None
    if _head(copy) == head:
        return copy
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(copy))
        except OSError as error:
            raise UserError(
                f"{beside} cannot be copied to {os.path.dirname(copy)} ({error_reason(error)}); set data.cache to a"
                " folder that can be written"
            ) from error
        if _head(copy) != head:
            reader.download(beside, copy)
    return copy


def _head(path: str) -> bytes:
    try:
        check_regular(path)
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return b""
