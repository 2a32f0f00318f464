"""Runs that began before a field came to exist go on with what they did, start after start."""

import json
from pathlib import Path

import pytest
import runs

from mmjax import config as config_lib
from mmjax import older as older_lib
from mmjax import tasks
from mmjax.errors import UserError
from mmjax.tasks import image_fields
from mmjax.training import begun

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
    text = config_lib.to_json(recipe(data__train=pairs, **THEN))
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
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "config.json").write_text(without(config_lib.to_json(recipe(data__train=pairs, **THEN))))
    assert runs.train(recipe(data__train=pairs, **THEN), whole) is None
    assert losses(older) == losses(whole)
    runs.assert_same_arrays(runs.arrays(older, STEPS), runs.arrays(whole, STEPS))
    # With the recipe's own pictures it is another run.
    other = tmp_path / "other"
    assert runs.train(now, other) is None
    assert losses(other) != losses(whole)


def test_a_new_run_is_refused_what_an_older_one_may_go_on_with(pairs, tmp_path):
    with pytest.raises(UserError, match=r"data.crop_scale=\(1.0, 1.0\) leaves a random crop nothing to choose"):
        runs.train(recipe(data__train=pairs, **THEN), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_stored_config_with_the_field_is_changed_as_ever(tmp_path):
    stored = recipe(data__train_resize="center")
    (tmp_path / "config.json").write_text(config_lib.to_json(stored))
    now = recipe(data__train_resize="squash")
    assert begun.keep(now, tmp_path) == (now, ())
    assert json.loads(begun.to_json(now, ())) == json.loads(config_lib.to_json(now))


def test_without_a_run_nothing_is_kept(tmp_path):
    now = recipe(data__train_resize="squash")
    assert begun.keep(now, tmp_path) == (now, ())
    (tmp_path / "config.json").write_text("not JSON")
    assert begun.keep(now, tmp_path) == (now, ())
    with pytest.raises(UserError, match="config.json is not a config"):
        runs.train(now, tmp_path)


def test_what_the_command_line_asks_for_is_named_where_it_is_not_done(tmp_path, capsys):
    (tmp_path / "config.json").write_text(without(config_lib.to_json(recipe(**THEN))))
    asked = {"data.crop_scale": (0.5, 1.0), "data.flip": False, "data.grayscale": 0.3}
    now = recipe(data__train_resize="squash")
    now.update_from_flattened_dict(asked)
    kept, _ = begun.keep(now, tmp_path)
    message = capsys.readouterr().out
    was = {"data.crop_scale": (1.0, 1.0), "data.flip": True, "data.grayscale": 0.0}
    for field, value in was.items():
        assert config_lib.flatten(kept)[field] == value
        assert f"{field}={value!r} (not {asked[field]!r})" in message
    assert "interpolation" not in message  # was not asked for
    # Where the recipe's pictures are those of before, what is asked for is done, and told as ever.
    now = recipe(data__crop_scale=(0.5, 1.0))
    assert begun.keep(now, tmp_path) == (now, ("data.train_resize",))
    assert not capsys.readouterr().out


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
    stored = json.loads(config_lib.to_json(before))
    for field in ("train_resize", "randaugment_policy", "antialias", "image_rule"):
        del stored["data"][field]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    now = recipe()
    now.update_from_flattened_dict(changes)
    kept, lacking = begun.keep(now, tmp_path)
    assert tasks.make_image_spec(kept) == tasks.make_image_spec(before)
    message = capsys.readouterr().out
    assert message.count("\n") == 1 and all(f"(not {value!r})" in message for value in changes.values())
    tasks.check_images(kept, lacking, begun.stored_fields(tmp_path))
    (tmp_path / "config.json").write_text(begun.to_json(kept, lacking))
    assert tasks.make_image_spec(begun.keep(now, tmp_path)[0]) == tasks.make_image_spec(before)


def test_what_is_kept_can_still_be_set(tmp_path):
    (tmp_path / "config.json").write_text(without(config_lib.to_json(recipe(**THEN))))
    kept, lacking = begun.keep(recipe(data__train_resize="squash"), tmp_path)
    assert lacking == ("data.train_resize",) and kept.data.train_resize == "crop"
    kept.deterministic = True  # fields of true, false or 'auto' stay so
    kept.deterministic = "auto"
    with pytest.raises(AttributeError):
        kept.no_such_field = 1


# -- recipes of commit 3eccfb9, in tests/fixtures/configs as that code stored them -------------------------------------

CONFIGS = Path(__file__).parent.parent / "fixtures" / "configs"
# What an update is made of.
UPDATE = (
    "optimizer.",
    "schedule.",
    "model.max_logit_scale",
    "model.logit_",
    *(f"data.{name}" for name in image_fields.DEFAULTS if name != "resize_on"),  # which the checkpoint knows
)


@pytest.mark.parametrize(
    "spec", ["clip:variant=tiny", "siglip:variant=tiny", "lit:variant=tiny", "coca:variant=coca-B/32"]
)
def test_the_recipes_of_before(spec, tmp_path, capsys):
    """Under today's recipe a run has the update that it had, start after start; other numbers are told one by one."""
    text = (CONFIGS / f"{spec.partition(':')[0]}.json").read_text()
    then = config_lib.flatten(config_lib.from_json(text))
    stored = older_lib.flatten(json.loads(text))
    for _ in range(2):
        (tmp_path / "config.json").write_text(text)
        now = config_lib.load_recipe(spec)
        now.data.train = "shapes"
        config, lacking = begun.keep(now, tmp_path)
        message = capsys.readouterr().out
        assert message.count("came to exist") == 1 and "optimizer.decay=('matrices',)" in message
        fields = config_lib.flatten(config)
        decides = [field for field in fields if field.startswith(UPDATE)]
        # Numbers that the recipe may have changed since are the recipe's to tell.
        changed = [field for field in decides if fields[field] != then[field]]
        changed = [field for field in changed if field != "data.resize_on"]
        assert not [field for field in changed if field not in stored or field.startswith("data.")]
        assert "model.max_logit_scale" not in changed and fields["optimizer.decay_scaled_by_lr"] is True
        text = begun.to_json(config, lacking)
        assert "decay" not in json.loads(text)["optimizer"]
    assert then["model.max_logit_scale"] == 100.0


def test_a_clamp_that_its_size_no_longer_has(tmp_path, capsys):
    """A recipe of one's own that says nothing of decay."""
    config = config_lib.base_config("tiny-siglip")
    stored = json.loads(config_lib.to_json(config))
    stored["model"]["max_logit_scale"] = 100.0
    del stored["optimizer"]["decay"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    kept, lacking = begun.keep(config, tmp_path)
    assert config.model.max_logit_scale is None and kept.model.max_logit_scale == 100.0
    assert lacking == ("optimizer.decay",)
    assert "goes on as it began: model.max_logit_scale=100.0" in capsys.readouterr().out


def lacking_json(**changes):
    """A stored config without the fields of today's optimizer."""
    config = runs.config(**changes)
    stored = json.loads(config_lib.to_json(config))
    for group, name in (("optimizer", "b2_cap"), ("optimizer", "update_clip"), ("schedule", "final_of")):
        del stored[group][name]
    return json.dumps(stored)


def test_what_an_older_adafactor_and_rsqrt_did():
    before = config_lib.from_json(lacking_json(optimizer__name="adafactor"))
    assert (before.optimizer.b2_cap, before.optimizer.update_clip) == (1.0, 1.0)
    before = config_lib.from_json(lacking_json(schedule__name="rsqrt", schedule__cooldown=9))
    assert before.schedule.final_of == "rate"
    for changes in ({}, dict(schedule__name="rsqrt"), dict(schedule__name="constant", schedule__cooldown=9)):
        before = config_lib.from_json(lacking_json(**changes))
        assert (before.optimizer.b2_cap, before.optimizer.update_clip) == (0.999, 0.0)
        assert before.schedule.final_of == "peak"
