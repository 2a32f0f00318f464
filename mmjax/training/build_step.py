"""The train step of a config, its state and their shapes, for training, planning and benchmarks.

The state is made under jit with its shardings: no host ever holds the whole model.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmjax.config.schema import RunConfig
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import partition
from mmjax.training import lora, optimizer, remat_plan
from mmjax.training import step as step_lib
from mmjax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Setup:
    """A train step that has not been compiled; nothing is on the devices yet.

    Attributes:
      state: the train state as `jax.ShapeDtypeStruct`s with their shardings.
      trainable: the shapes of the parameters that are trained.
      init: `key -> TrainState`, to be jitted with `shardings` as its output's.
      shardings: of the state.
      step: the jitted `(state, batch) -> (state, metrics)`.
      notes: lines on parameters that no sharding rule placed.
      remat: how each tower with `remat='auto'` is rematerialised; empty where there is none.
      planner: chose that; None where there is nothing to choose.
    """

    state: TrainState
    trainable: Any
    init: Callable[[jax.Array], TrainState]
    shardings: TrainState
    step: Callable[[TrainState, Any], tuple[TrainState, Any]]
    notes: list[str]
    remat: Mapping[str, remat_plan.Remat]
    planner: remat_plan.Planner | None
    make_step: Callable[[Mapping[str, remat_plan.Remat]], Any]

    def resumed(self, stored: Mapping[str, Any]) -> "Setup":
        """The setup that rematerialises as the run did before, where that still fits.

        Args:
          stored: `remat` of the checkpoint's meta: by tower, the fields of `Remat`.
        """
        remat = {name: remat_plan.Remat(**stored[name]) for name in self.remat if name in stored}
        if self.planner is None or remat in ({}, self.remat) or not self.planner.fits({**self.remat, **remat}):
            return self
        remat = {**self.remat, **remat}
        return dataclasses.replace(self, remat=remat, step=self.make_step(remat))

    def make_state(self, seed: int) -> TrainState:
        """Initialises the state under jit, every part of it where it belongs: no host ever holds the whole model."""
        return jax.jit(self.init, out_shardings=self.shardings)(jax.random.key(seed))


def make_setup(config: RunConfig, task: Any, mesh: jax.sharding.Mesh, available: float | None = None) -> Setup:
    """Builds a config's step for a mesh, whose devices need not be there.

    Args:
      config: the run's config.
      task: what is trained.
      mesh: the devices.
      available: bytes of a device's memory, the same in all processes; None to ask the mesh's first device.

    Raises:
      UserError: a rule of `optimizer` or `mesh` that does not fit the model.
    """
    abstract_params = jax.eval_shape(_init_params(task, config), jax.random.key(0))
    is_frozen = lora.find_frozen(abstract_params, config.optimizer)
    trainable, _ = step_lib.split_frozen(abstract_params, is_frozen)
    tx, schedule = optimizer.make_optimizer(config, trainable)
    init = make_init(task, config, tx)
    abstract = jax.eval_shape(init, jax.random.key(0))
    shardings, notes = state_shardings(abstract, config, mesh)
    state = partition.placed_shapes(abstract, shardings)
    if config.mesh.shard_optimizer:
        placed, _ = step_lib.split_frozen(shardings.params, is_frozen)
        tx = _with_gradients_at(partition.divided_over_data(trainable, placed, mesh), tx)
    planner = remat_plan.make_planner(config, task.kernels, mesh, state, trainable, available)
    remat = {} if planner is None else planner.choose()

    def make_step(remat):
        chosen = task.rematerialised(remat)
        return step_lib.make_train_step(chosen, config, tx, schedule, mesh, shardings)

    return Setup(state, trainable, init, shardings, make_step(remat), notes, remat, planner, make_step)


def _with_gradients_at(shardings: Any, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """An update rule whose gradients are reduced straight to where the moments are: no device holds more of them."""

    def update(updates, state, params=None):
        return tx.update(jax.lax.with_sharding_constraint(updates, shardings), state, params)

    return optax.GradientTransformation(tx.init, update)


def _init_params(task: Any, config: RunConfig) -> Callable[[jax.Array], Any]:
    """`key -> parameters`, with adapters where there are any."""
    return lambda key: lora.with_adapters(task.init(key), config.optimizer.lora, key)


def check_adapters(task: Any, config: RunConfig, mesh: jax.sharding.Mesh, state: TrainState, batch: Any) -> None:
    """Checks that the model reads its adapters, see `lora.check_read`; arguments as shapes."""
    total_loss = step_lib.make_loss(task, 1, mesh)
    keys = step_lib.example_keys(jax.random.key_data(jax.random.key(0)), jnp.zeros((), jnp.int32), len(batch["id"]))

    def loss(params):
        arrays = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), batch)
        return total_loss(params, arrays, keys if task.needs_rng else None)[0]

    lora.check_read(loss, state.params)


def make_init(task: Any, config: RunConfig, tx: optax.GradientTransformation):
    """Returns the function `key -> TrainState`."""

    def init(key):
        init_key, noise_key = jax.random.split(key)
        params = _init_params(task, config)(init_key)
        trainable, _ = step_lib.split_frozen(params, lora.find_frozen(params, config.optimizer))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=tx.init(trainable),
            ema_params=jax.tree.map(jnp.copy, params) if config.ema_decay else None,
            rng=jax.random.key_data(noise_key),
            first_bad_step=jnp.full((), -1, jnp.int32),
        )

    return init


def state_shardings(abstract: TrainState, config: RunConfig, mesh: jax.sharding.Mesh) -> tuple[TrainState, list[str]]:
    """Where every array of the state lives, and notes on parameters that no rule placed."""
    params, notes = partition.param_shardings(abstract.params, mesh, config.mesh)
    replicated: Any = mesh_lib.replicated(mesh)  # a tree of shardings has the state's structure
    moments = partition.divided_over_data(abstract.params, params, mesh) if config.mesh.shard_optimizer else params
    shardings = TrainState(
        step=replicated,
        params=params,
        opt_state=partition.opt_state_shardings(abstract.opt_state, abstract.params, moments, mesh),
        ema_params=params if abstract.ema_params is not None else None,
        rng=replicated,
        first_bad_step=replicated,
    )
    return shardings, notes
