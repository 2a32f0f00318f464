"""How fast: images per second, step time, time waiting for data, and MFU where the device's peak is known."""

import time

# Dense bfloat16 peak of one device in FLOP/s, by a part of jax's device_kind; vendors' data sheets. First match wins.
_PEAKS = (
    ("TPU v6", 918e12),
    ("TPU v5p", 459e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
    ("TPU v3", 61.5e12),  # per core, which is what jax calls a device
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("V100", 125e12),
)


def peak_flops(device_kind: str) -> float | None:
    """A device's dense bfloat16 peak in FLOP/s, or None when it is not in the table (a CPU)."""
    return next((peak for name, peak in _PEAKS if name in device_kind), None)


class Meter:
    """Rates between two readings.

    Args:
      batch_size: pairs per step.
      flops_per_example: of a forward pass; a training step is counted as three of them, recomputation not counted.
      devices: how many.
      peak: of one device in FLOP/s, or None.
    """

    def __init__(self, batch_size: int, flops_per_example: float, devices: int, peak: float | None):
        self._batch_size = batch_size
        self._step_flops = 3.0 * flops_per_example * batch_size
        self._peak = None if peak is None else peak * devices
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
