"""How fast: images per second, step time, time waiting for data, and MFU where the device's peak is known."""

import time

from mmjax.training import devices


def peak_flops(device_kind: str) -> float | None:
    """A device's dense bfloat16 peak in FLOP/s, or None when it is not in the table (a CPU)."""
    device = devices.find(device_kind)
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
        self.reset()

    def reset(self) -> None:
        """Starts a new interval; call after anything that is not training (an evaluation, a save)."""
        self._start, self._steps, self._waited = time.perf_counter(), 0, 0.0

    def add(self, waited: float) -> None:
        """Counts one step, of which `waited` seconds went by until its batch was there."""
        self._steps += 1
        self._waited += waited

    def read(self) -> dict[str, float]:
        """Returns the interval's rates and starts the next; empty when there was no step."""
        if not self._steps:
            return {}
        step_time = (time.perf_counter() - self._start) / self._steps
        rates = {
            "images_per_second": self._batch_size / step_time,
            "step_time": step_time,
            "data_wait": self._waited / self._steps,
        }
        if self._peak is not None:
            rates["mfu"] = self._step_flops / step_time / self._peak
        self.reset()
        return rates
