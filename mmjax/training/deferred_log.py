"""Training metrics that are written late, so that reading them never waits for the device."""

import collections
from typing import Any

from mmjax.errors import TrainingDiverged
from mmjax.parallel import mesh as mesh_lib
from mmjax.training.run import Run
from mmjax.training.step_agreement import StepAgreement

# Steps dispatched ahead of the device: enough to hide Python, few enough to bound the batches held.
RUN_AHEAD = 2


class DeferredLog:
    """Lines of metrics, each written when the next step is on its way to the device.

    Args:
      run: whose logger is written to, with the rates of its meter.
      agreement: of its processes; each line has the counts of bad examples up to its step.
    """

    def __init__(self, run: Run, agreement: StepAgreement):
        self._run, self._agreement, self._meter = run, agreement, run.meter
        self._running = collections.deque()  # losses of the last steps, to bound how far Python runs ahead
        self._pending: tuple[int, Any, dict[str, float]] | None = None

    def add(self, step: int, metrics: Any) -> None:
        """Takes the metrics of a step that has been dispatched; waits for the one `RUN_AHEAD` steps before it."""
        config, first = self._run.config, self._run.start + 1
        self._running.append(metrics["loss"])
        if len(self._running) > RUN_AHEAD:
            self._running.popleft().block_until_ready()
            self._agreement.resolve(step - RUN_AHEAD)
            if step == first + RUN_AHEAD:
                self._meter.reset(first)  # the first step was compiled
        self.write()
        if step == 1 or step % config.log.every == 0 or step == config.steps:
            if step == config.steps:
                self._running.clear()
                metrics["loss"].block_until_ready()
            self._pending = (step, metrics, self._meter.read(step - len(self._running)))
        self._run.logger.progress(step)

    def write(self) -> None:
        """Writes the pending line, if there is one.

        Raises:
          TrainingDiverged: its loss or gradient was not finite.
        """
        if self._pending is None:
            return
        (step, metrics, rates), self._pending = self._pending, None
        values = {name: value.item() for name, value in mesh_lib.to_host(metrics).items()}
        self._check_finite(values.pop("first_bad_step"))
        self._agreement.resolve(step)
        self._run.logger.write(step, "train", values | rates | self._run.bad_examples.metrics(step))

    def catch_up(self, step: int, state: Any) -> None:
        """Reads and writes all there is of the steps up to this one, before something is made of its state.

        Raises:
          TrainingDiverged: the loss or gradient of a step was not finite.
        """
        self._agreement.resolve(step)
        self.write()
        self._check_finite(int(mesh_lib.to_host(state.first_bad_step)))

    def restart(self, step: int) -> None:
        """Measures from here on, after something that was not training."""
        self._running.clear()
        self._meter.reset(step)

    def _check_finite(self, first_bad_step: int) -> None:
        if first_bad_step < 0:
            return
        self._run.checkpoints.wait()  # the message names the latest one
        latest = self._run.checkpoints.latest()
        kept = "no checkpoint had been written yet" if latest is None else f"the checkpoint of step {latest} is intact"
        raise TrainingDiverged(
            f"loss or gradient norm is not finite at step {first_bad_step}; {kept}."
            " Lower optimizer.learning_rate, set optimizer.grad_clip, or look at the data of that step"
        )
