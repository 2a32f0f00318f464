"""Collectives of a compiled program: what they move, how often, and along which axes of the mesh."""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from mmjax.plan import hlo

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation.

    Attributes:
      kind: a name in `KINDS`.
      axes: the mesh axes it runs along, joined by `+`; `?` where the groups are not whole axes.
      dtype: XLA's name of what it moves, several joined by `+`.
      group: chips that take part in one exchange.
      hosts: over how many hosts they are spread.
      executions: times per step.
      bytes: the size per chip of the whole array in one execution: what is there after an all-gather, before a
        reduce-scatter, before and after the others. Without padding.
    """

    kind: str
    axes: str
    dtype: str
    group: int
    hosts: int
    executions: int
    bytes: int

    @property
    def sent_bytes(self) -> float:
        """Bytes that each chip must at least send in all executions.

        Of the best possible algorithms: (n - 1)/n of the array, twice that for an all-reduce, all of it for a permute.
        """
        return self.executions * self.bytes * self._share(self.group)

    @property
    def network_bytes(self) -> float:
        """Those of `sent_bytes` that leave the host, of a chip's share of its host's network.

        Chips of a host first exchange among themselves, and each sends its part of the result to the other hosts. Of an
        all-to-all what is for other hosts leaves; of a permute all, where any pair is on two hosts: the slowest counts.
        """
        if self.hosts == 1:
            return 0.0
        if self.kind == "collective-permute":
            return self.sent_bytes
        if self.kind == "all-to-all":
            return self.executions * self.bytes * (self.hosts - 1) / self.hosts
        return self.executions * self.bytes * self._share(self.hosts) * self.hosts / self.group

    def _share(self, members: int) -> float:
        share = (members - 1) / members
        return {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}.get(self.kind, share)


def find(module: hlo.Module, mesh_shape: Mapping[str, int], hosts: Sequence[int] | None = None) -> list[Collective]:
    """Lists the collectives of a program, largest total first; those within one chip are left out.

    Args:
      module: the parsed program.
      mesh_shape: the mesh's axes and sizes, in order; partition i of the program is device i of the flattened mesh.
      hosts: the host of each device of the flattened mesh, where hosts have slower links; None where all are alike.
    """
    control, _, _ = module.executions()
    counts = collections.Counter()
    for (name, _), listed in started(module, mesh_shape, hosts).items():
        for collective in listed:
            counts[collective] += control[name]
    listed = [dataclasses.replace(collective, executions=times) for collective, times in counts.items() if times]
    return sorted(listed, key=lambda c: (-c.executions * c.bytes, c.kind, c.axes, c.dtype))


def started(
    module: hlo.Module, mesh_shape: Mapping[str, int], hosts: Sequence[int] | None = None
) -> dict[tuple[str, str], list[Collective]]:
    """What each instruction of the control flow, as (computation, name), starts in one execution, where it does.

    Args: as `find` takes them.
    """
    by_instruction = {}
    for name in module.executions()[0]:
        for instruction in module.computations[name].instructions.values():
            if listed := _started_by(module, name, instruction, mesh_shape, hosts):
                by_instruction[name, instruction.name] = listed
    return by_instruction


def _started_by(
    module: hlo.Module,
    name: str,
    instruction: hlo.Instruction,
    mesh_shape: Mapping[str, int],
    hosts: Sequence[int] | None,
) -> list[Collective]:
    """Collectives that an instruction of the computation `name` starts, inside of fusions too."""
    if instruction.opcode in ("fusion", "fusion-start"):
        inner = instruction.called()["calls"][0]
        computation = module.computations[inner]
        reduces = {i.name for i in computation.instructions.values() if _kind(i) == "all-reduce"}
        scatters = bool(reduces) and _scatters(computation, reduces)
        # An asynchronous collective that TPUs spread over the fusions it overlaps with stands in each of them; it is
        # the same one, started in the fusion that has this custom call.
        starts = any(
            i.attribute("custom_call_target") == "AsyncCollectiveStart" for i in computation.instructions.values()
        )
        inner_collectives = []
        for one in computation.instructions.values():
            if "chain_id=" not in one.attributes or starts:
                inner_collectives += _started_by(module, inner, one, mesh_shape, hosts)
        # How TPUs write a reduce-scatter: a fusion of an all-reduce and the slice that is kept.
        kinds = {"all-reduce": "reduce-scatter"} if scatters else {}
        return [dataclasses.replace(one, kind=kinds.get(one.kind, one.kind)) for one in inner_collectives]
    kind = _kind(instruction)
    if kind is None:
        return []
    groups, axes, group = _groups(instruction, mesh_shape)
    if group == 1:
        return []
    shapes = map(module.computations[name].shape_of, instruction.operands)
    arrays = [leaf for shape in shapes for leaf in hlo.leaves(shape)]
    size = sum(leaf.bytes for leaf in arrays) * (group if kind == "all-gather" else 1)
    dtype = "+".join(sorted({leaf.dtype for leaf in arrays}))
    spread = 1 if hosts is None else max(len({hosts[device] for device in members}) for members in groups.tolist())
    return [Collective(kind, axes, dtype, group, spread, 1, size)]


def totals(listed: list[Collective]) -> list[dict]:
    """Sums by kind, axes and type: executions, bytes of arrays, bytes sent per chip; largest first."""
    sums = {}
    for c in listed:
        start = dict(kind=c.kind, axes=c.axes, dtype=c.dtype, executions=0, bytes=0, sent_bytes=0.0, network_bytes=0.0)
        row = sums.setdefault((c.kind, c.axes, c.dtype), start)
        row["executions"] += c.executions
        row["bytes"] += c.executions * c.bytes
        row["sent_bytes"] += c.sent_bytes
        row["network_bytes"] += c.network_bytes
    return sorted(sums.values(), key=lambda row: -row["bytes"])


def _kind(instruction: hlo.Instruction) -> str | None:
    """The collective that starts here; the `-done` half of a pair is not one."""
    opcode = instruction.opcode.removesuffix("-start")
    return opcode if opcode in KINDS else None


def _scatters(computation: hlo.Computation, reduces: set[str]) -> bool:
    """Whether all that is read of an all-reduce inside a fusion is a slice of it."""
    users = computation.users()
    read = [user for name in reduces for user in users[name]]
    while any(user.opcode in ("bitcast", "reshape") for user in read):
        read = [
            after for user in read for after in (users[user.name] if user.opcode in ("bitcast", "reshape") else [user])
        ]
    return bool(read) and all(user.opcode == "dynamic-slice" for user in read)


def _groups(instruction: hlo.Instruction, mesh_shape: Mapping[str, int]) -> tuple[np.ndarray, str, int]:
    """Groups of a collective (of a permute its pairs), their axes and size, from any of the forms XLA writes."""
    devices = math.prod(mesh_shape.values())
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", instruction.attributes)
    if pairs:
        moves = [tuple(map(int, pair)) for pair in re.findall(r"\{(\d+),(\d+)\}", pairs[1])]
        moves = np.array([pair for pair in moves if pair[0] != pair[1]] or [[0, 0]])
        axes = _varying(moves, mesh_shape)
        return moves, "+".join(axes) or "none", math.prod(mesh_shape[axis] for axis in axes)
    groups = replica_groups(instruction.attributes, devices)
    axes = _varying(groups, mesh_shape)
    spans_axes = math.prod(mesh_shape[axis] for axis in axes) == groups.shape[1]
    return groups, ("+".join(axes) or "none") + ("" if spans_axes else "?"), groups.shape[1]


def _varying(groups: np.ndarray, mesh_shape: Mapping[str, int]) -> list[str]:
    """Axes along which the members of a group differ."""
    coordinates = np.unravel_index(groups, tuple(mesh_shape.values()))
    return [axis for axis, where in zip(mesh_shape, coordinates, strict=True) if (where != where[:, :1]).any()]


def replica_groups(attributes: str, devices: int) -> np.ndarray:
    """Reads `replica_groups=` in any of XLA's forms into device numbers, [groups, members].

    `{{0,1},{2,3}}` lists them, `{}` is all devices; `[4,2]<=[2,4]T(1,0)` reshapes and transposes 0, 1, 2, ...;
    `mesh['a'=4,'b'=2] {'a'}` names the axes of a mesh of XLA's own (device order by `device_ids=`, part of an axis as
    `'a':(2)2`: size 2 after a major part of 2).

    Raises:
      ValueError: another form.
    """
    text = attributes.partition("replica_groups=")[2]
    if match := re.match(r"\{((?:\{[\d,]*\},?)*)\}", text):
        listed = [[int(i) for i in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", match[1])]
        return np.array(listed or [list(range(devices))])
    if match := re.match(r"\[([\d,]+)\](<=\[[\d,]+\](?:T\([\d,]+\))?)", text):
        return _iota(match[2]).reshape(_ints(match[1]))
    if match := re.match(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))?\s*\{([^}]*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'?([\w.\-]+)'?=(\d+)", match[1])}
        order = np.arange(math.prod(sizes.values()))
        if match[2]:
            # The pattern above stops at the first parenthesis, which may be the transposition's.
            ids = hlo.search(r"device_ids=\((\[[\d,]+\](?:T\([\d,]+\))?|[\d,]+)\)", text)[1]
            order = _iota("<=" + ids) if ids.startswith("[") else np.array(_ints(ids))
        return _mesh_groups(order, sizes, re.findall(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?", match[3]))
    raise ValueError(f"replica_groups of an unknown form: {text[:80]!r}")


def _mesh_groups(order: np.ndarray, sizes: dict[str, int], chosen: list[tuple[str, str, str]]) -> np.ndarray:
    """Groups along some axes of a mesh, or along parts of them."""
    dims, picked = [], []
    for name, size in sizes.items():
        parts = [size]
        used = None
        for axis, before, part in chosen:
            if axis == name and part:
                parts, used = [int(before), int(part), size // int(before) // int(part)], 1
            elif axis == name:
                used = 0
        if used is not None:
            picked.append(len(dims) + used)
        dims += parts
    grid = order.reshape(dims)
    rest = [axis for axis in range(len(dims)) if axis not in picked]
    members = math.prod(dims[axis] for axis in picked)
    return grid.transpose(rest + picked).reshape(-1, members)


def _iota(text: str) -> np.ndarray:
    """`<=[2,4]T(1,0)`: 0, 1, 2, ... in that shape, transposed."""
    match = hlo.search(r"^<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    dims = _ints(match[1])
    numbers = np.arange(math.prod(dims)).reshape(dims)
    return (numbers.transpose(_ints(match[2])) if match[2] else numbers).reshape(-1)


def _ints(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
