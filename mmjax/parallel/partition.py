"""Sharding of parameters: an ordered list of (path regex, PartitionSpec), first match wins."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.errors import UserError
from mmjax.parallel.config import MeshConfig

Rule = tuple[str, tuple[Any, ...]]

# Specs describe an array's last axes, so that they hold for stacked layers ([layers, ...]) and single ones alike.
_TENSOR_RULES: list[Rule] = [
    (r".*attention/qkv/kernel", ("fsdp", None, "tensor", None)),  # [D, 3, H, K]
    (r".*attention/qkv/bias", (None, "tensor", None)),
    (r".*attention/kv/kernel", ("fsdp", None, "tensor", None)),
    (r".*attention/kv/bias", (None, "tensor", None)),
    (r".*attention/q/kernel", ("fsdp", "tensor", None)),  # [D, H, K]
    (r".*attention/q/bias", ("tensor", None)),
    (r".*attention/out/kernel", ("tensor", None, "fsdp")),  # [H, K, D]
    (r".*mlp/(fc1|gate)/kernel", ("fsdp", "tensor")),  # [D, F]
    (r".*mlp/(fc1|gate)/bias", ("tensor",)),
    (r".*mlp/fc2/kernel", ("tensor", "fsdp")),  # [F, D]
]

PRESETS: dict[str, list[Rule]] = {
    "replicated": [(r".*", ())],
    "fsdp": [],
    "fsdp+tensor": _TENSOR_RULES,
}
# A parameter without a rule and with fewer elements is replicated: gathering it would cost more than storing it.
MIN_SHARDED_SIZE = 2**18


def path_name(path: tuple[Any, ...]) -> str:
    """A parameter's path as rules see it: `image/transformer/layers/mlp/fc1/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def map_with_path(function, tree: Any) -> Any:
    """Maps `function(path, leaf)` over a tree, paths as `path_name` gives them."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(path_name(path), leaf), tree)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{'a/b': x} -> {'a': {'b': x}}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def flattened(tree: Any) -> dict[str, Any]:
    """{'a': {'b': x}} -> {'a/b': x}."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def read_paths(function: Callable[..., Any], tree: Any, *others: Any) -> list[str]:
    """Paths of a tree's arrays that a function of it, and of `others`, reads, in the tree's order.

    Args:
      function: not yet compiled by `jit`, which would take them all.
      tree, others: its arguments, arrays or shapes.
    """
    program = jax.make_jaxpr(function)(tree, *others).jaxpr
    used = {id(variable) for equation in program.eqns for variable in equation.invars}
    arrays = flattened(tree)
    return [path for path, variable in zip(arrays, program.invars[: len(arrays)], strict=True) if id(variable) in used]


def param_shardings(params: Any, mesh: Mesh, settings: MeshConfig) -> tuple[Any, list[str]]:
    """Assigns every parameter its sharding.

    A user's rule comes before the preset's. What no rule places is sharded over `fsdp` on its largest divisible axis,
    or replicated when it is small or nothing divides.

    Args:
      params: a tree of arrays or shapes.
      mesh: the device mesh.
      settings: `sharding` is the preset; `rules` are (regex that must match the whole path, axes of the array's last
        dimensions).

    Returns:
      A tree of NamedShardings, and lines for the log on parameters without a rule.

    Raises:
      UserError: a user's rule is no regular expression, matches nothing, names an unknown axis or does not divide.
    """
    used = set()
    fallen: dict[str, list[str]] = {}  # parameters that no rule placed, by where they went
    rules, preset_rules = settings.rules, PRESETS[settings.sharding]
    for index, (pattern, spec) in enumerate(rules):
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"mesh.rules[{index}]={pattern!r} is not a regular expression: {error}") from error
        for axis in spec:
            for name in axis if isinstance(axis, (tuple, list)) else (axis,):
                if name is not None and name not in mesh.shape:
                    raise UserError(f"mesh.rules[{index}]={pattern!r}: axis {name!r} is not one of {tuple(mesh.shape)}")

    def sharding_of(path, leaf):
        for index, (pattern, spec) in enumerate(rules):
            if re.fullmatch(pattern, path):
                used.add(index)
                return NamedSharding(mesh, _user_spec(f"mesh.rules[{index}]={pattern!r}", path, leaf.shape, spec, mesh))
        for pattern, spec in preset_rules:
            if re.fullmatch(pattern, path):
                return NamedSharding(mesh, _fitting_spec(leaf.shape, spec, mesh))
        spec = _largest_axis(leaf.shape, mesh.shape["fsdp"])
        if mesh.shape["fsdp"] > 1:
            large = math.prod(leaf.shape) >= MIN_SHARDED_SIZE
            where = "sharded over fsdp" if spec != PartitionSpec() else "too odd" if large else "small"
            fallen.setdefault(where, []).append(f"{path} {leaf.shape}" if where == "too odd" else path)
        return NamedSharding(mesh, spec)

    shardings = map_with_path(sharding_of, params)
    example = path_name(jax.tree_util.tree_leaves_with_path(params)[0][0])
    for index, (pattern, _) in enumerate(rules):
        if index not in used:
            raise UserError(f"mesh.rules[{index}]={pattern!r} matches no parameter path, such as {example!r}")
    return shardings, _notes(fallen, mesh.shape["fsdp"])


def _notes(fallen: dict[str, list[str]], fsdp: int) -> list[str]:
    """One line on what no rule placed; another on what is large and could not be sharded."""
    notes = []
    if sharded := fallen.get("sharded over fsdp"):
        small = f"; {len(fallen['small'])} small ones are replicated" if "small" in fallen else ""
        notes.append(
            f"no rule places {_some(sharded)}: sharded over mesh.fsdp={fsdp} on the largest axis that divides{small}"
        )
    if odd := fallen.get("too odd"):
        notes.append(f"no axis divides by mesh.fsdp={fsdp}, so replicated: {_some(odd)}")
    return notes


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _padded(shape: tuple[int, ...], spec: Sequence[Any]) -> list[Any]:
    return [None] * (len(shape) - len(spec)) + list(spec)


def _axis_size(axis: Any, mesh: Mesh) -> int:
    names = axis if isinstance(axis, (tuple, list)) else (axis,)
    return math.prod(mesh.shape[name] for name in names if name is not None)


def _user_spec(field: str, path: str, shape: tuple[int, ...], spec: Sequence[Any], mesh: Mesh) -> PartitionSpec:
    if len(spec) > len(shape):
        raise UserError(f"{field} has {len(spec)} axes, but {path} has {len(shape)}")
    padded = _padded(shape, spec)
    for size, axis in zip(shape, padded, strict=True):
        if size % _axis_size(axis, mesh):
            raise UserError(
                f"{field} shards an axis of {size} in {path} over {axis!r} of {_axis_size(axis, mesh)} devices"
            )
    return PartitionSpec(*(tuple(axis) if isinstance(axis, list) else axis for axis in padded))


def _fitting_spec(shape: tuple[int, ...], spec: Sequence[Any], mesh: Mesh) -> PartitionSpec:
    """A preset's spec without the axes that do not divide."""
    padded = _padded(shape, spec)
    return PartitionSpec(
        *(axis if size % _axis_size(axis, mesh) == 0 else None for size, axis in zip(shape, padded, strict=True))
    )


def _largest_axis(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """Shards the largest divisible axis over `fsdp`."""
    divisible = [(size, -axis) for axis, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < MIN_SHARDED_SIZE or not divisible:
        return PartitionSpec()
    axis = -max(divisible)[1]
    return PartitionSpec(*(["fsdp" if i == axis else None for i in range(len(shape))]))


def placed_shapes(shapes: Any, shardings: Any) -> Any:
    """Shapes with shardings (`jax.ShapeDtypeStruct`), to restore arrays to or to compile for."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def divided_over_data(shapes: Any, shardings: Any, mesh: Mesh) -> Any:
    """Shardings that divide each large array over `data` too, on the axis whose shards are longest.

    Arrays that are small, or of which no axis divides, keep their sharding.
    """
    data = mesh.shape["data"]

    def sharding_of(leaf, sharding):
        lengths = sharding.shard_shape(leaf.shape)
        divisible = [(length, -axis) for axis, length in enumerate(lengths) if length % data == 0]
        if data == 1 or math.prod(leaf.shape) < MIN_SHARDED_SIZE or not divisible:
            return sharding
        axis = -max(divisible)[1]
        spec = [*sharding.spec, *[None] * (len(leaf.shape) - len(sharding.spec))]
        names = spec[axis] if isinstance(spec[axis], tuple) else (spec[axis],)
        spec[axis] = (*(name for name in names if name is not None), "data")
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(sharding_of, shapes, shardings)


def opt_state_shardings(opt_state: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """Gives each optimizer moment the sharding of its parameter: the one whose path ends its own, of equal shape.

    Anything else (counts, factored moments) is replicated.

    Args:
      opt_state: the optimizer's state, as arrays or shapes.
      params: the parameters, as arrays or shapes.
      shardings: for the moments, by parameter; see `divided_over_data`.
      mesh: the device mesh.
    """
    by_path = {
        path_name(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings), strict=True
        )
    }

    def sharding_of(path, leaf):
        parts = path.split("/")
        for start in range(len(parts)):
            shape, sharding = by_path.get("/".join(parts[start:]), (None, None))
            if shape == leaf.shape:
                return sharding
        return NamedSharding(mesh, PartitionSpec())

    return map_with_path(sharding_of, opt_state)


def count_parameters(tree: Any) -> int:
    """Numbers in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def device_bytes(tree: Any) -> int:
    """Bytes of a tree of shapes with shardings on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
