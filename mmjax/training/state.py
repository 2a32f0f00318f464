"""The train state, made under jit with its shardings: no host ever holds the whole model."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Int, UInt32

from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import partition
from mmjax.training import param_roles


class TrainState(struct.PyTreeNode):
    """All that training carries from step to step.

    Attributes:
      step: number of updates done.
      params: parameters, float32.
      opt_state: of the trainable parameters.
      ema_params: moving average of the parameters, or None.
      rng: key data (two words) that every step's randomness derives from; constant.
      first_bad_step: the first update (from 1) whose loss or gradient norm was not finite; -1 while all is well.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    ema_params: Any
    rng: UInt32[Array, " 2"]
    first_bad_step: Int[Array, ""]


def make_init(task: Any, config: ml_collections.ConfigDict, tx: optax.GradientTransformation):
    """Returns the function `key -> TrainState`."""

    def init(key):
        init_key, noise_key = jax.random.split(key)
        params = task.init(init_key)
        trainable, _ = param_roles.split_frozen(params, config.optimizer.freeze)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init(trainable),
            ema_params=jax.tree.map(jnp.copy, params) if config.ema_decay else None,
            rng=jax.random.key_data(noise_key),
            first_bad_step=jnp.full((), -1, jnp.int32),
        )

    return init


def state_shardings(
    abstract: TrainState, config: ml_collections.ConfigDict, mesh: Mesh
) -> tuple[TrainState, list[str]]:
    """Where every array of the state lives, and notes on parameters that no rule placed."""
    params, notes = partition.param_shardings(
        abstract.params, mesh, preset=config.mesh.sharding, rules=config.mesh.rules
    )
    replicated = mesh_lib.replicated(mesh)
    shardings = TrainState(
        step=replicated,
        params=params,
        opt_state=partition.opt_state_shardings(abstract.opt_state, abstract.params, params, mesh),
        ema_params=params if abstract.ema_params is not None else None,
        rng=replicated,
        first_bad_step=replicated,
    )
    return shardings, notes
