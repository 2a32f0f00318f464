"""Text of a compiled program, parsed: computations, instructions, shapes, and how often each one is executed.

The text (`compiled.as_text()`) is what XLA will run on one chip, after partitioning and fusion. Its grammar is XLA's
own (xla/hlo/parser); only what costs are counted from is read here.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

# Opcodes of loops and calls: the computations that they name are what they run; the program counter enters those.
_CONTROL = ("while", "call", "conditional", "async-start")
_LEAF = re.compile(r"([a-z][a-z0-9]*)\[([0-9,<=]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"(ENTRY\s+)?%?([\w.\-]+)\s.*\{\s*$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPERAND = re.compile(r"%([\w.\-]+)(?:#(\d+))?")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation|branch_computations|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)


@dataclasses.dataclass(frozen=True)
class ArrayType:
    """One array on one chip.

    Attributes:
      dtype: XLA's name, such as `bf16`.
      dims: logical sizes.
      space: memory space; 0 is the chip's main memory (HBM), others are on the chip itself or the host's.
      elements: as laid out: a TPU pads the last dimensions to whole tiles.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int
    elements: int

    @property
    def bits(self) -> int:
        """Of one element."""
        if self.dtype == "pred":
            return 8
        digits = re.match(r"[a-z]+(\d+)", self.dtype)  # f8e4m3fn has 8; a token has none
        return int(digits[1]) if digits else 0

    @property
    def bytes(self) -> int:
        """Without padding."""
        return math.prod(self.dims) * self.bits // 8

    @property
    def stored_bytes(self) -> int:
        """With padding."""
        return self.elements * self.bits // 8


Shape = ArrayType | tuple["Shape", ...]


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in its computation.
      shape: of the result.
      opcode: such as `fusion`.
      operands: names of other instructions, each with the element of its tuple that is meant, or None.
      argument: the text between the parentheses, for constants and parameter numbers.
      attributes: the text after them.
    """

    name: str
    shape: Shape
    opcode: str
    operands: tuple[tuple[str, int | None], ...]
    argument: str
    attributes: str

    def attribute(self, name: str) -> str | None:
        """The value of `name=value` or `name={value}`; quotes are removed, inner braces are not understood."""
        match = re.search(rf'\b{name}=(?:\{{([^}}]*)\}}|"([^"]*)"|([^\s,]+))', self.attributes)
        return None if match is None else next(group for group in match.groups() if group is not None)

    def required(self, name: str) -> str:
        """The value of an attribute that such an instruction has.

        Raises:
          ValueError: this one has not.
        """
        value = self.attribute(name)
        if value is None:
            raise ValueError(f"{self.opcode} {self.name} without {name}")
        return value

    @property
    def op_name(self) -> str:
        """Where in the Python program it comes from, as jax wrote it; empty for what the compiler added."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""

    def called(self) -> dict[str, tuple[str, ...]]:
        """Computations it names, by attribute."""
        return {
            name: tuple(re.findall(r"[\w.\-]+", text.replace("%", " ")))
            for name, text in _CALLED.findall(self.attributes)
        }


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order in which they are scheduled."""

    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    def parameters(self) -> dict[int, Instruction]:
        """Parameters by number."""
        return {int(i.argument): i for i in self.instructions.values() if i.opcode == "parameter"}

    def users(self) -> dict[str, list[Instruction]]:
        """Who reads each instruction."""
        users = collections.defaultdict(list)
        for instruction in self.instructions.values():
            for name in dict.fromkeys(name for name, _ in instruction.operands):
                users[name].append(instruction)
        return users

    def shape_of(self, operand: tuple[str, int | None]) -> Shape:
        """Shape of an operand."""
        shape = self.instructions[operand[0]].shape
        return shape if operand[1] is None else elements(shape)[operand[1]]


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
      computations: by name.
      entry: the name of the one that is run.
    """

    computations: dict[str, Computation]
    entry: str

    def executions(self) -> tuple[dict[str, int], dict[str, int], list[str]]:
        """How often each computation is run in one execution of the program.

        Returns:
          Times per computation entered by control flow (entry, loop bodies, calls); times per computation that is
          the inside of a fusion; names of loops whose number of turns the text does not have, counted once.
        """
        control, fused, unknown = collections.Counter(), collections.Counter(), []

        def enter(name: str, times: int, inside_fusion: bool) -> None:
            (fused if inside_fusion else control)[name] += times
            computation = self.computations[name]
            for instruction in computation.instructions.values():
                if instruction.opcode in ("fusion", "fusion-start"):
                    enter(instruction.called()["calls"][0], times, True)
                    continue
                if instruction.opcode == "while" and self.turns(computation, instruction) is None:
                    unknown.append(instruction.name)
                for part, turns in self.enters(computation, instruction):
                    enter(part, times * turns, inside_fusion)

        enter(self.entry, 1, False)
        return dict(control), dict(fused), unknown

    def enters(self, computation: Computation, instruction: Instruction) -> list[tuple[str, int]]:
        """Computations that control flow enters at an instruction, in order, each with how often.

        Of a conditional every branch; a loop of unknown length once.
        """
        if instruction.opcode not in _CONTROL:
            return []
        called = instruction.called()
        if instruction.opcode == "while":
            turns = self.turns(computation, instruction)
            return [(part, 1 if turns is None else turns) for part in (*called["condition"], *called["body"])]
        return [(part, 1) for parts in called.values() for part in parts]

    def looped(self) -> set[str]:
        """Computations entered by control flow from inside a loop, bodies and conditions included."""
        looped = set()

        def enter(name: str, inside: bool) -> None:
            if inside:
                looped.add(name)
            computation = self.computations[name]
            for instruction in computation.instructions.values():
                for part, _ in self.enters(computation, instruction):
                    enter(part, inside or instruction.opcode == "while")

        enter(self.entry, False)
        return looped

    def turns(self, computation: Computation, loop: Instruction) -> int | None:
        """How often a `while` goes round, or None.

        XLA writes it where it knows it; else it is the bound of the comparison in the condition, less the counter's
        start: jax's scans count up by one.
        """
        known = re.search(r"known_trip_count\W+n\W+(\d+)", loop.attributes)
        if known:
            return int(known[1])
        condition = self.computations[loop.called()["condition"][0]]
        names = [condition.name] + [
            i.called()["calls"][0] for i in condition.instructions.values() if i.opcode == "fusion"
        ]
        inside = [i for name in names for i in self.computations[name].instructions.values()]
        bounds = [int(i.argument) for i in inside if i.opcode == "constant" and re.fullmatch(r"\d+", i.argument)]
        compares = [i for i in inside if i.opcode == "compare"]
        if len(bounds) != 1 or len(compares) != 1 or compares[0].attribute("direction") not in ("LT", "GT"):
            return None
        return max(0, bounds[0] - self._start(computation, loop, condition))

    def _start(self, computation: Computation, loop: Instruction, condition: Computation) -> int:
        """The counter's first value: the constant that enters the loop where the condition reads."""
        read = [int(i.required("index")) for i in condition.instructions.values() if i.opcode == "get-tuple-element"]
        initial = computation.instructions[loop.operands[0][0]]
        if len(read) == 1 and initial.opcode == "tuple":
            source = computation.instructions[initial.operands[read[0]][0]]
            while source.opcode in ("copy", "bitcast") and source.operands:
                source = computation.instructions[source.operands[0][0]]
            if source.opcode == "constant" and re.fullmatch(r"\d+", source.argument):
                return int(source.argument)
        return 0


def elements(shape: Shape) -> tuple[Shape, ...]:
    """The elements of a tuple's shape.

    Raises:
      ValueError: it is that of one array.
    """
    if isinstance(shape, ArrayType):
        raise ValueError(f"{shape.dtype}{list(shape.dims)} where a tuple was expected")
    return shape


def array(shape: Shape) -> ArrayType:
    """The shape of one array.

    Raises:
      ValueError: it is a tuple's.
    """
    if not isinstance(shape, ArrayType):
        raise ValueError(f"a tuple of {len(shape)} where an array was expected")
    return shape


def search(pattern: str, text: str) -> re.Match[str]:
    """The first match of a pattern that such a text has.

    Raises:
      ValueError: this one has not.
    """
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"no {pattern} in {text[:80]!r}")
    return match


def leaves(shape: Shape) -> Iterator[ArrayType]:
    """The arrays of a shape, in order."""
    if isinstance(shape, ArrayType):
        yield shape
    else:
        for part in shape:
            yield from leaves(part)


def parse(text: str) -> Module:
    """Parses the text of a module.

    Args:
      text: `compiled.as_text()`.

    Raises:
      ValueError: there is no entry computation in it, or one has no result.
    """
    computations: dict[str, Computation] = {}
    body: dict[str, Instruction] = {}
    entry = name = root = None
    for line in text.splitlines():
        if line.startswith("}"):
            if name is not None:
                if root is None:
                    raise ValueError(f"computation {name} has no ROOT")
                computations[name] = Computation(name, body, root)
            name = None
        elif line[:1] not in ("", " ", "\t"):
            header = _HEADER.match(line)
            if header and not line.startswith("HloModule"):
                name, body, root = header[2], {}, None
                entry = name if header[1] else entry
        elif name is not None and (match := _INSTRUCTION.match(line)):
            instruction = _instruction(match[2], match[3])
            body[instruction.name] = instruction
            root = instruction if match[1] else root
    if entry is None:
        raise ValueError("no ENTRY computation in the program's text")
    return Module(computations, entry)


def _instruction(name: str, text: str) -> Instruction:
    text = re.sub(r"/\*.*?\*/", "", text)
    shape, position = _shape(text, 0)
    opening = text.index("(", position)
    closing = _closing(text, opening)
    argument = text[opening + 1 : closing]
    operands = tuple((operand, int(index) if index else None) for operand, index in _OPERAND.findall(argument))
    return Instruction(name, shape, text[position:opening].strip(), operands, argument.strip(), text[closing + 1 :])


def _closing(text: str, opening: int) -> int:
    """Where the parenthesis that opens at `opening` is closed."""
    depth = 0
    for position in range(opening, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0:
            return position
    raise ValueError(f"unbalanced parentheses in {text[:80]!r}")


def _shape(text: str, position: int) -> tuple[Shape, int]:
    """Reads a shape; returns it and where it ends."""
    while text[position] == " ":
        position += 1
    if text[position] != "(":
        match = _LEAF.match(text, position)
        if match is None:
            raise ValueError(f"not a shape: {text[position : position + 80]!r}")
        return _leaf(*match.groups()), match.end()
    parts, position = [], position + 1
    while text[position] != ")":
        part, position = _shape(text, position)
        parts.append(part)
        while text[position] in ", ":
            position += 1
    return tuple(parts), position + 1


def _leaf(dtype: str, sizes: str, layout: str | None) -> ArrayType:
    dims = tuple(int(size.strip("<=")) for size in sizes.split(",") if size)
    order, _, rest = (layout or "").partition(":")
    space = re.search(r"S\((\d+)\)", rest)
    tile = re.search(r"T\(([\d,]+)\)", rest)
    elements = math.prod(dims)
    if tile:
        physical = [dims[int(axis)] for axis in reversed([axis for axis in order.split(",") if axis])]
        steps = [int(size) for size in tile[1].split(",")]
        physical = [1] * (len(steps) - len(physical)) + physical
        for axis, step in zip(range(-len(steps), 0), steps, strict=True):
            physical[axis] = -(-physical[axis] // step) * step
        elements = math.prod(physical)
    return ArrayType(dtype, dims, int(space[1]) if space else 0, elements)
