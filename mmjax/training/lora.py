"""LoRA (arXiv:2106.09685): which kernels get low-rank adapters, how they begin, how they are merged.

Adapters lie beside their kernels in the tree of parameters (`mmjax.nn.low_rank`); everything else is frozen, but for
what `optimizer.lora.full` names. Layers add `x A B` as it is, so `scaled` multiplies B by alpha / rank before.
"""

import functools
import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from mmjax.errors import UserError
from mmjax.nn import low_rank
from mmjax.nn.low_rank import is_adapter
from mmjax.parallel import partition
from mmjax.parallel.partition import flattened, nested
from mmjax.training import param_roles
from mmjax.training.config import LoraConfig, OptimizerConfig
from mmjax.utils.random_streams import TrainingStream


class Adapter(NamedTuple):
    """An adapter of a kernel.

    Attributes:
      kernel: its path.
      index: which map of a kernel of several; None for a kernel of one.
      a, b: paths of the two matrices.
      a_shape, b_shape: with the layers in front where they are stacked.
      fan_in: inputs of the map.
    """

    kernel: str
    index: int | None
    a: str
    b: str
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    fan_in: int


def is_on(settings: OptimizerConfig) -> bool:
    """Whether adapters are trained."""
    return settings.lora.rank > 0


def adapters(shapes: Mapping[str, tuple[int, ...]], settings: LoraConfig) -> list[Adapter]:
    """The adapters of a model.

    Args:
      shapes: of its parameters, by path.
      settings: `optimizer.lora` of the run's config.

    Raises:
      UserError: a pattern matches nothing that an adapter fits, or the rank is too high.
    """
    if not settings.which:
        raise UserError("optimizer.lora.which=() names no kernel; name some, or set optimizer.lora.rank=0")
    result, used = [], set()
    for path, shape in shapes.items():
        for name, index in _maps(path, shape):
            matching = [pattern for pattern in settings.which if _matches(pattern, name, path)]
            if not matching:
                continue
            used.update(matching)
            result.append(_adapter(path, shape, index, settings.rank))
    for pattern in settings.which:
        if pattern in used:
            continue
        param_roles.check_pattern("optimizer.lora.which", pattern, list(shapes))
        path = next(path for path in shapes if re.fullmatch(pattern, path))
        raise UserError(
            f"optimizer.lora.which={pattern!r} names {path} {shapes[path]}, and adapters are for the kernels of linear"
            " maps, such as '.*attention/(q|v)/kernel' or '.*mlp/fc1/kernel'; to train it as a whole name it in"
            " optimizer.lora.full"
        )
    return result


def _matches(pattern: str, *names: str) -> bool:
    return any(re.fullmatch(pattern, name) for name in names)


def _maps(path: str, shape: tuple[int, ...]) -> list[tuple[str, int | None]]:
    """The linear maps of a kernel, by name, and which of several each is; none where it is no such kernel."""
    parts = path.split("/")
    if parts[-1] != "kernel" or len(parts) < 2:
        return []
    module, before = parts[-2], "/".join(parts[:-2])
    if module in low_rank.SEVERAL and before.endswith("attention"):
        return [(f"{before}/{letter}/kernel", index) for index, letter in enumerate(module)]
    axes = len(shape) - param_roles.is_stacked(path)
    return [(path, None)] if axes == 2 or (module in ("q", "out") and before.endswith("attention")) else []


def _adapter(path: str, shape: tuple[int, ...], index: int | None, rank: int) -> Adapter:
    folder, module = path.rpartition("/")[0], path.split("/")[-2]
    stacked = int(param_roles.is_stacked(path))
    layers, rest = shape[:stacked], shape[stacked:]
    axes = 2 if module == "out" and len(rest) == 3 else 1
    inputs, outputs = rest[:axes], rest[axes + (index is not None) :]
    name = "lora" if index is None else f"lora_{module[index]}"
    least = min(math.prod(inputs), math.prod(outputs))
    if rank > least:
        raise UserError(
            f"optimizer.lora.rank={rank} is more than the {least} that {path} can have; lower it, or leave that out of"
            " optimizer.lora.which"
        )
    a, b = f"{folder}/{name}_a", f"{folder}/{name}_b"
    return Adapter(path, index, a, b, (*layers, *inputs, rank), (*layers, rank, *outputs), math.prod(inputs))


def with_adapters(params: Any, settings: LoraConfig, key: Key[Array, ""]) -> Any:
    """Parameters with fresh adapters, as peft draws them: A uniform within 1 / sqrt(inputs), B zeros.

    Each is drawn from a key of its own, by its path; with a rank of 0 there are none.
    """
    if not settings.rank:
        return params
    flat = flattened(params)
    key = jax.random.fold_in(key, TrainingStream.ADAPTERS)
    for adapter in adapters({path: leaf.shape for path, leaf in flat.items()}, settings):
        own_key = jax.random.fold_in(key, jnp.uint32(zlib.crc32(adapter.a.encode())))
        bound = adapter.fan_in**-0.5
        flat[adapter.a] = jax.random.uniform(own_key, adapter.a_shape, jnp.float32, -bound, bound)
        flat[adapter.b] = jnp.zeros(adapter.b_shape, jnp.float32)
    return nested(flat)


def find_frozen(params: Any, settings: OptimizerConfig) -> Any:
    """Which parameters of a tree are frozen, a tree of booleans: by `optimizer.freeze`, and by LoRA.

    Raises:
      UserError: a pattern matches no parameter, or nothing is left to train.
    """
    frozen = param_roles.find_frozen(params, settings.freeze)
    if not is_on(settings):
        return frozen
    names = [path for path in flattened(params) if not is_adapter(path)]
    patterns = param_roles.expand(settings.lora.full, names)
    for pattern in patterns:
        param_roles.check_pattern("optimizer.lora.full", pattern, names)
    trained = lambda path: is_adapter(path) or param_roles.matches(patterns, path)
    frozen = partition.map_with_path(lambda path, is_frozen: is_frozen or not trained(path), frozen)
    if all(jax.tree.leaves(frozen)):
        raise UserError(f"optimizer.freeze={settings.freeze} freezes every adapter; leave something to train")
    return frozen


def check_read(loss: Callable[[Any], Any], params: Any) -> None:
    """Checks that layers read their adapters; a plugin's may have kernels of other layers than mmjax's.

    Args:
      loss: of parameters with adapters.
      params: arrays or shapes.

    Raises:
      UserError: an adapter changes nothing.
    """
    read = set(partition.read_paths(loss, params))
    for path in flattened(params):
        if is_adapter(path) and path.endswith("_a") and path not in read:
            kernel = f"{path.rpartition('/')[0]}/kernel"
            raise UserError(
                f"optimizer.lora.which names {kernel}, of a layer that reads no adapter, as mmjax's own do; leave it"
                " out, or train it as a whole with optimizer.lora.full"
            )


def scaled(params: Any, settings: LoraConfig) -> Any:
    """Parameters as layers take them: each B times alpha / rank."""
    if not settings.rank:
        return params
    factor = settings.alpha / settings.rank
    return partition.map_with_path(
        lambda path, x: x * factor if is_adapter(path) and path.endswith("_b") else x, params
    )


def without_adapters(params: Any) -> Any:
    """The tree of a model's parameters, without adapters."""
    return nested({path: x for path, x in flattened(params).items() if not is_adapter(path)})


def merged(params: Any, settings: LoraConfig) -> Any:
    """A model's parameters with the adapters' products added to their kernels; no adapters are left.

    Args:
      params: with adapters; arrays, which stay where they are.
      settings: `optimizer.lora` of the run's config.
    """
    if not settings.rank:
        return params
    flat = flattened(params)
    result = {path: x for path, x in flat.items() if not is_adapter(path)}
    for path, a in flat.items():
        if not (is_adapter(path) and path.endswith("_a")):
            continue
        folder, _, name = path.rpartition("/")
        index = None if name == "lora_a" else folder.rpartition("/")[2].index(name.split("_")[1])
        kernel = result[f"{folder}/kernel"]
        merge = _merge(index, param_roles.is_stacked(path), kernel.sharding)
        result[f"{folder}/kernel"] = merge(kernel, a, flat[f"{path[:-1]}b"], settings.alpha / settings.rank)
    return nested(result)


@functools.lru_cache(maxsize=64)
def _merge(index: int | None, stacked: bool, sharding: Any) -> Any:
    """A jitted (kernel, a, b, factor) -> kernel with its adapter, in the kernel's place."""

    def one(a, b):
        return jax.lax.dot_general(a, b, (((a.ndim - 1,), (0,)), ((), ())), precision="highest")

    def merge(kernel, a, b, factor):
        product = factor * (jax.vmap(one)(a, b) if stacked else one(a, b))
        if index is None:
            return kernel + product
        # Along the first axis of the outputs of [*layers, D, maps, H, K].
        return kernel.at[(slice(None),) * (1 + stacked) + (index,)].add(product)

    return jax.jit(merge, out_shardings=sharding)
