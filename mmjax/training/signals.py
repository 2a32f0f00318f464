"""Signals that wait for a checkpoint, and batches whose errors wait until all processes know of them."""

import os
import signal
import threading
import time
from typing import Any

import numpy as np

from mmjax.data.loading.batches import WorkerKilled
from mmjax.errors import MachineError, UserError
from mmjax.parallel import process_agreement

# What `StopSignal` waits for, in the order in which it is obeyed.
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds that a signal may reach this process later than its workers.
_SIGNAL_DELAY = 2.0


class StopSignal:
    """SIGTERM and SIGINT, remembered so that the loop can save first. A second Ctrl-C interrupts at once.

    Attributes:
      received: the signal's number.
      fault: of the machine, for which the run stops as at a signal.
    """

    def __init__(self):
        self.received: int | None = None
        self.fault: MachineError | None = None
        self._previous = {}
        self._is_logged = True

    def __enter__(self) -> "StopSignal":
        self._is_logged = process_agreement.is_process_0()
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python

    def _handle(self, number, frame) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        if not self._is_logged:
            return
        # Not print: the handler may interrupt one, and buffered files are not re-entrant.
        os.write(2, f"\n{signal.Signals(number).name}: saving after this step, then stopping\n".encode())


class ErrorDeferringBatches:
    """One of several processes' batches, which come even where they cannot: an error waits until all know of it.

    Until then the last batch is repeated. What is made of it is never saved: every save hears of the error first.

    Args:
      make: gives the batches from a step on; with `workers=0`, by this process alone.
      start: the first step.
      stop: knows whether a signal has come.
    """

    def __init__(self, make: Any, start: int, stop: StopSignal):
        self._make, self._step, self._stop = make, start, stop
        self._open: Any = None
        self.error: Exception | None = None
        with process_agreement.raise_on_all():  # before there is a batch that could be repeated
            self._open = make(start)
            self._first = self._last = next(self._open)

    def __next__(self) -> dict[str, np.ndarray]:
        if self._first is not None:
            self._first = None
        elif self.error is None:
            try:
                self._last = self._following()
            except Exception as error:
                self.error = error
        self._step += 1
        return dict(self._last)

    def _following(self) -> dict[str, np.ndarray]:
        try:
            return next(self._open)
        except WorkerKilled as error:
            # All save, which takes the same last steps of all.
            self._stop.fault, self._stop.received = error, signal.SIGTERM
            self._open = self._make(self._step, workers=0)
            return next(self._open)
        except Exception as error:
            until = time.monotonic() + _SIGNAL_DELAY
            while self._stop.received is None and not isinstance(error, UserError) and time.monotonic() < until:
                time.sleep(0.05)
            if self._stop.received is None:
                raise
            # The signal ended the worker processes too (SLURM does that), but all must make the same last steps.
            self._open = self._make(self._step, workers=0)
            return next(self._open)

    def __enter__(self) -> "ErrorDeferringBatches":
        return self

    def __exit__(self, *_) -> None:
        if self._open is not None:
            self._open.close()
