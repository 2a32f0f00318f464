"""Kernels of a compiled program: their class, the bytes they move and the products they compute."""

import dataclasses
from collections.abc import Iterator

from mmjax.plan import collectives, hlo, matmuls, traffic

# Classes, and what they are called. A kernel is of the first one that applies.
CLASSES = {
    "collectives": "collectives",
    "products": "matrix products",
    "attention": "fused attention",
    "scatters": "scatter, gather, sort",
    "prefetches": "copies between memories",
    "stacks": "in and out of loop stacks",
    "reductions": "reductions",
    "fills": "fills with a constant",
    "copies": "copies, transposes, slices",
    "elementwise": "elementwise",
    "other": "other calls",
}
_SCATTERS = {"scatter", "gather", "sort", "select-and-scatter"}
_REDUCTIONS = {"reduce", "reduce-window"}
# What only moves: with nothing else in it, a kernel computes nothing.
_MOVES = {"copy", "transpose", "reshape", "slice", "dynamic-slice", "dynamic-update-slice", "concatenate", "pad",
          "reverse", "broadcast", "iota"}  # fmt: skip
# What stands inside fusions without doing anything to an array.
_PASSIVE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "fusion", "fusion-start"}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One instruction that runs as a kernel.

    Attributes:
      name: of the instruction; unique in its computation.
      computation: what it stands in.
      kind: a name in `CLASSES`.
      times: executions per step.
      bytes: of one execution, read from and written to main memory.
      flops: of one execution.
      matrix_flops: the same, with a float32 product counted as often as the matrix units pass over it.
      op_name: where it comes from in the Python program, as jax wrote it.
    """

    name: str
    computation: str
    kind: str
    times: int
    bytes: int
    flops: float
    matrix_flops: float
    op_name: str


def find(module: hlo.Module, float32_passes: float = 0.0) -> Iterator[Kernel]:
    """Lists a program's kernels in the order of the schedule, computation by computation.

    Args:
      module: the parsed program.
      float32_passes: as `matmuls.passes` takes it.
    """
    control, _, _ = module.executions()
    looped = module.looped()
    reader, counter = traffic.Traffic(module), _Products(module, float32_passes)
    for name, times in control.items():
        computation = module.computations[name]
        for instruction in computation.instructions.values():
            if instruction.opcode in traffic.FREE or instruction.attribute("custom_call_target") in traffic.MARKS:
                continue
            kind = classify(module, computation, instruction, name in looped)
            if kind is None:
                continue
            flops, matrix_flops = counter.of(computation, instruction)
            size = reader.of(name, instruction)
            yield Kernel(instruction.name, name, kind, times, size, flops, matrix_flops, instruction.op_name)


class _Products:
    """FLOPs of instructions, those inside of fusions included."""

    def __init__(self, module: hlo.Module, float32_passes: float):
        self._module = module
        self._float32_passes = float32_passes
        self._insides: dict[str, tuple[float, float]] = {}

    def of(self, computation: hlo.Computation, instruction: hlo.Instruction) -> tuple[float, float]:
        """FLOPs, and FLOPs times passes."""
        if instruction.opcode in ("fusion", "fusion-start"):
            return self._inside(instruction.called()["calls"][0])
        flops = matmuls.flops(computation, instruction)
        return flops, flops and flops * matmuls.passes(computation, instruction, self._float32_passes)

    def _inside(self, name: str) -> tuple[float, float]:
        if name not in self._insides:
            computation = self._module.computations[name]
            counted = [self.of(computation, instruction) for instruction in computation.instructions.values()]
            self._insides[name] = sum(one for one, _ in counted), sum(one for _, one in counted)
        return self._insides[name]


def classify(
    module: hlo.Module, computation: hlo.Computation, instruction: hlo.Instruction, looped: bool
) -> str | None:
    """The class of a kernel, a name in `CLASSES`; None for the half of a pair that is counted at the other.

    Args:
      module: the program.
      computation: what the instruction stands in.
      instruction: one that is not free.
      looped: whether the computation is run by a loop, whose stacks it may read and write.
    """
    opcode = instruction.opcode
    if opcode.removesuffix("-start") in collectives.KINDS:
        return "collectives"
    base = opcode.removesuffix("-done")
    if base != opcode:  # asynchronous copies and slices count where they end, as their bytes do
        if base in collectives.KINDS or base == "fusion":
            return None
        start = computation.instructions[instruction.operands[0][0]]
        spaces = {leaf.space for shape in (instruction.shape, *map(computation.shape_of, start.operands[:1]))
                  for leaf in hlo.leaves(shape)}  # fmt: skip
        if len(spaces) > 1:
            return "prefetches"
        return "stacks" if looped and "dynamic" in base else "copies"
    if opcode.endswith("-start") and opcode != "fusion-start":
        return None
    inside = list(_inside(module, instruction))
    opcodes = {one.opcode for one in inside}
    if any(one.opcode.removesuffix("-start") in collectives.KINDS for one in inside):
        return "products" if any(map(matmuls.is_product, inside)) else "collectives"
    if any(map(matmuls.is_product, inside)):
        return "products"
    if any(map(matmuls.is_attention, inside)):
        return "attention"
    if opcodes & _SCATTERS or any("Sort" in (one.attribute("custom_call_target") or "") for one in inside):
        return "scatters"
    arrays = {one.opcode for one in inside if any(leaf.elements > 1 for leaf in hlo.leaves(one.shape))}
    if looped and ("dynamic-update-slice" in opcodes or ("dynamic-slice" in arrays and arrays <= _MOVES)):
        return "stacks"
    if opcodes & _REDUCTIONS:
        return "reductions"
    if arrays and arrays <= _MOVES:
        read = [leaf for operand in instruction.operands for leaf in hlo.leaves(computation.shape_of(operand))]
        return "copies" if any(leaf.elements > 1 for leaf in read) else "fills"
    return "other" if "custom-call" in opcodes else "elementwise"


def _inside(module: hlo.Module, instruction: hlo.Instruction) -> Iterator[hlo.Instruction]:
    """An instruction, or all that a fusion does, in nested fusions too."""
    if instruction.opcode in ("fusion", "fusion-start"):
        for inner in module.computations[instruction.called()["calls"][0]].instructions.values():
            yield from _inside(module, inner)
    elif instruction.opcode not in _PASSIVE:
        yield instruction
