"""Throughput: images per second, step time, time waiting for data, and MFU where the device's peak is known."""

import contextlib
import time
from collections.abc import Iterator

from mmjax.training import device_specs


def peak_flops(device_kind: str) -> float | None:
    """A device's dense bfloat16 peak in FLOP/s, or None when it is not in the table (a CPU)."""
    device = device_specs.find(device_kind)
    return None if device is None else device.flops


class Meter:
    """Rates between two readings.

    Args:
      batch_size: pairs per step.
      flops_per_example: of a forward pass; a training step is counted as three of them, recomputation not counted.
        None where they are not known.
      devices: how many.
      peak: of one device in FLOP/s, or None.
    """

    def __init__(self, batch_size: int, flops_per_example: float | None, devices: int, peak: float | None):
        self._batch_size = batch_size
        known = peak is not None and flops_per_example is not None
        self._step_flops = 3.0 * (flops_per_example or 0.0) * batch_size
        self._peak = peak * devices if known else None
        self.reset(0)

    def reset(self, step: int) -> None:
        """Starts a new interval after `step`; call after anything that is not training (an evaluation, a save)."""
        self._start, self._step, self._waits = time.perf_counter(), step, []

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context that counts the time spent in it as time without a batch."""
        start = time.perf_counter()
        yield
        self._waits.append(time.perf_counter() - start)

    def read(self, step: int) -> dict[str, float]:
        """Returns the rates since the last reading and starts the next interval; empty when no step has ended.

        Args:
          step: the last one that has ended. One that is only on its way took no more than the time to ask for it.
        """
        steps = step - self._step
        if steps <= 0:
            return {}
        step_time = (time.perf_counter() - self._start) / steps
        rates = {
            "images_per_second": self._batch_size / step_time,
            "step_time": step_time,
            "data_wait": sum(self._waits) / max(1, len(self._waits)),
        }
        if self._peak is not None:
            rates["mfu"] = self._step_flops / step_time / self._peak
        self.reset(step)
        return rates
