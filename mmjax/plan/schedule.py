"""The order in which a compiled program runs, and where in it the gradients are reduced over the devices."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmjax.plan import collectives, hlo
from mmjax.plan import kernels as kernels_lib

_PRODUCTS = ("products", "attention")
# Mesh axes that gradients are summed over: those of the batch.
_BATCH_AXES = {"data", "fsdp"}
_SUMS = ("all-reduce", "reduce-scatter")


def walk(module: hlo.Module) -> Iterator[tuple[str, hlo.Instruction]]:
    """All instructions in the order in which one step runs them, loops unrolled: (computation, instruction).

    Of a conditional every branch is run, and a loop of unknown length once, as `Module.executions` counts them. What is
    called by an instruction comes before the instruction itself.
    """

    def enter(name: str) -> Iterator[tuple[str, hlo.Instruction]]:
        computation = module.computations[name]
        for instruction in computation.instructions.values():
            for part, times in module.enters(computation, instruction):
                for _ in range(times):
                    yield from enter(part)
            yield name, instruction

    yield from enter(module.entry)


@dataclasses.dataclass(frozen=True)
class Reduction:
    """One instruction that sums gradients over the batch's devices.

    Attributes:
      computation, name: the instruction.
      collective: what it moves in one execution.
    """

    computation: str
    name: str
    collective: collectives.Collective


def gradient_reductions(
    module: hlo.Module,
    started: Mapping[tuple[str, str], Sequence[collectives.Collective]],
    kernels: Sequence[kernels_lib.Kernel],
) -> list[Reduction]:
    """Finds the reductions of gradients: sums over the batch's axes that no matrix product of the model waits for.

    Other sums over these axes (of activations, in the loss) are read by later products. Names do not show which it is:
    the compiler joins gradients of many parameters into one reduction without a name, and scalars that are logged too.

    Args:
      module: the program.
      started: as `collectives.started` finds them.
      kernels: the program's.
    """
    products = {(k.computation, k.name) for k in kernels if k.kind in _PRODUCTS and _of_model(k.op_name)}
    multiplies = _multiplying(module, products)
    reductions = []
    for (name, instruction), listed in started.items():
        sums = [one for one in listed if one.kind in _SUMS and set(one.axes.rstrip("?").split("+")) & _BATCH_AXES]
        if sums and not _reaches(
            module.computations[name], instruction, lambda user, name=name: multiplies(name, user)
        ):
            reductions += [Reduction(name, instruction, one) for one in sums]
    return reductions


def summary(
    module: hlo.Module, reductions: Sequence[Reduction], kernels: Sequence[kernels_lib.Kernel]
) -> dict[str, Any] | None:
    """Where in the schedule gradients are reduced; None where nothing is.

    Returns:
      `bytes` reduced per step and chip; `by_dtype`, the same by type; `after_last_product`, the share of bytes whose
      reduction starts after the last matrix product of the backward pass; `first`, where the first one starts, as a
      share of the schedule's kernels.
    """
    if not reductions:
        return None
    known = {(kernel.computation, kernel.name): kernel for kernel in kernels}
    backward = {key for key, k in known.items() if k.kind in _PRODUCTS and "transpose(" in k.op_name}
    wanted = {(one.computation, one.name): one.collective for one in reductions}
    position, last_product, starts = 0, -1, []
    for name, instruction in walk(module):
        key = (name, instruction.name)
        if key in wanted:
            starts.append((position, wanted[key].bytes))
        if key in known:
            last_product = position if key in backward else last_product
            position += 1
    by_dtype = collections.Counter()
    control, _, _ = module.executions()
    for one in reductions:
        by_dtype[one.collective.dtype] += one.collective.bytes * control[one.computation]
    total = sum(size for _, size in starts)
    return {
        "bytes": total,
        "by_dtype": dict(by_dtype),
        "after_last_product": sum(size for start, size in starts if start > last_product) / total if total else 0.0,
        "first": min(start for start, _ in starts) / max(1, position),
    }


def _of_model(op_name: str) -> bool:
    """Whether a product belongs to the model's passes rather than to the optimizer (where one has products)."""
    return not op_name or "jvp(" in op_name or "transpose(" in op_name


def _multiplying(module: hlo.Module, products: set[tuple[str, str]]):
    """Returns `computation, instruction -> bool`: whether it is one of the products, or runs one."""
    known: dict[str, bool] = {}

    def inside(name: str) -> bool:
        if name not in known:
            known[name] = any(multiplies(name, i) for i in module.computations[name].instructions.values())
        return known[name]

    def multiplies(name: str, instruction: hlo.Instruction) -> bool:
        if (name, instruction.name) in products:
            return True
        return any(inside(part) for part, _ in module.enters(module.computations[name], instruction))

    return multiplies


def _reaches(computation: hlo.Computation, start: str, wanted) -> bool:
    """Whether an instruction that is `wanted` reads a value, or what is made of it, in the same computation."""
    users = computation.users()
    seen, waiting = set(), [start]
    while waiting:
        for user in users[waiting.pop()]:
            if wanted(user):
                return True
            if user.name not in seen:
                seen.add(user.name)
                waiting.append(user.name)
    return False
