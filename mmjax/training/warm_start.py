"""Starting from another run's parameters: all of them, or those whose paths match (LiT: the image tower)."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from mmjax import storage
from mmjax.errors import UserError
from mmjax.parallel import partition
from mmjax.training import checkpoint, logs
from mmjax.training.state import TrainState


def initialise(state: TrainState, config: ml_collections.ConfigDict) -> TrainState:
    """Replaces the parameters that `init_paths` names by those of the latest checkpoint in `init_from`.

    The moving average there is what is taken, where there is one. Arrays are read straight to their shardings.

    Raises:
      UserError: no checkpoint there, a pattern that matches nothing, or a parameter that is missing or of another shape.
    """
    folder = storage.as_path(config.init_from) / "checkpoints"
    if not folder.exists():
        raise UserError(f"init_from={config.init_from!r}: there is no {folder}; give the workdir of a training run")
    names = [partition.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.params)]
    for pattern in config.init_paths:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise UserError(f"init_paths={pattern!r} matches no parameter path, such as {names[0]!r}")

    source = checkpoint.Checkpoints(folder, read_only=True)
    try:
        step = source.latest()
        if step is None:
            raise UserError(f"init_from={config.init_from!r}: no complete checkpoint in {folder}")
        stored = source.param_shapes(step)
        wanted = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
            name = partition.path_name(path)
            if not any(re.fullmatch(pattern, name) for pattern in config.init_paths):
                continue
            if stored.get(name) != leaf.shape:
                there = f"has shape {stored[name]}" if name in stored else "does not exist"
                raise UserError(
                    f"init_from={config.init_from!r}: {name} {there} there and has shape {leaf.shape} here;"
                    " change the model, or leave it out with init_paths"
                )
            wanted[name] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        taken = source.restore_params(step, _nested(wanted))
    finally:
        source.close()
    loaded = {partition.path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(taken)}
    logs.say(f"took {len(loaded)} of {len(names)} parameter arrays from step {step} of {config.init_from}")
    params = partition.map_with_path(lambda path, x: loaded.get(path, x), state.params)
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
