"""Activations that the forward pass of a compiled program keeps in main memory for the backward pass."""

import collections
import functools

from mmjax.plan import hlo, traffic

_VIEWS = ("bitcast", "reshape", "get-tuple-element", "copy-start", "copy-done", "opt-barrier")


def kept(module: hlo.Module, name: str, known: dict[str, int]) -> int:
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
            shape = maker.shape if element is None else hlo.elements(maker.shape)[element]
            held[order[made]] += traffic.stored(shape)
            held[end + 1] -= traffic.stored(shape)
    most, now = 0, 0
    for index, instruction in enumerate(computation.instructions.values()):
        now += held[index]
        inside = [part for parts in instruction.called().values() for part in parts]
        inner = max((kept(module, part, known) for part in inside), default=0) if instruction.opcode == "while" else 0
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
            return source((instruction.operands[0][0], int(instruction.required("index"))))
        if instruction.opcode == "tuple":
            chosen = instruction.operands if element is None else [instruction.operands[element]]
            return [value for one in chosen for value in source(one)]
        if instruction.opcode == "while":
            elements = range(len(hlo.elements(instruction.shape))) if element is None else [element]
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
        and int(result.required("index")) == index
    )
