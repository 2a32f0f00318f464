"""The workdir of a run: whether one may begin or go on in it, and that no other process writes there."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from mmjax.errors import MachineError, UserError, validate_choice
from mmjax.io import machine_faults, paths, writer_lease
from mmjax.io.writer_lease import LeaseSettings, WriterLease
from mmjax.parallel import process_agreement
from mmjax.training import checkpoint

RESUME = ("auto", "must", "never")
# What training writes there; evaluations of it are not among them.
_FOLDERS = ("checkpoints", "base", "tensorboard", "profile")
_FILES = (
    *("config.json", "init_from.json", "metrics.jsonl", "metrics.jsonl.damaged"),
    *("report.html", "traceback.txt", "wandb_run_id"),
)


@dataclasses.dataclass(frozen=True)
class Start:
    """How a run starts in its workdir.

    Attributes:
      resume: `auto` goes on where there is a checkpoint, `must` is refused without one, `never` where there is a run.
      overwrite: removes the run that is there, and begins.
      lease: how long the claim of a process that is not heard of any more lasts.
    """

    resume: str = "auto"
    overwrite: bool = False
    lease: LeaseSettings = LeaseSettings()


def check_start(workdir: Any, start: Start) -> None:
    """Checks that what is in a workdir allows such a start.

    Raises:
      UserError: naming `--resume` and what is there.
    """
    validate_choice("--resume", start.resume, RESUME)
    if start.overwrite and start.resume == "must":
        raise UserError(
            "--overwrite and --resume=must: give one of them; the first removes what the second goes on from"
        )
    if start.resume == "must" and checkpoint.Checkpoints(workdir / "checkpoints", read_only=True).latest() is None:
        raise UserError(f"--resume=must: there is no checkpoint in --workdir={workdir}; leave it out to begin a run")
    if start.resume == "never" and not start.overwrite:
        for name in (*_FOLDERS, *_FILES):
            if (workdir / name).exists():
                raise UserError(
                    f"--resume=never: there is a run in --workdir={workdir} ({name}); give another workdir, or"
                    " --overwrite to remove it"
                )


def claim(workdir: Any, settings: LeaseSettings) -> "Claim":
    """Makes a workdir and claims it; all processes call it alike, and process 0 is the one that writes.

    Raises:
      UserError: it cannot be made, hosts do not share it, or another process writes there.
    """
    is_new = process_agreement.run_on_process_0(lambda: not workdir.exists())
    with process_agreement.raise_on_all():
        paths.make_folder(workdir, "--workdir")
    process_agreement.check_shared(workdir, "--workdir")
    lease = None
    with process_agreement.raise_on_all():
        if process_agreement.is_process_0():
            lease = writer_lease.claim(workdir, "--workdir", settings)
    return Claim(workdir, is_new, lease)


class Claim:
    """A workdir that this run writes to, and no other.

    Args:
      workdir: its path.
      is_new: whether it has been made for this run.
      lease: of process 0; None in the others, which write nothing but their parts of checkpoints.
    """

    def __init__(self, workdir: Any, is_new: bool, lease: WriterLease | None):
        self._workdir, self._is_new, self._lease = workdir, is_new, lease

    @property
    def lost(self) -> bool:
        """Whether another process has taken it over, as far as has been seen."""
        return self._lease is not None and self._lease.lost

    def check(self) -> None:
        """Looks whether the workdir is still this run's, before something is written.

        Raises:
          LostLease: another process has taken it over.
        """
        if self._lease is not None:
            self._lease.check()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Context of what writes there: what fails since another process has taken it over, fails for that.

        Raises:
          LostLease: instead of the error.
          MachineError: a file there could not be written to, and the error does not say which.
        """
        try:
            yield
        except Exception as error:
            self.check()
            fault = machine_faults.of(error)
            if fault is not None and isinstance(error, OSError) and not error.filename:
                raise MachineError(f"--workdir={self._workdir}: {fault}") from error
            raise

    def release(self) -> None:
        """Gives the workdir back; harmless when repeated."""
        if self._lease is not None:
            self._lease.release()

    def undo(self) -> None:
        """Gives the workdir back, and removes it where it is new and empty."""
        self.release()
        if self._is_new and process_agreement.is_process_0():
            with contextlib.suppress(OSError):  # others have written there
                self._workdir.rmdir()


def remove_run(workdir: Any) -> None:
    """Removes what training wrote to a workdir, checkpoints first."""
    for name in (*_FOLDERS, *_FILES):
        path = workdir / name
        if path.is_dir():
            paths.remove_tree(path)
        elif path.exists():
            path.unlink()
