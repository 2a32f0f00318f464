"""Recipes, overrides and stored configs."""

import math

import pytest

from mmjax.config import overrides, recipe, schema, serialize
from mmjax.errors import UserError


def test_parse_arg_reads_the_type_of_the_default():
    args = recipe.parse_arg("steps=7,rate=1,name=B/32,flag=true", steps=1, rate=0.5, name="x", flag=False, other=3)
    assert args.to_dict() == {"steps": 7, "rate": 1.0, "name": "B/32", "flag": True, "other": 3}
    assert type(args.rate) is float
    with pytest.raises(UserError, match="variant"):
        recipe.parse_arg("varient=B/32", variant="B/16")
    with pytest.raises(UserError, match="key=value"):
        recipe.parse_arg("B/32", variant="B/16")
    with pytest.raises(UserError, match="an integer"):
        recipe.parse_arg("steps=many", steps=1)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("steps", "12", 12),
        ("steps", "1e5", 100_000),
        ("optimizer.learning_rate", "1", 1.0),
        ("optimizer.learning_rate", "3e-4", 3e-4),
        ("data.flip", "True", True),
        ("data.train", "pairs:a=b.tsv", "pairs:a=b.tsv"),
        ("data.train", "123", "123"),
        ("optimizer.freeze", "('image/.*', 'image_head/.*')", ("image/.*", "image_head/.*")),
        ("optimizer.freeze", "image/.*", ("image/.*",)),
        ("data.crop_scale", "(0.5, 1)", (0.5, 1)),
        ("model.logit_bias_init", "-10", -10.0),
        ("model.logit_bias_init", "none", None),
    ],
)
def test_a_field_is_set_from_text(path, text, value):
    config = schema.base_config()
    overrides.apply(config, [(path, text)])
    result = serialize.flatten(config)[path]
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("optimizr.b1", "0.5", "did you mean 'optimizer'"),
        ("optimizer.learning_rat", "0.5", "did you mean 'learning_rate'"),
        ("optimizer", "adamw", "group of fields"),
        ("steps.more", "1", "steps has no field"),
        ("steps", "1.5", "an integer"),
        ("steps", "true", "an integer"),
        ("data.flip", "1", "true or false"),
        ("optimizer.learning_rate", "fast", "a number"),
        ("optimizer.learning_rate", "nan", "a number"),
        ("optimizer.learning_rate", "none", "a number"),
        ("data.crop_scale", "(0.5,)", "a tuple"),
        ("optimizer.freeze", "3", "a tuple"),
    ],
)
def test_a_wrong_field_or_value_is_named(path, text, message):
    config = schema.base_config()
    before = config.to_dict()
    with pytest.raises(UserError, match=message) as caught:
        overrides.apply(config, [(path, text)])
    assert f"--config.{path}" in str(caught.value) and "\n" not in str(caught.value)
    assert config.to_dict() == before


def test_json_round_trip_keeps_tuples_and_fills_new_fields():
    config = schema.base_config("tiny")
    config.optimizer.freeze = ("image/.*",)
    config.optimizer.multipliers = (("text/.*", 0.5),)
    text = serialize.to_json(config)
    assert serialize.from_json(text).to_dict() == config.to_dict()
    older = text.replace('"ema_decay": 0.0,', "")
    assert older != text and serialize.from_json(older).ema_decay == 0.0
    with pytest.raises(AttributeError):
        serialize.from_json(text).no_such_field = 1


def test_differences_names_old_and_new():
    a, b = schema.base_config(), schema.base_config()
    b.steps, b.model.text.width = 5, 640
    assert serialize.differences(a, b) == ["model.text.width: 512 -> 640", "steps: 10000 -> 5"]
    assert serialize.differences(a, b, ("model.",)) == ["model.text.width: 512 -> 640"]
    assert serialize.differences(a, a) == []


def test_a_recipe_is_found_by_name_and_by_path(tmp_path):
    by_name = recipe.load_recipe("clip:variant=L/14")
    by_path = recipe.load_recipe(f"{recipe.recipe_folder() / 'clip.py'}:variant=L/14")
    assert by_name.to_dict() == by_path.to_dict()
    assert by_name.model.image.width == 1024 and math.isclose(by_name.optimizer.learning_rate, 4e-4)
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        recipe.load_recipe("quikstart")
    with pytest.raises(UserError, match="did you mean 'B/32'"):
        recipe.load_recipe("clip:variant=B/33")
    lines = [
        "from mmjax.config.schema import base_config",
        "def get_config(arg):",
        "    c = base_config()",
        "    c.step = 1",
    ]
    (tmp_path / "mine.py").write_text("\n".join([*lines, "    return c"]))
    with pytest.raises(UserError, match=r"recipe failed .*line 4"):
        recipe.load_recipe(str(tmp_path / "mine.py"))


@pytest.mark.parametrize("field", ["model.match", "optimizer.learning_rat"])
def test_a_field_that_a_recipe_cannot_set_is_told_without_all_the_others(tmp_path, field):
    lines = ["from mmjax.config.schema import base_config", "def get_config(arg):", "    c = base_config('small-coca')"]
    (tmp_path / "mine.py").write_text("\n".join([*lines, f"    c.{field} = 1", "    return c"]))
    with pytest.raises(UserError, match=rf"recipe failed .*{field.partition('.')[2]}.*\(line 4\)$") as caught:
        recipe.load_recipe(str(tmp_path / "mine.py"))
    message = str(caught.value).replace(str(tmp_path), "")
    assert "\n" not in message and "Other fields" not in message and len(message) < 250
