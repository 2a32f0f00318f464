"""Mistakes a person can make, told in one line."""

import difflib
from collections.abc import Iterable

EXIT_MACHINE = 75  # the exit status of a fault of the machine, EX_TEMPFAIL of sysexits.h


class UserError(ValueError):
    """A mistake in config, flags or data.

    The message is one line that names the field, the value and the remedy. The command line prints it without a
    traceback and exits with status 2.
    """


class GlobalUserError(UserError):
    """A mistake that every process raises at the same point; only the first one tells it."""


class MachineError(RuntimeError):
    """A fault of the machine, its storage or another process: the same run can be started again.

    The message is one line. The command line prints it without a traceback and exits with status EXIT_MACHINE.
    """


class GlobalMachineError(MachineError):
    """A fault that every process raises at the same point; only the first one tells it."""


class TrainingDiverged(RuntimeError):
    """The loss or the gradient became non-finite; the last checkpoint is from before that."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `" (did you mean 'x'?)"` for the nearest known name, or an empty string when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def validate_choice(field: str, value: str, known: Iterable[str]) -> str:
    """Returns `value` when it is one of `known`.

    Raises:
      UserError: naming the field, the value, the nearest known name and all of them.
    """
    known = list(known)
    if value in known:
        return value
    raise UserError(
        f"{field}={value!r} is not known{did_you_mean(str(value), known)}; choose one of: {', '.join(known)}"
    )


choose = validate_choice  # the name that recipes written for mmjax 0.1 import
