"""Runs that began before a field came to exist go on with what they did, start after start."""

import json

import pytest
import runs

from mmjax import config as config_lib
from mmjax.errors import UserError
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
    told = capsys.readouterr().out
    assert "data.train_resize='squash' came to exist after this run began" in told
    assert "data.train_resize='crop', data.crop_scale=(1.0, 1.0), data.crop_ratio=(1.0, 1.0)" in told
    assert told.count("came to exist") == 1 and "changed since the run in this workdir began: data.crop" not in told
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


def test_what_is_kept_can_still_be_set(tmp_path):
    (tmp_path / "config.json").write_text(without(config_lib.to_json(recipe(**THEN))))
    kept, lacking = begun.keep(recipe(data__train_resize="squash"), tmp_path)
    assert lacking == ("data.train_resize",) and kept.data.train_resize == "crop"
    kept.deterministic = True  # fields of true, false or 'auto' stay so
    kept.deterministic = "auto"
    with pytest.raises(AttributeError):
        kept.no_such_field = 1
