"""TensorBoard's event files."""

import os
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from etils import epath

from mmjax.io import paths
from mmjax.training.config import LogConfig
from mmjax.training.metrics_log import numbers

_FLUSH_EVERY = 30.0  # seconds


class TensorBoard:
    """Event files in `tensorboard/`; arguments as every `LogWriter` has.

    They are written by the thread that trains, which so meets a disk that is full; tensorboardX's own thread would die
    of it, and its queue fill.
    """

    def __init__(self, workdir: Any, *, settings: LogConfig, name: str, fields: Mapping[str, Any]):
        self._target = workdir / "tensorboard"
        self._local = tempfile.TemporaryDirectory(prefix="mmjax-tensorboard-") if paths.scheme(self._target) else None
        self._events, self._flushed = None, 0.0

    def resume(self, step: int, *, evaluated: bool) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]

        folder = epath.Path(self._target if self._local is None else self._local.name)
        folder.mkdir(parents=True, exist_ok=True)
        # The name of an event file counts seconds, and a file of the same name would be written over.
        self._events = EventsWriter(os.fspath(folder / "events"), f".{time.time_ns()}")
        if step:  # TensorBoard then hides what an earlier process wrote from the next step on
            self._add(step + 1, file_version="brain.Event:2")
            self._add(step + 1, session_log=SessionLog(status=SessionLog.START))
        self._flush_file()

    def write(self, step: int, kind: str, metrics: Mapping[str, Any]) -> None:
        from tensorboardX import summary

        for name, value in numbers(kind, metrics).items():
            self._add(step, summary=summary.scalar(name, value))
        if time.monotonic() - self._flushed > _FLUSH_EVERY:
            self._flush_file()

    def flush(self) -> None:
        self._flush_file()
        if self._local is not None:
            paths.copy_tree(epath.Path(self._local.name), self._target)

    def close(self) -> None:
        try:
            self.flush()
        finally:
            if self._events is not None:
                self._events.close()
            if self._local is not None:
                self._local.cleanup()

    def _add(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        if self._events is not None:
            self._events.write_event(Event(step=step, wall_time=time.time(), **content))

    def _flush_file(self) -> None:
        if self._events is not None:
            self._events.flush()
            self._flushed = time.monotonic()
