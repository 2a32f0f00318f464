"""`mmjax recipes` and `mmjax train --print-config`, which answer at once."""

import subprocess
import sys

import pytest

from mmjax.cli import main, recipes
from mmjax.config import recipe


def lines(capsys, *argv):
    assert main.main(argv) == 0
    return capsys.readouterr().out.splitlines()


def test_all_recipes_are_listed_with_what_they_are(capsys):
    shown = lines(capsys, "recipes")
    assert [line.split()[0] for line in shown] == recipe.names()
    assert (
        "CLIP (arXiv:2103.00020) with the published recipe, on your image-text pairs."
        in shown[recipe.names().index("clip")]
    )


@pytest.mark.parametrize("name", recipe.names())
def test_a_recipe_shows_its_docstring_and_the_arguments_that_it_takes(name, capsys):
    shown = lines(capsys, "recipes", name)
    first = recipe.describe(recipe.find(name, "")).docstring.splitlines()[0]
    assert shown[0] == first
    assert any(line.startswith(f"Arguments, as in --config={name}:") for line in shown)


def test_arguments_have_their_defaults(capsys, tmp_path):
    shown = lines(capsys, "recipes", "vilt")
    shown = [line.split() for line in shown]
    assert ["variant", "default", "'small-vilt'"] in shown and ["steps", "default", "0"] in shown
    (tmp_path / "mine.py").write_text('"""Mine."""\n\nraise RuntimeError("it was run")\n')
    assert lines(capsys, "recipes", str(tmp_path / "mine.py")) == ["Mine.", "", "It takes no arguments."]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["quikstart"], "did you mean 'quickstart'"),
        (["clip", "--config.steps=3"], "--config.steps sets nothing here"),
        (["clip", "vilt"], "flag 'vilt' is not known"),
        (["clip:variant=L/14"], "leave out what follows the colon"),
    ],
)
def test_mistakes(argv, message, capsys):
    assert recipes.main(argv) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_not_python(capsys, tmp_path):
    (tmp_path / "mine.py").write_text("def get_config(:")
    assert recipes.main([str(tmp_path / "mine.py")]) == 2
    assert "mine.py: not a Python file (SyntaxError: " in capsys.readouterr().err


def test_the_config_is_printed_as_the_flags_have_it(capsys):
    shown = lines(capsys, "train", "--config=quickstart", "--print-config", "--config.optimizer.b1=0.5")
    assert "* optimizer.b1 = 0.5" in shown and "  data.window = 8" in shown
    assert main.main(["train", "--config=quickstart", "--print-config", "--config.loss.impl=rng"]) == 2
    assert "loss.impl='rng' is not known (did you mean 'ring'?)" in capsys.readouterr().err


def test_what_a_printed_config_does_not_do_is_not_passed_over(capsys):
    assert main.main(["train", "--config=quickstart", "--print-config", "--dry-run"]) == 2
    assert "--print-config and --dry-run: give one of them" in capsys.readouterr().err
    assert main.main(["train", "--config=quickstart", "--print-config", "--workdir=runs/mine"]) == 0
    assert "--workdir is not read" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--workdir="], ["--workdir=", "--dry-run"]])
def test_training_needs_a_workdir(flags, capsys):
    assert main.main(["train", "--config=quickstart", *flags]) == 2
    assert "--workdir is missing" in capsys.readouterr().err


QUICK = (["--help"], ["recipes"], ["recipes", "clip"], ["train", "--config=clip", "--print-config"])


# What a command that answers at once may import of other packages. jax alone takes seconds.
QUICK_PACKAGES = {"absl", "ml_collections", "mmjax", "yaml"}
LIST_IMPORTS = """
import importlib.metadata, sys
before = set(sys.modules)
from mmjax.cli import main
main.main(sys.argv[1:])
packages = importlib.metadata.packages_distributions()
imported = {name.partition(".")[0] for name in sys.modules.keys() - before}
print(*sorted(name for name in imported if name in packages), file=sys.stderr)
"""


@pytest.mark.parametrize("argv", QUICK, ids=" ".join)
def test_answers_without_libraries_that_take_long(argv):
    done = subprocess.run([sys.executable, "-c", LIST_IMPORTS, *argv], check=True, capture_output=True, text=True)
    assert set(done.stderr.split()) <= QUICK_PACKAGES


def test_a_reader_that_leaves_is_no_error():
    code = "import sys; from mmjax.cli import main; sys.exit(main.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", "--config=clip", "--print-config"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141
