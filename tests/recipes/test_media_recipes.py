"""Recipes of videos, sounds and classifiers: complete configs; short runs are killed and go on, bit for bit."""

import numpy as np
import pytest

from mmjax.config import parse, recipe
from mmjax.errors import UserError
from mmjax.training import validate_run
from tests.helpers import runs

RECIPES = {
    "towers:slot=video": ("video_retrieval_recall@1", "videos_per_second"),
    "towers:slot=audio": ("text_retrieval_recall@5", "sounds_per_second"),
    "classify": ("mean_per_class_recall", "images_per_second"),
    "classify:modalities=text+table": ("acc1_without_text", "examples_per_second"),
    "action": ("acc1_without_audio", "examples_per_second"),
    "action:video=frames": ("acc1_without_video", "examples_per_second"),
    "action:only=audio": ("acc1", "sounds_per_second"),
    "asr:variant=tiny": ("speech_recognition/sentence_accuracy", "sounds_per_second"),
}

UNTRAINED = (
    *("asr", "asr:variant=whisper-tiny", "asr:variant=whisper-small"),
    "action:only=video,video=frames",
    "action:video=vivit",
    "action:video=videomae",
    "classify:modalities=image+series",
    "classify:modalities=video+audio",
)


@pytest.mark.parametrize("spec", [*RECIPES, *UNTRAINED])
def test_a_recipe_is_a_complete_config(spec):
    config = recipe.load_recipe(spec)
    validate_run.check_config(parse(config))
    assert config.schedule.warmup < config.steps


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("towers:slot=vidoe", "slot='vidoe' is not known"),
        ("action:only=image", "only='image' is not known"),
        ("classify:modalities=text", "modalities='text' is not known"),
        ("action:video=tubes", "video='tubes' is not known"),
        ("asr:variant=whisper-huge", "variant='whisper-huge' is not known"),
        ("asr:tokenizer=bytes", "variant=small has no use for it"),
    ],
)
def test_an_argument_that_is_none_is_one_line(spec, message):
    with pytest.raises(UserError, match=message) as caught:
        recipe.load_recipe(spec)
    assert "\n" not in str(caught.value)


def short(spec):
    config = recipe.load_recipe(spec)
    config.steps, config.batch_size, config.schedule.warmup, config.schedule.name = 4, 8, 1, "constant"
    config.checkpoint.every, config.log.every, config.eval.batch_size = 2, 1, 8
    # Layers of one kind are compiled once.
    for part in (config.model.get("encoders") or config.model).values():
        if hasattr(part, "items") and "scan" in part:
            part.scan, part.depth = True, min(part.depth, 1)
    return config


@pytest.mark.full
@pytest.mark.parametrize("spec", RECIPES)
def test_a_recipe_trains_and_goes_on_where_it_was(spec, tmp_path, monkeypatch):
    metric, rate = RECIPES[spec]
    config = short(spec)
    source = config.data.eval.partition("/")[0]
    monkeypatch.setattr("mmjax.data.sources.moving.TEST_LENGTH", 24)
    monkeypatch.setattr("mmjax.data.sources.tones.TEST_LENGTH", 24)
    assert runs.train(config, tmp_path / "whole") is None
    trained = runs.lines(tmp_path / "whole", "train")
    assert [line["step"] for line in trained] == [1, 2, 3, 4] and all(np.isfinite(line["loss"]) for line in trained)
    assert [name for name in trained[-1] if name.endswith("s_per_second")] == [rate]
    (evaluated,) = runs.lines(tmp_path / "whole", "eval")
    assert 0 <= evaluated[f"{source}/{metric}"] <= 1

    half = short(spec)
    half.steps = 2
    runs.train(half, tmp_path / "resumed")
    assert runs.train(config, tmp_path / "resumed") is None
    again = runs.lines(tmp_path / "resumed", "train")
    assert [line["loss"] for line in again[-2:]] == [line["loss"] for line in trained[-2:]]
