"""docs/recipes-sources.md against the recipes: its third column is what they say, and its fourth why they differ."""

import re

import pytest

from mmjax.config import recipe as recipe_lib
from mmjax.config import schema, serialize
from tests.helpers import runs

PAGE = runs.ROOT / "docs/recipes-sources.md"


def tables() -> dict[str, list[list[str]]]:
    """Rows of cells by the recipe that heads them."""
    sections = re.split(r"^## `(.*)`$", PAGE.read_text(), flags=re.M)[1:]
    rows = lambda text: [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    return {name: rows(text)[2:] for name, text in zip(sections[::2], sections[1::2], strict=True)}


TABLES = tables()
FIELDS = [(recipe, *cells) for recipe, rows in TABLES.items() for cells in rows if re.fullmatch(r"`[\w.]+`", cells[0])]


def value(cell: str):
    """A number, text or tuple written as Python between backticks."""
    code = re.fullmatch(r"`(.*)`", cell)
    assert code, f"{cell!r} is no value between backticks"
    return eval(code[1], {"__builtins__": {}})


@pytest.mark.parametrize("recipe, field, source, ours, why", FIELDS)
def test_a_row_says_what_the_recipe_does(recipe, field, source, ours, why):
    fields = serialize.flatten(recipe_lib.load_recipe(recipe))
    assert fields[field.strip("`")] == value(ours)
    assert value(source) == value(ours) or why, f"{recipe}: {field} differs from its source for no reason"


def test_every_row_has_four_cells_and_prose_has_a_reason():
    for recipe, rows in TABLES.items():
        for cells in rows:
            assert len(cells) == 4, (recipe, cells)
            prose = not cells[0].startswith("`")
            same = "the same" in (cells[1], cells[2]) or "init_from" in cells[2] or "that of" in cells[2]
            assert not prose or cells[3] or same, (recipe, cells)


def test_every_published_recipe_is_there():
    named = {recipe.partition(":")[0] for recipe in TABLES}
    recipes = {file.stem for file in recipe_lib.recipe_folder().glob("*.py")}
    assert recipes - named == {"quickstart", "fusion", "classify", "action", "finetune", "eval"}


# What decides the training's numbers; of `data` all but where examples come from and how they are read.
DECIDES = ("objectives.", "optimizer.", "schedule.", "loss.", "data.", "model.init", "model.logit_", "model.max_logit")
DECIDES += ("batch_size", "steps", "ema_decay")
READING = {
    f"data.{name}"
    for name in ("workers", "threads", "train", "eval", "tokenizer", "texts", "caption_prompt", "cache", "prefetch")
}


@pytest.mark.parametrize("recipe", TABLES)
def test_every_field_that_a_recipe_sets_has_a_row(recipe):
    """A further size of a recipe has rows for what differs from the first."""
    first = next(name for name in TABLES if name.partition(":")[0] == recipe.partition(":")[0])
    listed = {cells[0].strip("`") for name in (first, recipe) for cells in TABLES[name]}
    default, fields = (serialize.flatten(c) for c in (schema.base_config(), recipe_lib.load_recipe(recipe)))
    deciding = {field for field in fields if field.startswith(DECIDES) and fields[field] != default.get(field)}
    assert not deciding - READING - listed
