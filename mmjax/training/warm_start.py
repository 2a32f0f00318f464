"""Starting from another run's parameters: all of them, or those whose paths match (LiT: the image tower)."""

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import NamedSharding, PartitionSpec

from mmjax import config as config_lib
from mmjax import storage
from mmjax.errors import UserError
from mmjax.nn import embed
from mmjax.parallel import partition
from mmjax.training import checkpoint, logs
from mmjax.training.state import TrainState

_POSITIONS = "image/position_embedding"
# What a tower computes with the same weights.
_FUNCTION = (
    *("activation", "norm_eps", "patch_size", "class_token", "pre_norm", "pool", "heads"),
    *("causal", "mask_padding", "eos_id"),
)


def read(params: Any, config: ml_collections.ConfigDict) -> dict[str, jax.Array]:
    """Reads what `init_paths` names from the latest checkpoint in `init_from`: its moving average, where it has one.

    Args:
      params: a tree of `jax.ShapeDtypeStruct`, to whose shardings the arrays are read.
      config: the run's config.

    Returns:
      Arrays by path.

    Raises:
      UserError: no checkpoint there, a pattern that matches nothing, or a parameter that is missing or of another
        shape.
    """
    folder = storage.as_path(config.init_from) / "checkpoints"
    if not folder.exists():
        raise UserError(f"init_from={config.init_from!r}: there is no {folder}; give the workdir of a training run")
    flat = {partition.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    names = list(flat)
    for pattern in config.init_paths:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise UserError(f"init_paths={pattern!r} matches no parameter path, such as {names[0]!r}")

    source = checkpoint.Checkpoints(folder, read_only=True)
    try:
        step = source.latest()
        if step is None:
            raise UserError(f"init_from={config.init_from!r}: no complete checkpoint in {folder}")
        stored = source.param_shapes(step)
        stored_config = config_lib.from_json(json.dumps(source.read_meta(step)["config"]))
        wanted = {}
        for name, leaf in flat.items():
            if not any(re.fullmatch(pattern, name) for pattern in config.init_paths):
                continue
            _check_same_function(stored_config, config, name.split("/")[0])
            if name == _POSITIONS and name in stored and stored[name][1:] == leaf.shape[1:]:
                # A table for another resolution is read whole, and resampled below.
                whole = NamedSharding(leaf.sharding.mesh, PartitionSpec())
                wanted[name] = jax.ShapeDtypeStruct(stored[name], leaf.dtype, sharding=whole)
            elif stored.get(name) == leaf.shape:
                wanted[name] = leaf
            else:
                there = f"has shape {stored[name]}" if name in stored else "does not exist"
                raise UserError(
                    f"init_from={config.init_from!r}: {name} {there} there and has shape {leaf.shape} here;"
                    " change the model, or leave it out with init_paths"
                )
        taken = source.restore_params(step, _nested(wanted))
    finally:
        source.close()
    logs.say(f"took {len(wanted)} of {len(names)} parameter arrays from step {step} of {config.init_from}")
    arrays = {partition.path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(taken)}
    if _POSITIONS in arrays:
        table = _for_resolution(arrays[_POSITIONS], stored_config.model.image, config.model.image)
        arrays[_POSITIONS] = jax.device_put(table, flat[_POSITIONS].sharding)
    return arrays


def _for_resolution(table: jax.Array, old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> jax.Array:
    """Resamples an image tower's position table from one input size to another."""
    before, after = (tower.image_size // tower.patch_size for tower in (old, new))
    if before != after:
        logs.say(f"resampled {_POSITIONS} from {before} x {before} to {after} x {after} patches")
    return embed.resample_positions(table, (before, before), (after, after), prefix=int(new.class_token))


def _check_same_function(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict, part: str) -> None:
    """Checks that a tower's weights would compute here what they computed there.

    Raises:
      UserError: a field that no shape shows differs.
    """
    tower = part.removesuffix("_head")
    fields = [f"model.{tower}.{field}" for field in _FUNCTION] if tower in ("image", "text") else []
    fields += ["data.mean_std"] if tower == "image" else ["data.tokenizer"] if tower == "text" else []
    different = [line for line in config_lib.differences(old, new) if line.split(":")[0] in fields]
    if different:
        raise UserError(
            f"init_from={new.init_from!r} was trained with another setting ({'; '.join(different)}), with which its"
            " weights compute something else; use its value, or leave the tower out with init_paths"
        )


def replace(state: TrainState, taken: dict[str, jax.Array]) -> TrainState:
    """Puts arrays, by path, in the places of the parameters and of their moving average."""
    if not taken:
        return state
    params = partition.map_with_path(lambda path, x: taken.get(path, x), state.params)
    average = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    return state.replace(params=params, ema_params=average)


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """{'a/b': x} -> {'a': {'b': x}}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree
