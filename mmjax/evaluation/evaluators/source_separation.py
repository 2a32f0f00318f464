"""Separation of mixtures of held-out sounds by their pictures: SI-SDR, and BSS Eval, in decibels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from mmjax.data.audio.mixture_spectrogram import MixtureSpec
from mmjax.data.loading.eval_examples import EvalExample, EvalExamples
from mmjax.data.loading.separation_transform import SOUND, clip_specs
from mmjax.errors import UserError
from mmjax.evaluation.config import EvaluationSettings
from mmjax.evaluation.embedding.batched_apply import BatchRunner, Row
from mmjax.evaluation.evaluation_task import EvaluatedModel, EvaluatedSource, EvaluationTask, Outcome
from mmjax.evaluation.example_selection import Artifacts, AttentionPanels, Panel
from mmjax.evaluation.pictures import example_picture, level_picture
from mmjax.metrics.source_separation import bss_eval, si_sdr
from mmjax.tasks import separation_data
from mmjax.utils.random_streams import SeparationStream

_TRIES = 100  # partners that are drawn for a mixture until one has another id
_SHOWN = 6  # mixtures in a report
_RANGE = 60.0  # decibels below the loudest cell that spectrograms show


class Mixture(NamedTuple):
    """A mixture of held-out sounds.

    Attributes:
      pictures: what is seen of each sound.
      sounds: the waveforms, as loud as they are in the mixture.
      mixture: their sum.
    """

    pictures: list[np.ndarray]
    sounds: Float32[np.ndarray, "N T"]
    mixture: Float32[np.ndarray, " T"]

    @property
    def is_silent(self) -> bool:
        """Whether one of the sounds is, so that nothing can be said of how well it is separated."""
        return bool((self.sounds == self.sounds[:, :1]).all(axis=1).any())


class SourceSeparationEvaluator:
    """The separation of mixtures that follow from the seed and the source.

    Args:
      task: gives `separate`.
      runner: runs it on the mesh.
      settings: `seed` and `source_separation`.
    """

    def __init__(self, task: Any, runner: BatchRunner, settings: EvaluationSettings):
        self.task, self.runner, self.settings = task, runner, settings
        self.spec: MixtureSpec = separation_data.mixture_spec(task.config)
        self.run = runner.compile(task.separate)

    def __call__(self, data: EvaluatedSource) -> Outcome:
        """Evaluates a source; the report shows spectrograms and masks.

        Waveforms are not sent around: every process reads all examples. Means leave out mixtures with a silent sound,
        and those with a value that is not finite, as where a mask lets nothing through; both are counted.

        Raises:
          UserError: an example cannot be read, or lacks its sound or its pictures; or all have one id, or are silent.
        """
        specs = clip_specs(data.specs, self.spec)
        mixtures = draw_mixtures(EvalExamples(data.source, specs), self.spec, self.settings)
        magnitudes = [self.spec.magnitudes(one.mixture) for one in mixtures]
        rows: list[Row] = [
            (pictures, seen) for one, seen in zip(mixtures, magnitudes, strict=True) for pictures in one.pictures
        ]
        masks = self.runner.run(self.run, data.params, rows)
        masks = masks.reshape(len(mixtures), self.spec.sources, *masks.shape[1:])
        values, panels = [], []
        heard = [(one, of_mixture) for one, of_mixture in zip(mixtures, masks, strict=True) if not one.is_silent]
        if not heard:
            raise UserError(
                f"data.eval: of {len(mixtures)} mixtures of {data.source.name!r} all have a silent sound; give sounds"
            )
        for one, of_mixture in heard:
            applied = [self.spec.apply(mask, one.mixture) for mask in of_mixture]
            value = separation_metrics(one, np.stack([waveform for waveform, _ in applied]))
            if np.isfinite(list(value.values())).all():
                values.append(value)
            if data.keep and len(panels) < _SHOWN:
                panels.append(self._panels(one, applied, value))
        metrics = {name: float(np.mean([value[name] for value in values])) for name in values[0]} if values else {}
        if silent := len(mixtures) - len(heard):
            metrics["silent_mixtures"] = float(silent)
        if infinite := len(heard) - len(values):
            metrics["infinite_mixtures"] = float(infinite)
        artifacts = Artifacts([], [], separations=panels) if data.keep else None
        return Outcome(metrics, len(values), artifacts)

    def _panels(
        self, one: Mixture, applied: Sequence[tuple[np.ndarray, np.ndarray]], values: Mapping[str, float]
    ) -> AttentionPanels:
        """Spectrograms of a mixture, its sounds and what was made of them, on one scale, and the masks."""
        level = lambda waveform: 20 * np.log10(np.abs(self.spec.stft.forward(waveform)) + 1e-10)
        loudest = float(level(one.mixture).max())
        show = lambda waveform: level_picture(level(waveform), loudest - _RANGE, loudest)
        maps = [Panel(show(one.mixture), "mixture", f"SI-SDR {values['si_sdr_improvement']:+.1f} dB in the mean")]
        for number, (pictures, sound, (estimate, mask)) in enumerate(
            zip(one.pictures, one.sounds, applied, strict=True), 1
        ):
            maps += [
                Panel(example_picture({self.task.seen: pictures}), f"pictures {number}"),
                Panel(show(sound), f"sound {number}"),
                Panel(show(estimate), f"separated {number}", f"SI-SDR {si_sdr(estimate, sound):.1f} dB"),
                Panel(level_picture(mask, 0.0, 1.0), f"mask {number}"),
            ]
        return AttentionPanels(maps, [])


def draw_mixtures(examples: EvalExamples, spec: MixtureSpec, settings: EvaluationSettings) -> list[Mixture]:
    """The mixtures of a source: its examples in the order of a permutation, with partners of other ids.

    Args:
      examples: with what is seen and its sound.
      spec: of the sounds.
      settings: `seed`, and how many mixtures.

    Raises:
      UserError: an example cannot be read, or lacks what a mixture needs; or no partner of another id is drawn.
    """
    count = settings.source_separation.mixtures or len(examples)
    first = np.random.default_rng(settings.seed).permutation(len(examples))[:count]
    return [_draw_mixture(examples, spec, int(index), settings.seed) for index in first]


def _draw_mixture(examples: EvalExamples, spec: MixtureSpec, index: int, seed: int) -> Mixture:
    rng = np.random.default_rng((SeparationStream.PARTNERS, seed, index))
    example = _checked(examples[index], examples)
    chosen = {example.id: example}
    for _ in range(_TRIES):
        if len(chosen) == spec.sources:
            break
        example = examples[int(rng.integers(len(examples)))]
        chosen.setdefault(example.id, _checked(example, examples))
    else:
        raise UserError(
            f"data.eval: {_TRIES} examples of {examples.source.name!r} were drawn to be mixed with one of them, and too"
            f" few had another id; give examples of {spec.sources} ids or more"
        )
    sounds = np.stack([example.inputs[SOUND] for example in chosen.values()]) / np.float32(spec.sources)
    seen = next(name for name in examples.specs.names if name != SOUND)
    return Mixture([example.inputs[seen] for example in chosen.values()], sounds, sounds.sum(axis=0))


def _checked(example: EvalExample, examples: EvalExamples) -> EvalExample:
    if missing := set(examples.specs.names) - set(example.inputs):
        raise UserError(
            f"data.eval: the example of id {example.id} of {examples.source.name!r} has no {sorted(missing)[0]}; leave"
            " it out"
        )
    return example


def separation_metrics(mixture: Mixture, estimates: Float[np.ndarray, "N T"]) -> dict[str, float]:
    """Metrics of what was separated of a mixture, in decibels, the mean over its sounds.

    Improvements are over the mixture as the estimate of every sound.
    """
    unchanged = np.broadcast_to(mixture.mixture, estimates.shape)
    scale = si_sdr(estimates, mixture.sounds)
    by_bss = bss_eval(mixture.sounds, np.stack([estimates, unchanged]))
    return {
        "si_sdr": float(scale.mean()),
        "si_sdr_improvement": float((scale - si_sdr(unchanged, mixture.sounds)).mean()),
        "sdr": float(by_bss.sdr[0].mean()),
        "sdr_improvement": float((by_bss.sdr[0] - by_bss.sdr[1]).mean()),
        "sir": float(by_bss.sir[0].mean()),
        "sar": float(by_bss.sar[0].mean()),
    }


def _missing_fields(record: Mapping[str, Any]) -> str:
    return "" if separation_data.has_sound(record) else "sound"


def _evaluator(model: EvaluatedModel) -> SourceSeparationEvaluator:
    return SourceSeparationEvaluator(model.task, model.runner, model.settings)


SOURCE_SEPARATION = EvaluationTask(
    title="source separation",
    evaluator=_evaluator,
    unit="mixtures",
    needs=("separate",),
    missing_fields=_missing_fields,
    reads=("seed", "source_separation"),
    reads_of_run=("data.separation",),
    by_default="always",
    has_plain_metrics=True,
)
