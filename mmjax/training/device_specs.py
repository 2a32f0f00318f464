"""Data sheets of devices: the one table that rates, MFU and plans are taken from."""

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
      network_bandwidth: bytes/s that one device can send to another host, where hosts have slower links; 0 where all
        links are alike (TPUs).
      float32_flops: FLOP/s of matrix products in full float32 where the matrix units have none (NVIDIA); 0 where the
        matrix units pass over them several times (TPUs).
      sustained: what the step's kernels reach of these rates.
    """

    kind: str
    flops: float
    memory: float = 0.0
    memory_bandwidth: float = 0.0
    link_bandwidth: float = 0.0
    network_bandwidth: float = 0.0
    float32_flops: float = 0.0
    sustained: "Sustained" = dataclasses.field(default_factory=lambda: ASSUMED)


@dataclasses.dataclass(frozen=True)
class Sustained:
    """Shares of a data sheet's rates that the kernels of a transformer's step reach.

    Attributes:
      matrix: matrix products, of `flops`.
      attention: fused attention of 50 to 257 tokens and heads of 64, of `flops`.
      memory: kernels bound by memory, of `memory_bandwidth`.
      links: collectives, of `link_bandwidth` and `network_bandwidth`.
      measured: whether on that device.
    """

    matrix: float
    attention: float
    memory: float
    links: float
    measured: bool


# One H100 80GB HBM3, measured: products of a ViT's shapes 0.68 PFLOP/s (798 TFLOP/s on 8192^3), copies 3.0 TB/s. The
# other two are estimates: 6 ms for the attention of a B/16 step of 256 pairs, and links at 80 %.
_H100 = Sustained(matrix=0.68e15 / 989e12, attention=0.24, memory=3.0 / 3.35, links=0.8, measured=True)
ASSUMED = dataclasses.replace(_H100, measured=False)

GIB = 2.0**30
# First match wins. TPUs: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}; what is called GB there is GiB: libtpu lets a
# program have 15.75 GiB of a v5e's memory and 95.74 of a v5p's.
# NVIDIA: FLOPs without sparsity and bandwidths from the data sheets "NVIDIA A100 80GB SXM" (312 TFLOP/s, float32 19.5;
# 2,039 GB/s; NVLink 600 GB/s both ways), "NVIDIA H100 SXM" (989, 67; 3.35 TB/s; 900 GB/s), "NVIDIA H200 SXM" (989, 67;
# 4.8 TB/s; 900 GB/s), "NVIDIA HGX B200" (18 PFLOP/s and 600 TFLOP/s of eight; 7.7 TB/s; 1.8 TB/s). Memory is what the
# driver reports, as in mmjax/plan/gpu_targets.py. Networks are those of the DGX systems: a 200 Gb/s port a GPU for the
# A100, 400 Gb/s for the others.
DEVICES = (
    Device("TPU v6", 918e12, 32 * GIB, 1638e9, 400e9),
    Device("TPU v5p", 459e12, 95.74 * GIB, 2765e9, 600e9),
    Device("TPU v5 lite", 197e12, 15.75 * GIB, 819e9, 200e9),
    Device("TPU v5e", 197e12, 15.75 * GIB, 819e9, 200e9),
    Device("TPU v5", 459e12, 95.74 * GIB, 2765e9, 600e9),  # what jax calls a v5p
    Device("TPU v4", 275e12, 32 * GIB, 1200e9, 300e9),
    Device("TPU v3", 61.5e12),  # per core, which is what jax calls a device
    Device("H200", 989e12, 151397597184, 4.8e12, 450e9, 50e9, 67e12),
    Device("H100 80GB HBM3", 989e12, 84942979072, 3.35e12, 450e9, 50e9, 67e12, _H100),
    Device("H100 PCIe", 756e12),
    Device("H100", 989e12),
    Device("B200", 2250e12, 191514411008, 7.7e12, 900e9, 50e9, 75e12),
    Device("A100-SXM4-80GB", 312e12, 85100068864, 2.039e12, 300e9, 25e9, 19.5e12),
    Device("A100", 312e12),
    Device("L40S", 362e12),
    Device("L40", 181e12),
    Device("L4", 121e12),
    Device("V100", 125e12),
)


def find(device_kind: str) -> Device | None:
    """The table's entry for jax's `device_kind`, or None when there is none (a CPU)."""
    return next((device for device in DEVICES if device.kind in device_kind), None)


def peak_flops(device_kind: str) -> float | None:
    """A device's dense bfloat16 peak in FLOP/s, or None when it is not in the table (a CPU)."""
    device = find(device_kind)
    return None if device is None else device.flops
