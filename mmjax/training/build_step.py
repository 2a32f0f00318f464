"""The train step of a config and its shapes, for training, planning and benchmarks."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections

from mmjax.parallel import partition
from mmjax.training import layer_memory, optimizer, param_roles
from mmjax.training import state as state_lib
from mmjax.training import step as step_lib


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

    state: state_lib.TrainState
    trainable: Any
    init: Callable[[jax.Array], state_lib.TrainState]
    shardings: state_lib.TrainState
    step: Callable[[state_lib.TrainState, Any], tuple[state_lib.TrainState, Any]]
    notes: list[str]
    remat: Mapping[str, layer_memory.Remat]
    planner: layer_memory.Planner | None
    make_step: Callable[[Mapping[str, layer_memory.Remat]], Any]

    def resumed(self, stored: Mapping[str, Any]) -> "Setup":
        """The setup that rematerialises as the run did before, where that still fits.

        Args:
          stored: `remat` of the checkpoint's meta: by tower, the fields of `Remat`.
        """
        remat = {name: layer_memory.Remat(**stored[name]) for name in self.remat if name in stored}
        if self.planner is None or remat in ({}, self.remat) or not self.planner.fits(self.remat | remat):
            return self
        remat = self.remat | remat
        return dataclasses.replace(self, remat=remat, step=self.make_step(remat))

    def make_state(self, seed: int) -> state_lib.TrainState:
        """Initialises the state under jit, every part of it where it belongs: no host ever holds the whole model."""
        return jax.jit(self.init, out_shardings=self.shardings)(jax.random.key(seed))


def make_setup(
    config: ml_collections.ConfigDict, task: Any, mesh: jax.sharding.Mesh, available: float | None = None
) -> Setup:
    """Builds a config's step for a mesh, whose devices need not be there.

    Args:
      config: the run's config.
      task: what is trained.
      mesh: the devices.
      available: bytes of a device's memory, the same in all processes; None to ask the mesh's first device.

    Raises:
      UserError: a rule of `optimizer` or `mesh` that does not fit the model.
    """
    abstract_params = jax.eval_shape(task.init, jax.random.key(0))
    trainable, _ = param_roles.split_frozen(abstract_params, config.optimizer.freeze)
    tx, schedule = optimizer.make_optimizer(config, trainable)
    init = state_lib.make_init(task, config, tx)
    abstract = jax.eval_shape(init, jax.random.key(0))
    shardings, notes = state_lib.state_shardings(abstract, config, mesh)
    state = partition.placed_shapes(abstract, shardings)
    planner = layer_memory.make_planner(config, task.kernels, mesh, state, trainable, available)
    remat = {} if planner is None else planner.choose()

    def make_step(remat):
        chosen = task.rematerialised(remat)
        return step_lib.make_train_step(chosen, config, tx, schedule, mesh, shardings)

    return Setup(state, trainable, init, shardings, make_step(remat), notes, remat, planner, make_step)
