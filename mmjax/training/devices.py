"""What devices can do, from their vendors' data sheets: the one table that rates, MFU and plans are taken from."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Device:
    """One device as jax counts them.

    Attributes:
      kind: a part of jax's `device_kind`.
      flops: dense bfloat16 peak in FLOP/s.
      memory: main memory in bytes; 0 where no plan needs it.
      memory_bandwidth: bytes/s.
      link_bandwidth: bytes/s that it can send to its neighbours over all links together (half of the data sheet's
        figure where that is for both directions).
    """

    kind: str
    flops: float
    memory: float = 0.0
    memory_bandwidth: float = 0.0
    link_bandwidth: float = 0.0


GIB = 2.0**30
# First match wins. TPUs: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; what is called GB there is GiB: libtpu lets a
# program have 15.75 GiB of a v5e's memory and 95.74 of a v5p's.
DEVICES = (
    Device("TPU v6", 918e12, 32 * GIB, 1638e9, 400e9),
    Device("TPU v5p", 459e12, 95.74 * GIB, 2765e9, 600e9),
    Device("TPU v5 lite", 197e12, 15.75 * GIB, 819e9, 200e9),
    Device("TPU v5e", 197e12, 15.75 * GIB, 819e9, 200e9),
    Device("TPU v5", 459e12, 95.74 * GIB, 2765e9, 600e9),  # what jax calls a v5p
    Device("TPU v4", 275e12, 32 * GIB, 1200e9, 300e9),
    Device("TPU v3", 61.5e12),  # per core, which is what jax calls a device
    Device("H200", 989e12),
    Device("H100 PCIe", 756e12),
    Device("H100", 989e12),
    Device("B200", 2250e12),
    Device("A100", 312e12),
    Device("L40S", 362e12),
    Device("L40", 181e12),
    Device("L4", 121e12),
    Device("V100", 125e12),
)


def find(device_kind: str) -> Device | None:
    """The table's entry for jax's `device_kind`, or None when there is none (a CPU)."""
    return next((device for device in DEVICES if device.kind in device_kind), None)
