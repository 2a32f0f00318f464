"""Main-memory traffic of a compiled program's instructions."""

from mmjax.plan import collectives, hlo

# What moves no bytes: names, views and marks. Loops and calls are counted by what is inside them.
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "partition-id",
    "replica-id", "while", "call", "conditional", "async-start", "async-update", "async-done", "add-dependency",
}  # fmt: skip
# The compiler's marks among the custom calls.
MARKS = {
    "ConcatBitcast", "AllocateBuffer", "AssumeGatherIndicesInBound", "GatherScatterIndicesBitpacked", "Sharding",
    "AsyncCollectiveStart", "AsyncCollectiveDone",
}  # fmt: skip
SLICES = ("dynamic-slice", "slice", "gather")


def stored(shape: hlo.Shape) -> int:
    """Bytes of a shape that lie in main memory."""
    return sum(leaf.stored_bytes for leaf in hlo.leaves(shape) if leaf.space == 0)


def _array_bytes(shape: hlo.Shape) -> int:
    """Bytes of a shape, wherever it lies."""
    return sum(leaf.stored_bytes for leaf in hlo.leaves(shape))


class Traffic:
    """Main-memory bytes of instructions; what a fusion does with its operands is looked up inside it, once."""

    def __init__(self, module: hlo.Module):
        self._module = module
        self._insides: dict[str, tuple[dict[int, int | None], int]] = {}

    def of(self, name: str, instruction: hlo.Instruction) -> int:
        """Bytes that one execution of an instruction of the computation `name` reads and writes."""
        computation = self._module.computations[name]
        opcode = instruction.opcode
        shapes = [computation.shape_of(operand) for operand in instruction.operands]
        if opcode in FREE or instruction.attribute("custom_call_target") in MARKS:
            return 0
        if opcode in ("fusion", "fusion-start"):
            # A fusion under way (GPUs) is counted where it starts; its shape there holds operands and result.
            result = instruction.shape if opcode == "fusion" else hlo.elements(instruction.shape)[1]
            reads, written = self._fusion(instruction.called()["calls"][0])
            read = [(stored(shape), reads.get(index)) for index, shape in enumerate(shapes)]
            return min(written, stored(result)) + sum(size if part is None else min(size, part) for size, part in read)
        if opcode.endswith("-done"):
            # A copy or a slice under way (collectives are counted where they start): from the source of the start.
            start = computation.instructions[instruction.operands[0][0]]
            kind = opcode.removesuffix("-done")
            if kind in collectives.KINDS or kind == "fusion" or not start.operands:
                return 0
            if kind == "dynamic-update-slice":
                return 2 * stored(computation.shape_of(start.operands[1]))
            read = _array_bytes(instruction.shape) if stored(computation.shape_of(start.operands[0])) else 0
            return read + stored(instruction.shape)
        if opcode.endswith("-start"):
            kind = opcode.removesuffix("-start")
            # The start's own shape holds operands as well; an array as large as the operands is written.
            return 2 * sum(map(stored, shapes)) if kind in collectives.KINDS else 0
        if opcode in SLICES:
            return 2 * stored(instruction.shape)
        if opcode == "dynamic-update-slice":
            return 2 * stored(shapes[1])
        return stored(instruction.shape) + sum(map(stored, shapes))

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
            if user.opcode in SLICES and user.operands[0][0] == value.name:
                read = _array_bytes(user.shape)
            elif user.opcode in ("bitcast", "reshape", "get-tuple-element"):
                read = self._read(computation, users, user)
            elif user.opcode == "tuple" or "chain_id=" in user.attributes:
                read = 0  # handed on: in place, or an asynchronous collective under way
            elif user.opcode == "dynamic-update-slice" and user.operands[0][0] == value.name:
                read = 0  # in place
            elif user.attribute("custom_call_target") in MARKS:
                read = 0
            elif user.opcode == "fusion":
                inside, _ = self._fusion(user.called()["calls"][0])
                parts = [inside.get(i) for i, (name, _) in enumerate(user.operands) if name == value.name]
                known = [part for part in parts if part is not None]
                read = sum(known) if len(known) == len(parts) else None
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
        if value.opcode == "parameter" or value.attribute("custom_call_target") in MARKS:
            return 0
        if "chain_id=" in value.attributes:
            return 0
        if value.opcode == "dynamic-update-slice" and stored(shape):
            return _array_bytes(computation.shape_of(value.operands[1]))
        if value.opcode == "fusion":
            return min(stored(shape), self._fusion(value.called()["calls"][0])[1])
        return stored(shape)
