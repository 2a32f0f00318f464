"""A profiler trace of chosen steps, in WORKDIR/profile, for TensorBoard or Perfetto."""

import tempfile
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from mmjax.io import paths


class Profiler:
    """Traces a window of steps; a run that goes on inside the window traces what is left of it.

    Args:
      workdir: of the run.
      window: (first, last) step, or empty.
    """

    def __init__(self, workdir: Any, window: Sequence[int]):
        self._folder = paths.as_path(workdir) / "profile"
        self._first, self._last = window or (0, -1)
        self._tracing = False
        self._temporary = None

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def before(self, step: int, state: Any) -> None:
        """Call before every step with the state it starts from."""
        if not self._tracing and self._first <= step <= self._last:
            folder = self._folder
            if paths.scheme(folder):
                self._temporary = tempfile.TemporaryDirectory(prefix="mmjax-profile-")
                folder = self._temporary.name
            jax.profiler.start_trace(str(folder))
            self._tracing = True
        elif self._tracing and step > self._last:
            jax.block_until_ready(state.step)  # the device may still be at work on the window
            self.close()

    def close(self) -> None:
        """Ends the trace, when there is one."""
        if not self._tracing:
            return
        self._tracing = False
        jax.profiler.stop_trace()
        if self._temporary is not None:
            paths.copy_tree(epath.Path(self._temporary.name), self._folder)
            self._temporary.cleanup()
