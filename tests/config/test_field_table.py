"""Every field of a config with its value and its documentation, as `--print-config` prints it."""

import pytest

from mmjax.config import field_table, overrides, recipe, schema, serialize
from mmjax.errors import UserError

RECIPES = [name for name in recipe.names() if name not in ("eval", "finetune")]  # which need more


@pytest.mark.parametrize("name", RECIPES)
def test_every_field_of_a_recipe_is_in_the_table_once(name):
    config = recipe.load_recipe(name)
    rows = list(field_table.fields(config))
    kinds = {row.path for row in rows if row.path.rpartition(".")[2] == "kind"}
    assert len({row.path for row in rows}) == len(rows)
    assert {row.path: row.value for row in rows} == serialize.flatten(config)
    assert all(row.doc for row in rows)
    assert ("model.kind" in kinds) == ("kind" in config.model)


def test_the_base_config_differs_in_nothing():
    for variant in ("B/32", "tiny-coca", "tiny-captioner-lstm"):
        rows = field_table.fields(schema.base_config(variant))
        assert [row.path for row in rows if row.value != row.default] == []


def test_what_differs_is_marked_and_says_the_default():
    config = schema.base_config("tiny")
    overrides.apply(config, [("optimizer.b1", "0.5"), ("model.image.width", "64")])
    lines = field_table.to_text(config).splitlines()
    marked = [line for line in lines if line.startswith("*")]
    assert marked == ["* model.image.width = 64", "* optimizer.b1 = 0.5"]
    assert lines[lines.index("* model.image.width = 64") + 1].endswith("(default: 32)")
    assert "  data.window = 8" in lines and max(map(len, lines)) <= 120


def test_a_config_that_does_not_fit_has_no_table():
    config = schema.base_config()
    with config.ignore_type():
        config.steps = "many"
    with pytest.raises(UserError, match="steps='many' wants an integer"):
        field_table.to_text(config)
