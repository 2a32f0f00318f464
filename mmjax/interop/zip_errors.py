"""What Python's zipfile raises on files that are damaged."""

import struct
import tokenize
import zipfile
import zlib

# Of the structure, of compression and encryption that it lacks, of the disk, of .npy headers inside.
ZIP_FAULTS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError),
    *(OSError, EOFError, ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError, Warning),
    *(SyntaxError, tokenize.TokenError),
)


def line(error: BaseException) -> str:
    """The first line of a message, or the error's name."""
    return (str(error).splitlines() or [type(error).__name__])[0]
