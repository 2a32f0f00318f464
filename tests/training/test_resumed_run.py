"""Runs that began before a field came to exist go on with what they did, start after start."""

import json
import re

import pytest

from mmjax import tasks
from mmjax.config import overrides, parse, schema, serialize
from mmjax.config import recipe as recipe_lib
from mmjax.config.field_origins import FieldOrigins
from mmjax.errors import UserError
from mmjax.training import resumed_run, train, validate_run
from tests.helpers import runs

CONFIGS = runs.ROOT / "tests/fixtures/configs"
STEPS = 4
THEN = {"data__crop_scale": (1.0, 1.0), "data__crop_ratio": (1.0, 1.0)}


def recipe(**changes):
    return runs.config(steps=STEPS, eval__every=0, checkpoint__every=2, data__flip=True, **changes)


def losses(workdir):
    return [line["loss"] for line in runs.lines(workdir, "train")]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pictures that are not square, which the middle is taken of."""
    return f"pairs:{runs.write_pairs(tmp_path_factory.mktemp('pairs'))}"


@pytest.fixture
def older(pairs, tmp_path):
    """A workdir of two steps, as code without `data.train_resize` left it."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    text = serialize.to_json(recipe(data__train=pairs, **THEN))
    (workdir / "config.json").write_text(without(text))
    begins = recipe(data__train=pairs, **THEN)
    begins.steps = 2
    assert runs.train(begins, workdir) is None
    assert "train_resize" not in json.loads((workdir / "config.json").read_text())["data"]
    return workdir


def without(text):
    stored = json.loads(text)
    del stored["data"]["train_resize"]
    return json.dumps(stored)


@pytest.mark.full
def test_a_run_keeps_its_pictures_where_the_recipe_has_others_now(older, pairs, tmp_path, capsys):
    now = recipe(data__train=pairs, data__train_resize="squash")
    now.steps = 3
    assert runs.train(now, older) is None
    message = capsys.readouterr().out
    assert (
        "this run began before data.train_resize came to exist, and goes on as it began: data.train_resize=" in message
    )
    assert "data.train_resize='crop' (not 'squash'), data.crop_scale=(1.0, 1.0) (not (0.9, 1.0)), data.crop" in message
    assert message.count("came to exist") == 1 and "workdir began: data." not in message
    now.steps = STEPS
    assert runs.train(now, older) is None  # and once more
    assert "came to exist" in capsys.readouterr().out
    # Undisturbed, by the code of then: the stored config is older than the field, the crop's fields as they were.
    complete = tmp_path / "whole"
    complete.mkdir()
    (complete / "config.json").write_text(without(serialize.to_json(recipe(data__train=pairs, **THEN))))
    assert runs.train(recipe(data__train=pairs, **THEN), complete) is None
    assert losses(older) == losses(complete)
    runs.assert_same_arrays(runs.arrays(older, STEPS), runs.arrays(complete, STEPS))
    # With the recipe's own pictures it is another run.
    other = tmp_path / "other"
    assert runs.train(now, other) is None
    assert losses(other) != losses(complete)


def test_a_crop_that_has_nothing_to_choose_is_noted_in_a_recipe_and_refused_on_the_command_line(
    pairs, tmp_path, capsys
):
    line = "data.crop_scale=(1.0, 1.0) leaves a random crop nothing to choose"
    with pytest.raises(UserError, match=re.escape(line)):
        train.train(recipe(data__train=pairs, **THEN), tmp_path / "new", flags=("data.crop_scale",))
    assert not (tmp_path / "new").exists()
    assert runs.train(recipe(data__train=pairs, **THEN), tmp_path / "new") is None
    assert line in capsys.readouterr().out


def test_a_stored_config_with_the_field_is_changed_as_ever(tmp_path):
    stored = recipe(data__train_resize="center")
    (tmp_path / "config.json").write_text(serialize.to_json(stored))
    now = recipe(data__train_resize="squash")
    config, origins = resumed_run.keep(parse(now), tmp_path)
    assert config == parse(now) and not origins.kept
    assert json.loads(resumed_run.to_json(config, FieldOrigins())) == json.loads(serialize.to_json(config))


def test_without_a_run_nothing_is_kept(tmp_path):
    now = recipe(data__train_resize="squash")
    config, origins = resumed_run.keep(parse(now), tmp_path)
    assert config == parse(now) and not origins.kept
    (tmp_path / "config.json").write_text("not JSON")
    config, origins = resumed_run.keep(parse(now), tmp_path)
    assert config == parse(now) and not origins.kept
    with pytest.raises(UserError, match="config.json is not a config"):
        runs.train(now, tmp_path)


def test_the_recipe_gives_way_and_the_command_line_does_not(tmp_path, capsys):
    (tmp_path / "config.json").write_text(without(serialize.to_json(recipe(**THEN))))
    requested = {"data.crop_scale": (0.5, 1.0), "data.flip": False, "data.grayscale": 0.3}
    now = recipe(data__train_resize="squash")
    now.update_from_flattened_dict(requested)
    kept, origins = resumed_run.keep(parse(now), tmp_path)  # all of it the recipe's
    message = capsys.readouterr().out
    was = {"data.crop_scale": (1.0, 1.0), "data.flip": True, "data.grayscale": 0.0}
    for field, value in was.items():
        assert serialize.flatten(kept)[field] == value
        assert f"{field}={value!r} (not {requested[field]!r})" in message
    assert "interpolation" not in message  # the recipe has that of before
    assert origins.kept == ("data.train_resize",)
    kept, origins = resumed_run.keep(parse(now), tmp_path, ["data.crop_scale", "data.grayscale", "steps"])
    assert origins.kept == ("data.train_resize",)
    assert (kept.data.crop_scale, kept.data.grayscale, kept.data.flip) == ((0.5, 1.0), 0.3, True)
    message = capsys.readouterr().out
    assert "data.flip=True (not False)" in message and "scale" not in message
    resumed_run.check_workdir(kept, tmp_path)
    message = capsys.readouterr().out
    assert "workdir began: data.crop_scale: (1.0, 1.0) -> (0.5, 1.0)" in message and message.count("\n") == 2
    kept, origins = resumed_run.keep(parse(now), tmp_path, ["data.train_resize"])
    assert (origins.kept, kept.data.train_resize) == ((), "squash")
    # The value that it has anyway is no change.
    kept, origins = resumed_run.keep(parse(recipe(**THEN)), tmp_path, ["data.train_resize"])
    assert origins.kept == ("data.train_resize",)
    validate_run.check_config(kept, origins)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("model.max_logit_scale", "none", None),
        ("optimizer.decay", "big_vision", ("big_vision",)),
        ("optimizer.decay_scaled_by_lr", "False", False),
        ("data.train_resize", "squash", "squash"),
        ("data.interpolation", "bilinear", "bilinear"),
        ("schedule.warmup", "77", 77),
    ],
)
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_what_the_command_line_gives_is_done_and_told_as_a_change(name, field, text, value, tmp_path, capsys):
    text_then = (CONFIGS / f"{name}.json").read_text()
    then = serialize.flatten(parse(serialize.from_json(text_then)))
    (tmp_path / "config.json").write_text(text_then)
    now = recipe_lib.load_recipe(f"{name}:variant=tiny")
    now.data.train = "shapes"
    overrides.apply(now, [(field, text)])
    config, origins = resumed_run.keep(parse(now), tmp_path, [field])
    assert f"{field}=" not in capsys.readouterr().out
    validate_run.check_config(config, origins)
    resumed_run.check_workdir(config, tmp_path)
    assert (
        f"changed since the run in this workdir began: {field}: {then[field]} -> {value}\n" in capsys.readouterr().out
    )
    assert differing(then, config) == {field}
    # At the next start, without the flag, what it has been given is what it has.
    (tmp_path / "config.json").write_text(resumed_run.to_json(config, origins))
    again = recipe_lib.load_recipe(f"{name}:variant=tiny")
    again.data.train = "shapes"
    assert differing(serialize.flatten(config), resumed_run.keep(parse(again), tmp_path)[0]) == set()


def test_what_it_cannot_go_on_with_is_refused(tmp_path):
    (tmp_path / "config.json").write_text((CONFIGS / "lit.json").read_text())
    now = recipe_lib.load_recipe("lit:variant=tiny")
    now.data.train = "shapes"
    overrides.apply(now, [("model.logit_bias_init", "-2.71")])
    config, _ = resumed_run.keep(parse(now), tmp_path, ["model.logit_bias_init"])
    with pytest.raises(UserError, match=r"holds another model \(model.logit_bias_init: None -> -2.71\)"):
        resumed_run.check_workdir(config, tmp_path)


def test_the_command_line_hands_its_fields_on(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(train, "train", lambda config, workdir, flags=(), start=None: seen.update(flags=list(flags)))
    assert runs.train_cli(f"--workdir={tmp_path / 'run'}", "--config.steps=3", "--config.data.flip", "true") == 0
    assert seen["flags"] == ["steps", "data.flip"]


@pytest.mark.parametrize(
    "changes",
    [
        {"data.image_rule": "huggingface"},
        {"data.antialias": False, "data.interpolation": "bilinear"},
        {"data.randaugment_policy": "albef", "data.randaugment": (2, 7), "data.color_jitter": (0.4, 0.4, 0.4, 0.1)},
        {"data.train_resize": "center", "data.resize": "squash", "data.color_jitter_prob": 0.5, "data.draft": False},
    ],
)
def test_pictures_are_kept_whichever_of_their_newer_fields_a_recipe_sets(changes, tmp_path, capsys):
    before = recipe(data__crop_scale=(0.7, 1.0))
    stored = json.loads(serialize.to_json(before))
    for field in ("train_resize", "randaugment_policy", "antialias", "image_rule"):
        del stored["data"][field]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    now = recipe()
    now.update_from_flattened_dict(changes)
    kept, origins = resumed_run.keep(parse(now), tmp_path)
    assert tasks.make_image_spec(kept) == tasks.make_image_spec(parse(before))
    message = capsys.readouterr().out
    assert message.count("\n") == 1 and all(f"(not {value!r})" in message for value in changes.values())
    tasks.check_images(kept, origins)
    (tmp_path / "config.json").write_text(resumed_run.to_json(kept, origins))
    assert tasks.make_image_spec(resumed_run.keep(parse(now), tmp_path)[0]) == tasks.make_image_spec(parse(before))


def test_what_is_kept_is_what_the_run_has(tmp_path):
    (tmp_path / "config.json").write_text(without(serialize.to_json(recipe(**THEN))))
    kept, origins = resumed_run.keep(parse(recipe(data__train_resize="squash")), tmp_path)
    assert origins.kept == ("data.train_resize",) and kept.data.train_resize == "crop"


# -- recipes of commit 3eccfb9, in tests/fixtures/configs as that code stored them -------------------------------------

# What a recipe may change in a run that goes on: how long it takes, and how it is watched.
FREE = ("name", "steps", "data.resize_on", "data.workers", "eval.", "checkpoint.", "log.", "decoding.")
EXECUTION = (".remat", ".scan", "deterministic")


def differing(then, config):
    """Fields that have another value than they had."""
    now = serialize.flatten(config)
    changed = {field for field in then if now.get(field, then) != then[field]}
    return {field for field in changed if not field.startswith(FREE) and not field.endswith(EXECUTION)}


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("clip", "clip:variant=tiny"),
        ("siglip", "siglip:variant=tiny"),
        ("lit", "lit:variant=tiny"),
        ("lit", "lit:variant=tiny,loss=softmax"),
        ("coca", "coca:variant=coca-B/32"),
        # Of commit 9d871c7.
        ("albef", "albef:variant=albef-B"),
        ("captioner", "captioner:variant=captioner-B/16"),
        ("clip-h14", "clip:variant=H/14"),
        ("llava", "llava:variant=prefix_lm-L/14"),
        ("qformer", "qformer:variant=qformer-B"),
    ],
)
def test_the_recipes_of_before(name, spec, tmp_path, capsys):
    """Under today's recipe a run goes on as it was, start after start, is told so in one line and refused nothing."""
    text = (CONFIGS / f"{name}.json").read_text()
    then = serialize.flatten(parse(serialize.from_json(text)))
    for _ in range(2):
        (tmp_path / "config.json").write_text(text)
        now = recipe_lib.load_recipe(spec)
        now.data.train = "shapes"
        config, origins = resumed_run.keep(parse(now), tmp_path)
        message = capsys.readouterr().out
        assert message.count("came to exist") <= 1 and message.count("\n") <= 1
        changed = differing(then, parse(now))
        assert all(
            f"{field}={then[field]!r} (not {serialize.flatten(parse(now))[field]!r})" in message for field in changed
        )
        assert differing(then, config) == set()
        validate_run.check_config(config, origins)
        resumed_run.check_workdir(config, tmp_path)
        assert "another model" not in capsys.readouterr().out
        assert config.steps == now.steps  # taken from the recipe, as ever
        text = resumed_run.to_json(config, origins)
        assert "decay" not in json.loads(text)["optimizer"]


@pytest.mark.parametrize("spec", ["lit", "siglip", "captioner:variant=captioner-B/16", "clip:variant=H/14"])
def test_a_run_that_began_today_is_not_touched(spec, tmp_path, capsys):
    began = recipe_lib.load_recipe(spec)
    began.data.train = "shapes"
    began.optimizer.eps, began.schedule.warmup, began.data.flip = 1e-5, 3, not began.data.flip
    (tmp_path / "config.json").write_text(serialize.to_json(began))
    now = recipe_lib.load_recipe(spec)
    config, origins = resumed_run.keep(parse(now), tmp_path)
    assert config == parse(now) and not origins.kept
    assert not capsys.readouterr().out


def test_a_clamp_that_its_size_no_longer_has(tmp_path, capsys):
    """A recipe of one's own that says nothing of decay."""
    config = schema.base_config("tiny-siglip")
    stored = json.loads(serialize.to_json(config))
    stored["model"]["max_logit_scale"] = 100.0
    del stored["optimizer"]["decay"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    kept, origins = resumed_run.keep(parse(config), tmp_path)
    assert config.model.max_logit_scale is None and kept.model.max_logit_scale == 100.0
    assert origins.kept == ("optimizer.decay",)
    assert "goes on as it began: model.max_logit_scale=100.0" in capsys.readouterr().out


def older_json(**changes):
    """A stored config without the fields of today's optimizer."""
    config = runs.config(**changes)
    stored = json.loads(serialize.to_json(config))
    for group, name in (("optimizer", "b2_cap"), ("optimizer", "update_clip"), ("schedule", "final_of")):
        del stored[group][name]
    return json.dumps(stored)


def test_what_an_older_adafactor_and_rsqrt_did():
    before = serialize.from_json(older_json(optimizer__name="adafactor"))
    assert (before.optimizer.b2_cap, before.optimizer.update_clip) == (1.0, 1.0)
    before = serialize.from_json(older_json(schedule__name="rsqrt", schedule__cooldown=9))
    assert before.schedule.final_of == "rate"
    for changes in ({}, dict(schedule__name="rsqrt"), dict(schedule__name="constant", schedule__cooldown=9)):
        before = serialize.from_json(older_json(**changes))
        assert (before.optimizer.b2_cap, before.optimizer.update_clip) == (0.999, 0.0)
        assert before.schedule.final_of == "peak"
