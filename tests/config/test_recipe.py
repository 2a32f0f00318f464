"""Recipes written for mmjax 0.1 (`fixtures/recipes_0_1`, configs/ of commit 3eccfb9) still run."""

import sys

import pytest

from mmjax.config import parse, recipe
from mmjax.errors import UserError
from mmjax.training import validate_run
from tests.helpers import runs

RECIPES = sorted((runs.ROOT / "tests/fixtures/recipes_0_1").glob("*.py"))


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem != "eval"], ids=lambda path: path.stem)
def test_a_recipe_of_0_1_is_read_and_passes_all_checks(path):
    config = recipe.load_recipe(f"{path}:steps=10" if "steps=" in path.read_text() else str(path))
    if not config.data.train:
        config.data.train = "shapes"
    validate_run.check_config(parse(config))


def test_a_suite_of_0_1_is_read():
    assert "datasets" in recipe.run_file(str(RECIPES[0].with_name("eval.py")))


def test_old_names_are_gone_after_a_recipe_has_run():
    recipe.load_recipe(str(RECIPES[0]))
    assert "mmjax.recipes" not in sys.modules
    with pytest.raises(ImportError):
        import mmjax.recipes  # noqa: F401


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"x = 1\n", "the file defines no get_config; write def get_config"),
        (b"import sys\nsys.exit(3)\n", r"SystemExit: 3 \(line 2\)"),
        (b"import no_such_module\n", r"No module named 'no_such_module' \(line 1\)"),
        (b"def get_config(:\n", r"SyntaxError: .*\(line 1\)"),
        (b"x = 1\0\n", "null bytes"),
        (b"from mmjax.config import base_config\nbase_config().batchsize = 3\n", "Did you mean 'batch_size'"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_one_line_that_names_the_file(text, message, tmp_path):
    path = tmp_path / "mine.py"
    path.write_bytes(text)
    with pytest.raises(UserError, match=message) as caught:
        recipe.load_recipe(str(path))
    message = str(caught.value)
    assert message.startswith(f"--config={path}: ") and "\n" not in message and "None)" not in message


def test_a_suite_is_no_run():
    with pytest.raises(UserError, match="--config=eval is a suite of evaluations.*mmjax eval"):
        recipe.load_recipe("eval")


def test_a_name_in_capitals_is_near():
    with pytest.raises(UserError, match="did you mean 'clip'"):
        recipe.load_recipe("CLIP")


def test_a_recipe_may_name_its_encoding(tmp_path):
    path = tmp_path / "mine.py"
    path.write_bytes('# -*- coding: latin-1 -*-\n"""Déjà."""\n'.encode("latin-1"))
    assert recipe.describe(path).docstring == "Déjà."


def test_a_recipe_may_change_another_one_s(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from mmjax.config import load_recipe\n"
        "def get_config(arg):\n"
        "    config = load_recipe('quickstart')\n"
        "    config.steps = 7\n"
        "    return config\n"
    )
    assert recipe.load_recipe(str(path)).steps == 7
