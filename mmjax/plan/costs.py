"""What a compiled program costs one chip: matrix FLOPs, main-memory traffic, and what is kept for the backward pass."""

import collections
import dataclasses
import functools
import math
import re

from mmjax.plan import collectives, hlo

# What moves no bytes: names, views and marks. Loops and calls are counted by what is inside them.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "partition-id",
    "replica-id", "while", "call", "conditional", "async-start", "async-update", "async-done", "add-dependency",
}  # fmt: skip
# The compiler's marks among the custom calls.
_MARKS = {
    "ConcatBitcast", "AllocateBuffer", "AssumeGatherIndicesInBound", "GatherScatterIndicesBitpacked", "Sharding",
    "AsyncCollectiveStart", "AsyncCollectiveDone",
}  # fmt: skip
_SLICES = ("dynamic-slice", "slice", "gather")
_VIEWS = ("bitcast", "reshape", "get-tuple-element", "copy-start", "copy-done", "opt-barrier")
# How many bfloat16 passes a TPU makes for a float32 matrix product of that precision (DEFAULT, HIGH, HIGHEST).
_PASSES = {"default": 1, "high": 3, "highest": 6}


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of one step on one chip.

    Attributes:
      flops: multiplications and additions of the matrix products and convolutions, recomputation included.
      matrix_flops: the same, with a float32 product counted as often as the matrix unit has to pass over it.
      hbm_bytes: read from and written to main memory, each buffer once per instruction that uses it: a lower bound.
      activation_bytes: the most that is held at one time, in main memory, of what the forward pass (or its
        recomputation) leaves for the backward pass.
      unknown_loops: loops whose number of turns is not known; their bodies are counted once.
    """

    flops: float
    matrix_flops: float
    hbm_bytes: float
    activation_bytes: int
    unknown_loops: tuple[str, ...]


def count(module: hlo.Module) -> Costs:
    """Counts a program's costs; loop bodies are multiplied by their turns."""
    control, fused, unknown = module.executions()
    flops = matrix_flops = traffic = 0.0
    for name, times in [*control.items(), *fused.items()]:
        for instruction in module.computations[name].instructions.values():
            once = _matrix_flops(module.computations[name], instruction)
            flops += times * once
            matrix_flops += times * once * _passes(module.computations[name], instruction)
    reader = _Traffic(module)
    for name, times in control.items():
        traffic += times * sum(reader.of(name, i) for i in module.computations[name].instructions.values())
    return Costs(flops, matrix_flops, traffic, _kept(module, module.entry, {}), tuple(unknown))


# -- FLOPs -------------------------------------------------------------------------------------------------------------


def _matrix_flops(computation: hlo.Computation, instruction: hlo.Instruction) -> float:
    """A multiplication and an addition for each product that is not with padding or a hole of dilation."""
    if instruction.opcode == "dot":
        lhs = computation.shape_of(instruction.operands[0])
        contracted = [int(axis) for axis in (instruction.attribute("lhs_contracting_dims") or "").split(",") if axis]
        return 2.0 * math.prod(instruction.shape.dims) * math.prod(lhs.dims[axis] for axis in contracted)
    if instruction.opcode != "convolution":
        return 0.0
    lhs, rhs = (computation.shape_of(operand) for operand in instruction.operands[:2])
    output = next(hlo.leaves(instruction.shape))
    lhs_labels, rhs_labels, out_labels = re.match(r"(\w+)_(\w+)->(\w+)", instruction.attribute("dim_labels")).groups()
    window = _window(instruction.attribute("window") or "")
    groups = int(instruction.attribute("batch_group_count") or 1)
    products = lhs.dims[lhs_labels.index("b")] / groups
    products *= rhs.dims[rhs_labels.index("i")] * rhs.dims[rhs_labels.index("o")]
    for axis in range(sum(label.isdigit() for label in out_labels)):
        sizes = (dims.dims[labels.index(str(axis))] for dims, labels in
                 ((lhs, lhs_labels), (rhs, rhs_labels), (output, out_labels)))  # fmt: skip
        option = {name: values[axis] for name, values in window.items()}
        products *= _meetings(*sizes, **option)
    return 2.0 * products


def _window(text: str) -> dict[str, list]:
    """`size=3x2 stride=1x2 pad=0_0x2_2 lhs_dilate=..`, in the names of `_meetings`."""
    names = {"stride": "stride", "pad": "pad", "lhs_dilate": "lhs_dilation", "rhs_dilate": "rhs_dilation"}
    window = {}
    for part in text.split():
        name, _, values = part.partition("=")
        if name in names:
            window[names[name]] = [int(value.split("_")[0]) for value in values.split("x")]
    return window


@functools.lru_cache
def _meetings(
    size: int, kernel: int, output: int, *, stride: int = 1, pad: int = 0, lhs_dilation: int = 1, rhs_dilation: int = 1
) -> int:
    """Along one axis: how many (output, kernel) positions meet an element of the input.

    XLA writes batched matrix products as convolutions with dilation, in which most positions meet nothing.
    """
    if (stride, pad, lhs_dilation, rhs_dilation) == (1, 0, 1, 1):
        return output * kernel
    met = 0
    for k in range(kernel):
        for o in range(output):
            at = o * stride + k * rhs_dilation - pad
            met += 0 <= at < size * lhs_dilation and at % lhs_dilation == 0 and at // lhs_dilation < size
    return met


def _passes(computation: hlo.Computation, instruction: hlo.Instruction) -> int:
    if instruction.opcode not in ("dot", "convolution"):
        return 1
    precision = (instruction.attribute("operand_precision") or "default").split(",")[0]
    wide = all(computation.shape_of(operand).bits > 16 for operand in instruction.operands[:2])
    return _PASSES.get(precision, 1) if wide else 1


# -- traffic -----------------------------------------------------------------------------------------------------------


def _stored(shape: hlo.Shape) -> int:
    """Bytes of a shape that lie in main memory."""
    return sum(leaf.stored_bytes for leaf in hlo.leaves(shape) if leaf.space == 0)


class _Traffic:
    """Main-memory bytes of instructions; what a fusion does with its operands is looked up inside it, once."""

    def __init__(self, module: hlo.Module):
        self._module = module
        self._insides: dict[str, tuple[dict[int, int | None], int]] = {}

    def of(self, name: str, instruction: hlo.Instruction) -> int:
        """Bytes that one execution of an instruction of the computation `name` reads and writes."""
        computation = self._module.computations[name]
        opcode = instruction.opcode
        shapes = [computation.shape_of(operand) for operand in instruction.operands]
        if opcode in _FREE or instruction.attribute("custom_call_target") in _MARKS:
            return 0
        if opcode == "fusion":
            reads, written = self._fusion(instruction.called()["calls"][0])
            return min(written, _stored(instruction.shape)) + sum(
                min(_stored(shape), _stored(shape) if reads.get(index) is None else reads[index])
                for index, shape in enumerate(shapes)
            )
        if opcode.endswith("-done"):
            # A copy or a slice under way (collectives are counted where they start): from the source of the start.
            start = computation.instructions[instruction.operands[0][0]]
            if opcode.removesuffix("-done") in collectives.KINDS or not start.operands:
                return 0
            size = sum(leaf.stored_bytes for leaf in hlo.leaves(instruction.shape))
            read = size if _stored(computation.shape_of(start.operands[0])) else 0
            return read + _stored(instruction.shape)
        if opcode.endswith("-start"):
            kind = opcode.removesuffix("-start")
            # The start's own shape holds operands as well; an array as large as the operands is written.
            return 2 * sum(map(_stored, shapes)) if kind in collectives.KINDS else 0
        if opcode in _SLICES:
            return 2 * _stored(instruction.shape)
        if opcode == "dynamic-update-slice":
            return 2 * _stored(shapes[1])
        return _stored(instruction.shape) + sum(map(_stored, shapes))

    def _fusion(self, name: str) -> tuple[dict[int, int | None], int]:
        """What a fusion reads of each parameter (None: all of it), and what it writes."""
        if name not in self._insides:
            computation = self._module.computations[name]
            users = computation.users()
            reads = {
                number: self._read(computation, users, parameter)
                for number, parameter in computation.parameters().items()
            }
            root = computation.root
            results = root.operands if root.opcode == "tuple" else ((root.name, None),)
            self._insides[name] = reads, sum(self._written(computation, result) for result in results)
        return self._insides[name]

    def _read(self, computation: hlo.Computation, users: dict, value: hlo.Instruction) -> int | None:
        """Bytes read of a value inside a fusion, None for all; views are followed, slices read what they return."""
        total = 0
        for user in users[value.name]:
            if user.opcode in _SLICES and user.operands[0][0] == value.name:
                read = sum(leaf.stored_bytes for leaf in hlo.leaves(user.shape))
            elif user.opcode in ("bitcast", "reshape", "get-tuple-element"):
                read = self._read(computation, users, user)
            elif user.opcode == "tuple" or "chain_id=" in user.attributes:
                read = 0  # handed on: in place, or an asynchronous collective under way
            elif user.opcode == "dynamic-update-slice" and user.operands[0][0] == value.name:
                read = 0  # in place
            elif user.attribute("custom_call_target") in _MARKS:
                read = 0
            elif user.opcode == "fusion":
                inside, _ = self._fusion(user.called()["calls"][0])
                parts = [inside.get(i) for i, (name, _) in enumerate(user.operands) if name == value.name]
                read = None if None in parts else sum(parts)
            else:
                read = None
            if read is None:
                return None
            total += read
        return total

    def _written(self, computation: hlo.Computation, result: tuple[str, int | None]) -> int:
        """Main-memory bytes written for one result of a fusion."""
        value, shape = computation.instructions[result[0]], computation.shape_of(result)
        while value.opcode in ("bitcast", "reshape", "get-tuple-element") and value.operands:
            value = computation.instructions[value.operands[0][0]]
        if value.opcode == "parameter" or value.attribute("custom_call_target") in _MARKS:
            return 0
        if "chain_id=" in value.attributes:
            return 0
        if value.opcode == "dynamic-update-slice" and _stored(shape):
            update = computation.shape_of(value.operands[1])
            return sum(leaf.stored_bytes for leaf in hlo.leaves(update))
        if value.opcode == "fusion":
            return min(_stored(shape), self._fusion(value.called()["calls"][0])[1])
        return _stored(shape)


# -- activations -------------------------------------------------------------------------------------------------------


def _kept(module: hlo.Module, name: str, known: dict[str, int]) -> int:
    """Bytes held at one time, at most, of what a forward pass leaves for the backward pass that reads it.

    jax marks in `op_name` which pass an instruction belongs to: `jvp(` forward, `transpose(` backward, and
    `rematted_computation` for a forward pass done again inside the backward one. A value made by the first or the
    last and read by a backward instruction of the same computation is kept from the one to the other, in the order of
    the schedule. Inside a loop the same holds for one turn, and is added to what is held while the loop runs.
    """
    if name in known:
        return known[name]
    computation = module.computations[name]
    order = {instruction: index for index, instruction in enumerate(computation.instructions)}
    source = _sources(module, computation)
    last = collections.Counter()  # value -> where a backward instruction reads it last
    for instruction in computation.instructions.values():
        if _is_backward(instruction) and instruction.opcode not in ("tuple", *_VIEWS):
            for operand in instruction.operands:
                for value in source(operand):
                    last[value] = max(last[value], order[instruction.name])
    held = [0] * (len(order) + 1)
    for (made, element), end in last.items():
        maker = computation.instructions[made]
        if _is_forward(maker) and maker.opcode not in ("parameter", "constant"):
            shape = maker.shape if element is None else maker.shape[element]
            held[order[made]] += _stored(shape)
            held[end + 1] -= _stored(shape)
    most, now = 0, 0
    for index, instruction in enumerate(computation.instructions.values()):
        now += held[index]
        inside = [part for parts in instruction.called().values() for part in parts]
        inner = max((_kept(module, part, known) for part in inside), default=0) if instruction.opcode == "while" else 0
        most = max(most, now + inner)
    known[name] = most
    return most


def _is_backward(instruction: hlo.Instruction) -> bool:
    return "transpose(" in instruction.op_name and "rematted_computation" not in instruction.op_name


def _is_forward(instruction: hlo.Instruction) -> bool:
    name = instruction.op_name
    return "rematted_computation" in name or ("jvp(" in name and "transpose(" not in name)


def _sources(module: hlo.Module, computation: hlo.Computation):
    """Returns `operand -> [(instruction, element or None)]`: what an operand is, seen through views and tuples.

    What a loop hands through unchanged is what went in.
    """
    instructions = computation.instructions

    @functools.cache
    def source(operand):
        name, element = operand
        instruction = instructions[name]
        if instruction.opcode == "get-tuple-element":
            return source((instruction.operands[0][0], int(instruction.attribute("index"))))
        if instruction.opcode == "tuple":
            chosen = instruction.operands if element is None else [instruction.operands[element]]
            return [value for one in chosen for value in source(one)]
        if instruction.opcode == "while":
            elements = range(len(instruction.shape)) if element is None else [element]
            return [
                value
                for index in elements
                for value in (
                    source((instruction.operands[0][0], index)) if _unchanged(module, instruction, index)
                    else [(name, index)]
                )
            ]  # fmt: skip
        transparent = instruction.opcode in ("bitcast", "copy-start", "copy-done", "opt-barrier")
        if (
            transparent
            and instruction.operands
            and isinstance(instructions[instruction.operands[0][0]], hlo.Instruction)
        ):
            if instruction.opcode == "copy-start" and element not in (None, 0):
                return [(name, element)]
            inner = instruction.operands[0]
            return source((inner[0], element if instruction.opcode == "opt-barrier" else inner[1]))
        return [(name, element)]

    return source


def _unchanged(module: hlo.Module, loop: hlo.Instruction, index: int) -> bool:
    """Whether a loop hands element `index` through as it came."""
    body = module.computations[loop.called()["body"][0]]
    if body.root.opcode != "tuple":
        return False
    result = body.instructions[body.root.operands[index][0]]
    return (
        result.opcode == "get-tuple-element"
        and body.instructions[result.operands[0][0]].opcode == "parameter"
        and int(result.attribute("index")) == index
    )
