"""Examples that cannot be used, and the reasons that they are counted by."""

import asyncio
import contextlib
import errno
import traceback
from collections.abc import Iterator

from mmjax.errors import MachineError, UserError
from mmjax.utils.terminal import printable

# `substitution_reason` of a training example is an index into this. metrics.jsonl counts them as `bad_REASON`.
REASONS = (
    "ok",
    "empty",  # a file of zero bytes; a video without frames, a sound without samples
    "not_image",  # bytes of no image format
    "corrupt",  # a file that breaks off or cannot be decoded
    "too_large",  # more pixels, frames or samples than are decoded, or a larger file than is read
    "no_image",  # the record has no image under the wanted key
    "no_caption",  # no caption under the wanted keys, or blank ones alone
    "missing",  # the file or shard is not there
    "cut",  # the shard ends before the example does
    "read",  # any other error of the storage, after trying again
    "other",
    "encoding",  # a text that is not in the encoding that it is read in
    "error",  # whatever else the source, the decoder, the tokenizer or the transform raised
    "no_input",  # the record lacks another modality than an image
    "not_media",  # bytes of no video, audio or array format
    "no_track",  # a video without frames or without sound, where that is wanted
    "too_short",  # a video or a sound that ends before all that is wanted of it
)
_DETAIL = 300  # characters

# What ends a run whatever example it comes up with; as it does where the disk is full.
_NOT_OF_ONE_EXAMPLE = (
    UserError,
    MachineError,
    MemoryError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    asyncio.CancelledError,
)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class BadExample(Exception):
    """An example that cannot be used: it is replaced in training and named in evaluation.

    Attributes:
      reason: one of REASONS that the replaced examples are counted by, such as `corrupt`.
      detail: what was wrong, for the log.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        text = f"{self.reason}: {self.detail}" if self.detail else self.reason
        return printable(text.replace("\n", " "))

    def with_path(self, path: str) -> "BadExample":
        """The same with the path of the example, to be raised from this one's cause."""
        return type(self)(self.reason, f"{path}: {self.detail}")


class UnforeseenError(BadExample):
    """An example that made code raise what no code here raises for bad data; its `__cause__` has the traceback."""


def reason_code(error: BadExample | OSError) -> int:
    """Index into REASONS of why an example could not be used."""
    if isinstance(error, BadExample):
        return REASONS.index(error.reason if error.reason in REASONS else "other")
    return REASONS.index("missing" if isinstance(error, FileNotFoundError) else "read")


@contextlib.contextmanager
def one_example() -> Iterator[None]:
    """A block that reads or prepares one example: whatever it raises becomes a BadExample, raised from that.

    Raises:
      BadExample: the example cannot be used; `missing` or `read` for what the storage raises.
      UnforeseenError: it raised anything else; `encoding` for a text that is not Unicode, else `error`.
      UserError, MemoryError, OSError: a mistake, no memory, no space on a disk. Another example would not help, and
        interrupts are left alone, too.
    """
    try:
        yield
    except (BadExample, *_NOT_OF_ONE_EXAMPLE):
        raise
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise
        raise BadExample(REASONS[reason_code(error)], str(error)) from error
    except BaseException as error:  # libraries in Rust raise what is no Exception
        reason = "encoding" if isinstance(error, UnicodeError) else "error"
        raise UnforeseenError(reason, _describe(error)) from error


def common_fault(errors: list[BadExample]) -> BaseException | None:
    """The first error that came from the same line as half of all or more: a fault of code; None where none did."""
    by_line: dict[tuple, list[BaseException]] = {}
    for error in errors:
        cause = error.__cause__
        if isinstance(error, UnforeseenError) and cause is not None:
            by_line.setdefault((type(cause), *innermost_line(cause)), []).append(cause)
    most = max(by_line.values(), key=len, default=[])
    return most[0] if most and 2 * len(most) >= len(errors) else None


def innermost_line(error: BaseException) -> tuple[str, int]:
    """File and line that raised an error; ("", 0) where nothing says."""
    frames = traceback.extract_tb(error.__traceback__)
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else ("", 0)


def _describe(error: BaseException) -> str:
    """An error's kind, the beginning of its message, and the line that raised it."""
    try:
        message = " ".join(str(error).split())
    except Exception as unprintable:
        message = f"its message cannot be made ({type(unprintable).__name__})"
    file, line = innermost_line(error)
    where = f" ({file}, line {line})" if file else ""
    return f"{type(error).__name__}: {message[:_DETAIL]}{where}"
