"""A run that can begin to train: what the loop and its hooks work with."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from mmjax.config.schema import RunConfig
from mmjax.evaluation.results import Evaluation
from mmjax.training import checkpoint, metrics_log
from mmjax.training.signals import StopSignal
from mmjax.training.state import TrainState
from mmjax.training.step_agreement import BadExamples
from mmjax.training.workdir import Claim


@dataclasses.dataclass
class Run:
    """A run that can begin to train, as `train.prepare` makes it.

    Attributes:
      config: what it goes by, see `resumed_run.keep`.
      workdir: its folder.
      claim: that no other run writes there.
      mesh: the devices.
      step: `(state, batch) -> (state, metrics)`, jitted; the state passed in is donated.
      open_batches: opens the batches of this process after `start`; they are a context.
      evaluate: `(params, keep_artifacts=...) -> results` on `data.eval`.
      checkpoints, logger: open; `close` closes them.
      make_meta: `checkpoint.make_meta`, with what stays the same over the run.
      meter: of the throughput.
      bad_examples: counted up to `start`.
      start: the step that the run goes on from, 0 for a new one.
      state: the train state at `start`; the first step consumes it.
      evaluation_missing: the run was stopped at `start` before it could evaluate there.
    """

    config: RunConfig
    workdir: Any
    claim: Claim
    mesh: jax.sharding.Mesh
    step: Callable[[TrainState, Any], tuple[TrainState, Any]]
    open_batches: Callable[[StopSignal], Any]
    evaluate: Callable[..., list[Evaluation]]
    checkpoints: checkpoint.Checkpoints
    make_meta: Callable[..., dict[str, Any]]
    logger: metrics_log.Logger
    meter: metrics_log.Meter
    bad_examples: BadExamples
    start: int
    state: TrainState | None
    evaluation_missing: bool

    def take_state(self) -> TrainState:
        """The train state, which nothing else holds from now on: the first step consumes it."""
        state, self.state = self.state, None
        if state is None:
            raise ValueError("the state of this run has been taken")
        return state

    def close(self) -> None:
        """Ends the checkpoint that is being written, closes the logs, and gives the workdir back."""
        try:
            if not self.claim.lost:  # closing writes
                self.logger.close()
                self.checkpoints.close()
        finally:
            self.claim.release()
