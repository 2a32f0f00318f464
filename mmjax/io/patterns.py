"""Files by pattern: `DIR/{00000..00099}.tar`, `DIR/train-*.parquet`."""

import collections
import posixpath
import re
from collections.abc import Sequence

from mmjax.errors import UserError
from mmjax.io.reader import Reader

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SLIP = re.compile(r"\{(\d+)[-:.]+(\d+)[^\d{},]*\}")  # what is meant for a range
_WILD = re.compile(r"[*?\[]")
_MOST = 10_000_000  # paths; more of them is a slip of the pen


def expand_braces(pattern: str) -> list[str]:
    """Returns what a shell makes of {000..123} and {a,b}: ranges keep their zeros, lists their order.

    Braces that are neither a range nor a list are left as they are.

    Raises:
      ValueError: when that is more than ten million paths.
    """
    paths = [""]
    rest = pattern
    while match := _BRACES.search(rest):
        choices = _choices(match[1])
        if len(paths) * len(choices) > _MOST:
            raise ValueError(f"more than {_MOST} paths")
        paths = [path + rest[: match.start()] + choice for path in paths for choice in choices]
        rest = rest[match.end() :]
    return [path + rest for path in paths]


def _choices(inside: str) -> list[str]:
    if match := _RANGE.fullmatch(inside):
        first, last = int(match[1]), int(match[2])
        if abs(last - first) >= _MOST:
            raise ValueError(f"more than {_MOST} paths")
        padded = any(len(end) > 1 and end[0] == "0" for end in match.groups())
        width = max(map(len, match.groups())) if padded else 0
        step = 1 if last >= first else -1
        return [f"{number:0{width}d}" for number in range(first, last + step, step)]
    return inside.split(",") if "," in inside else ["{" + inside + "}"]


def list_files(pattern: str, *, reader: Reader, where: str) -> list[str]:
    """Returns the paths that a pattern of braces and of * ? [...] stands for, in order.

    Wildcards are looked up; paths without any are taken as they are, there or not.

    Args:
      pattern: local or an fsspec URL.
      reader: lists folders.
      where: the config field and its value, to begin errors with.

    Raises:
      UserError: when nothing matches, a folder cannot be listed, or a file is named twice.
    """
    slip = _SLIP.search(pattern)
    if slip and not _RANGE.fullmatch(slip[0][1:-1]):
        raise UserError(f"{where}: {slip[0]} is no range; write {{{slip[1]}..{slip[2]}}}")
    try:
        paths = []
        for path in expand_braces(pattern):
            matches = reader.glob(path) if _WILD.search(path) else [path]
            if not matches:
                raise UserError(f"{where}: no file matches {path!r}; check the pattern")
            paths += matches
    except UserError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{where}: cannot be listed ({error_reason(error)}); check the path") from error
    check_named_once(paths, where)
    return paths


def check_named_once(paths: Sequence[str], where: str) -> None:
    """Refuses a file that is named twice.

    Raises:
      UserError: beginning with `where`.
    """
    if len(set(paths)) < len(paths):
        twice = next(path for path, count in collections.Counter(paths).items() if count > 1)
        raise UserError(f"{where}: names {twice!r} twice; name every file once")


def pattern_name(pattern: str) -> str:
    """A short name for the files of a pattern: what their names have in common, or their folder's name."""
    folder, base = posixpath.split(pattern)
    stem = re.split(r"[*?\[{]", base)[0]
    stem = (stem if stem != base else posixpath.splitext(base)[0]).strip("-_.")
    return stem or posixpath.basename(folder) or pattern


def error_reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words on one line."""
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
