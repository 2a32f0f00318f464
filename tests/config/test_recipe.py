"""Recipes written for mmjax 0.1 (`fixtures/recipes_0_1`, configs/ of commit 3eccfb9) still run."""

import sys

import pytest

from mmjax.config import recipe
from mmjax.training import validate_run
from tests.helpers import runs

RECIPES = sorted((runs.ROOT / "tests/fixtures/recipes_0_1").glob("*.py"))


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem != "eval"], ids=lambda path: path.stem)
def test_a_recipe_of_0_1_is_read_and_passes_all_checks(path):
    config = recipe.load_recipe(f"{path}:steps=10" if "steps=" in path.read_text() else str(path))
    if not config.data.train:
        config.data.train = "shapes"
    validate_run.check_config(config)


def test_a_suite_of_0_1_is_read():
    assert "datasets" in recipe.run_file(str(RECIPES[0].with_name("eval.py")))


def test_old_names_are_gone_after_a_recipe_has_run():
    recipe.load_recipe(str(RECIPES[0]))
    assert "mmjax.recipes" not in sys.modules
    with pytest.raises(ImportError):
        import mmjax.recipes  # noqa: F401
