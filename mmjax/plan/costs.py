"""Costs of a compiled program on one chip: matrix FLOPs, main-memory traffic by class of kernel, and activations."""

import dataclasses

from mmjax.plan import activations, hlo
from mmjax.plan import kernels as kernels_lib


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one step on one chip.

    Attributes:
      flops: multiplications and additions of the matrix products, convolutions and fused attention, recomputation
        included.
      matrix_flops: the same, with a float32 product counted as often as the matrix unit has to pass over it.
      hbm_bytes: read from and written to main memory, each buffer once per instruction that uses it: a lower bound.
      activation_bytes: the most that is held at one time, in main memory, of what the forward pass (or its
        recomputation) leaves for the backward pass.
      unknown_loops: loops whose number of turns is not known; their bodies are counted once.
      kernels: all of them.
    """

    flops: float
    matrix_flops: float
    hbm_bytes: float
    activation_bytes: int
    unknown_loops: tuple[str, ...]
    kernels: tuple[kernels_lib.Kernel, ...] = ()

    def by_class(self) -> list[dict]:
        """Sums by class of kernel: executions, bytes, FLOPs; most bytes first."""
        sums = {}
        for kernel in self.kernels:
            row = sums.setdefault(kernel.kind, dict(kind=kernel.kind, kernels=0, bytes=0, flops=0.0))
            row["kernels"] += kernel.times
            row["bytes"] += kernel.times * kernel.bytes
            row["flops"] += kernel.times * kernel.flops
        return sorted(sums.values(), key=lambda row: -row["bytes"])

    def recomputed(self) -> dict[str, float]:
        """FLOPs that are done again: `policy`, by the model's rematerialisation; `compiler`, for lack of memory.

        XLA recomputes by itself where a program comes near the memory it has: the copies of `NAME` are called
        `NAME.remat2` and so on, and any of them but one does the work again.
        """
        by, seen = {"policy": 0.0, "compiler": 0.0}, set()
        for kernel in self.kernels:
            original = kernel.computation, kernel.name.partition(".remat")[0]
            if original in seen:
                by["compiler"] += kernel.times * kernel.flops
            elif "rematted_computation" in kernel.op_name:
                by["policy"] += kernel.times * kernel.flops
            seen.add(original)
        return by


def count(module: hlo.Module, float32_passes: float = 0.0) -> Costs:
    """Counts a program's costs; loop bodies are multiplied by their turns.

    Args:
      module: the parsed program.
      float32_passes: as `matmuls.passes` takes it.
    """
    kernels = tuple(kernels_lib.find(module, float32_passes))
    total = lambda field: float(sum(kernel.times * getattr(kernel, field) for kernel in kernels))
    kept = activations.kept(module, module.entry, {})
    _, _, unknown = module.executions()
    return Costs(total("flops"), total("matrix_flops"), total("bytes"), kept, tuple(unknown), kernels)
