"""Means over mixtures: of those with a finite value, the others counted; every example is decoded once."""

import json
import types

import numpy as np
import pytest

from mmjax.config import parse, recipe
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.data.loading.inputs import InputSpecs, ModalitySpec
from mmjax.data.sources.instruments import Instruments
from mmjax.data.video.transform import VideoSpec
from mmjax.evaluation.embedding.batched_apply import BatchRunner
from mmjax.evaluation.evaluation_task import EvaluatedSource
from mmjax.evaluation.evaluators import source_separation
from mmjax.metrics.definitions import definition

VIDEO = VideoSpec(image=ImageSpec(size=8, train_resize="squash"), frames=2)
SPECS = InputSpecs(None, (ModalitySpec.decoded("video", VIDEO),))


class Counting(Instruments):
    """The source, which counts how often it is read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


class Masks(BatchRunner):
    """A runner that gives masks of a level a row."""

    def __init__(self, level):
        self.level = level

    def compile(self, function):
        return function

    def run(self, function, params, rows):
        return np.stack([np.full_like(magnitudes, self.level(i)) for i, (_, magnitudes) in enumerate(rows)])


def evaluate(level, mixtures=3):
    """The outcome with masks of a level a row, and the source; what is separated is the mixture times its level."""
    settings = recipe.load_recipe("separate")
    settings.data.separation.update(n_fft=254, hop=64, frames=32, log_bins=32)
    settings.eval.source_separation.mixtures = mixtures
    config = parse(settings)
    task = types.SimpleNamespace(config=config, separate=None, seen="video")
    source = Counting("test", length=20)
    data = EvaluatedSource(source, {}, EvalExamples, specs=SPECS)
    return source_separation.SourceSeparationEvaluator(task, Masks(level), config.eval)(data), source


@pytest.mark.parametrize("silent_rows", [(), (2,), (0, 1, 2, 3, 4, 5)])
def test_mixtures_with_an_infinite_value_are_left_out_and_counted(silent_rows):
    outcome, _ = evaluate(lambda row: 0.0 if row in silent_rows else 0.5)
    infinite = len({row // 2 for row in silent_rows})
    assert outcome.n == 3 - infinite and outcome.metrics.get("infinite_mixtures", 0) == infinite
    assert ("si_sdr" in outcome.metrics) == (infinite < 3)
    json.dumps(outcome.metrics, allow_nan=False)
    if infinite < 3:  # the mixture as it is
        assert abs(outcome.metrics["si_sdr_improvement"]) < 1e-3
    assert all(definition(name) for name in outcome.metrics)


def test_an_example_is_read_once():
    """A mixture of two reads two examples, where no partner of its own id is drawn."""
    outcome, source = evaluate(lambda row: 0.5, mixtures=1)
    assert outcome.n == 1 and source.reads == 2
