"""Synchronisation of held-out videos with their sounds, which are shifted by known numbers of frames."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.data.loading.shifted_clips import ShiftedClips
from mmjax.errors import UserError
from mmjax.evaluation import alignment_pictures
from mmjax.evaluation.config import EvaluationSettings
from mmjax.evaluation.embedding.batched_apply import BatchRunner
from mmjax.evaluation.evaluation_task import EvaluatedSource, EvaluationTask, Outcome
from mmjax.evaluation.example_selection import Artifacts, Panel
from mmjax.metrics.synchronization import offset_metrics
from mmjax.tasks import synchronization

_SHOWN = 6  # clips in a report
_TEXT = (
    "The histogram counts clips by the error of the offset, in frames. Below, frames stand above the sound where the"
    " model puts them; the bar under it shows where they belong: green where both are the same, blue within one frame,"
    " red elsewhere."
)


class SynchronizationEvaluator:
    """Finds the shift of each clip's sound among all that the model was trained with.

    A clip is the middle of an example, and the sound is shifted by a number of frames that the example's id draws, each
    as likely, see `ShiftedClips`. The answer is the shift with the largest similarity, the mean over the windows of the
    clip.

    Args:
      task: gives `sync_similarities`.
      runner: runs it on the mesh.
      windows: of a clip; 0 for as many as in training.
    """

    def __init__(self, task: Any, runner: BatchRunner, windows: int = 0):
        self.task, self.runner = task, runner
        windows = windows or task.config.loss.sync_windows
        self.specs: ShiftedClips = synchronization.clip_specs(task.config, task.input_specs, windows)
        self.run = runner.compile(self._similarities)

    def __call__(self, data: EvaluatedSource) -> Outcome:
        """Evaluates a source."""
        shown: list[Mapping[str, np.ndarray]] = []

        def keep(example: Any) -> int:
            if data.keep and len(shown) < _SHOWN:
                shown.append(example.inputs)
            return int(example.inputs["shift"])

        stream = data.stream(keep, EvalExamples(data.source, self.specs))
        rows = ((example.inputs["video"], example.inputs["audio"]) for example in stream)
        similarities = self.runner.run(self.run, data.params, rows)
        shifts = np.array(stream.kept)
        scale = float(np.exp(np.asarray(data.params["logit_scale"], np.float64)))
        metrics = offset_metrics(similarities, shifts, logit_scale=scale)
        artifacts = self._artifacts(shown, similarities.argmax(axis=1), shifts) if data.keep else None
        return Outcome(metrics, len(shifts), artifacts)

    def _similarities(self, params: Any, video: Array, audio: Float[Array, "B T F"]) -> Float[Array, "B K"]:
        return jnp.mean(self.task.sync_similarities(params, video, audio), axis=1)

    def _artifacts(self, shown: list[Mapping[str, np.ndarray]], predicted: np.ndarray, shifts: np.ndarray) -> Artifacts:
        reach, frames = self.specs.shifts, self.specs.video.frames + 2 * self.specs.shifts
        histogram = alignment_pictures.error_histogram(predicted - shifts, 2 * reach)
        panels = [Panel(histogram, "errors of all clips", f"frames; {len(shifts):,} clips")]
        for inputs, answer, true in zip(shown, predicted.tolist(), shifts.tolist(), strict=False):
            picture = alignment_pictures.alignment(inputs["video"], inputs["audio"], frames, answer, true)
            detail = f"the sound is late by {true - reach:+d} frames"
            panels.append(Panel(picture, f"answer {answer - reach:+d} frames", detail))
        return Artifacts([], [], panels=panels, panels_title="Offsets of sounds", panels_text=_TEXT)


def _missing_fields(record: Mapping[str, Any]) -> str:
    modalities = record.get("modalities") or {}
    return " and ".join(name for name in ("video", "audio") if modalities.get(name) is None)


_MOST = 10_000  # windows, far beyond any clip's


def _check(source: Any, settings: EvaluationSettings) -> None:
    del source
    windows = settings.synchronization.windows
    if not 0 <= windows <= _MOST:
        raise UserError(
            f"{settings.prefix}synchronization.windows={windows}: give 1 to {_MOST:,}, or 0 for the training's"
        )


SYNCHRONIZATION = EvaluationTask(
    title="synchronisation",
    evaluator=lambda model: SynchronizationEvaluator(model.task, model.runner, model.settings.synchronization.windows),
    unit="clips",
    needs=("sync_offset",),
    missing_fields=_missing_fields,
    check=_check,
    reads=("synchronization",),
    by_default="always",
    has_plain_metrics=True,
)
