"""A config's train step and the shapes it takes: what training, planning and benchmarks have in common."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import ml_collections

from mmjax.parallel import partition
from mmjax.training import optimizer
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
    """

    state: state_lib.TrainState
    trainable: Any
    init: Callable[[jax.Array], state_lib.TrainState]
    shardings: state_lib.TrainState
    step: Callable[[state_lib.TrainState, Any], tuple[state_lib.TrainState, Any]]
    notes: list[str]

    def make_state(self, seed: int) -> state_lib.TrainState:
        """Initialises the state under jit, every part of it where it belongs: no host ever holds the whole model."""
        return jax.jit(self.init, out_shardings=self.shardings)(jax.random.key(seed))


def make_setup(config: ml_collections.ConfigDict, task: Any, mesh: jax.sharding.Mesh) -> Setup:
    """Builds a config's step for a mesh, whose devices need not be there.

    Raises:
      UserError: a rule of `optimizer` or `mesh` that does not fit the model.
    """
    abstract_params = jax.eval_shape(task.init, jax.random.key(0))
    trainable, _ = optimizer.split_frozen(abstract_params, config.optimizer.freeze)
    tx, schedule = optimizer.make_optimizer(config, trainable)
    init = state_lib.make_init(task, config, tx)
    abstract = jax.eval_shape(init, jax.random.key(0))
    shardings, notes = state_lib.state_shardings(abstract, config, mesh)
    state = partition.placed_shapes(abstract, shardings)
    step = step_lib.make_train_step(task, config, tx, schedule, mesh, shardings)
    return Setup(state, trainable, init, shardings, step, notes)
