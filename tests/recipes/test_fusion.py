"""The fusion recipe: each kind is a complete config, and a short run classifies with modalities missing."""

import json

import jax
import numpy as np
import pytest

from mmjax import tasks
from mmjax.config import parse, recipe, serialize
from mmjax.data.sources.sensors import Sensors, best_accuracy
from mmjax.errors import UserError
from mmjax.registry import fusions
from mmjax.training import train, validate_run


@pytest.mark.parametrize(
    "arg",
    [*(f"kind={kind},dropout=0.3" for kind in fusions if kind != "alone"), "only=table", "kind=late,combine=linear"],
)
def test_every_kind_is_a_complete_config(arg):
    config = recipe.load_recipe(f"fusion:{arg}")
    validate_run.check_config(parse(config))
    assert serialize.from_json(serialize.to_json(config)).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    "arg, message",
    [("kind=jiont", "'joint'"), ("kind=alone", "choose one of"), ("only=imge", "'image'"), ("combine=mean", "linear")],
)
def test_a_mistake_in_the_argument_is_reported_in_one_line(arg, message):
    with pytest.raises(UserError, match=message):
        recipe.load_recipe(f"fusion:{arg}")


def test_classes_and_modalities_are_checked_against_the_data():
    config = recipe.load_recipe("fusion")
    config.model.classes = 7
    with pytest.raises(UserError, match="model.classes=7, but 'sensors/train' has 8"):
        tasks.read_dataset_metadata(parse(config), tasks.open_mixture(parse(config)))
    config.model.classes = 8
    with config.unlocked():
        config.model.encoders.lidar = config.model.encoders.series
    with pytest.raises(UserError, match="model.encoders.lidar: 'sensors/train' has no such modality; it has image, s"):
        tasks.read_dataset_metadata(parse(config), tasks.open_mixture(parse(config)))


def test_training_gets_the_modalities_of_a_record_with_its_gaps():
    config = recipe.load_recipe("fusion")
    facts = tasks.read_dataset_metadata(parse(config), tasks.open_mixture(parse(config)))
    task = tasks.Task(parse(config), None, None, None, facts)
    record = dict(Sensors()[0])
    table = record["modalities"]["table"].copy()
    table[1] = np.nan
    record["modalities"] = {"table": table, "image": record["modalities"]["image"]}
    arrays = task.example_transform(record, np.random.default_rng(0))
    np.testing.assert_array_equal(arrays["present"], [True, False, True])
    np.testing.assert_array_equal(arrays["table"], table)
    assert arrays["series"].shape == (32, 4) and not arrays["series"].any()
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    assert {"encoder_image", "encoder_series", "encoder_table", "fusion", "head"} == set(shapes)


@pytest.mark.full
def test_a_short_run_classifies_with_modalities_missing(tmp_path):
    config = recipe.load_recipe("fusion:kind=late,dropout=0.3,steps=60")
    config.log.tensorboard = False
    train.train(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    metrics = {key.partition("/")[2]: value for line in lines if line["kind"] == "eval" for key, value in line.items()}
    names = ("image", "series", "table")
    assert 0.8 < metrics["acc1"] < best_accuracy(names) + 0.03
    for name in names:
        others = [other for other in names if other != name]
        assert metrics[f"acc1_only_{name}"] < best_accuracy([name]) + 0.04
        assert 0.6 < metrics[f"acc1_without_{name}"] < best_accuracy(others) + 0.03
