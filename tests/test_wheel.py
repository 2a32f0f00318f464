"""An installed wheel works by itself: commands, recipes by name, vocabulary."""

import json
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from scripts.check_release import TINY
from tests.helpers import runs

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_prompts_with_their_licences_and_templates_are_in_the_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("mmjax/data/classes", "mmjax/report/templates"):
        assert {f"{folder}/{path.name}" for path in (ROOT / folder).iterdir()} <= set(names)
    assert {"mmjax/data/classes/LICENSE-clip-benchmark", "mmjax/configs/eval.py", "mmjax/py.typed"} <= set(names)


def _environment(folder):
    """Nothing of this checkout but the compiled programs; quick compilation."""
    environment = runs.environment(HOME=str(folder))
    return {name: value for name, value in environment.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def _train_and_evaluate(mmjax, folder):
    run = lambda *words: subprocess.run(
        [str(mmjax), *words], cwd=folder, env=_environment(folder), capture_output=True, text=True
    )
    trained = run("train", "--workdir=run", *TINY)
    assert trained.returncode == 0, trained.stderr
    evaluated = run("eval", "--workdir=run")
    assert evaluated.returncode == 0, evaluated.stderr
    (record,) = json.loads((folder / "run/eval/2.json").read_text())
    assert record["dataset"] == "digits" and 0 <= record["metrics"]["acc1"] <= 1
    assert (folder / "run/report.html").exists()
    listing = run("--help")
    assert "clip" in listing.stdout and "siglip" in listing.stdout


@pytest.mark.full
def test_wheel_names_all_its_dependencies(wheel, tmp_path):
    """The wheel in an empty venv, with what it asks for and nothing else; it runs away from the checkout."""
    venv.create(tmp_path / "env", with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(tmp_path / "env/bin/python")]
    # What is imported is compiled when it is; most of it is not.
    subprocess.run([*pip, "install", "-q", "--no-compile", str(wheel)], check=True, capture_output=True)
    _train_and_evaluate(tmp_path / "env/bin/mmjax", tmp_path)
    listed = subprocess.run([*pip, "list"], capture_output=True, text=True, check=True).stdout.lower()
    assert "mmjax" in listed and "tensorflow" not in listed and "torch" not in listed
