"""Code blocks of README.md and docs/: they run at toy size, or say what they need and are valid."""

import ast
import inspect
import json
import tarfile
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from mmjax.data.sources.shapes import Shapes
from mmjax.inference.load import load
from mmjax.interop import model_settings
from tests.helpers import doc_blocks, runs

BLOCKS = doc_blocks.blocks()
OF_SHELL = [block for block in BLOCKS if block.language in doc_blocks.SHELL]
OF_PYTHON = [block for block in BLOCKS if block.language == "python"]
FIXTURES = Path(__file__).parent / "fixtures" / "checkpoints"
by_name = lambda items: [pytest.param(item, id=item.name) for item in items]
# Runs that blocks name, and the stored ones that stand for them.
WORKDIRS = {
    "runs/clip": "clip",
    "runs/quickstart": "clip",
    "runs/siglip": "siglip",
    "runs/coca": "coca",
    "runs/albef": "albef",
    "runs/vqa": "vilt-answers",
    "runs/fusion": "fused-joint",
}


def test_blocks_are_found_and_have_a_language():
    assert len(OF_SHELL) > 15 and len(OF_PYTHON) > 10
    assert not [block.name for block in BLOCKS if block.language not in doc_blocks.LANGUAGES]


@pytest.mark.parametrize("block", by_name(OF_SHELL))
def test_commands_are_valid(block):
    commands = doc_blocks.commands(block)
    assert commands
    for command in commands:
        doc_blocks.check(command)


@pytest.mark.parametrize("block", by_name(OF_PYTHON))
def test_python_is_valid(block):
    """What stands in an example is a part of it, which may end within a function."""
    assert block.is_in_an_example or ast.parse(block.text).body
    if block.needs:
        check_loads(block.text)


def check_loads(text):
    """Fails where a call of `mmjax.load` has a setting that there is not."""
    known = set(inspect.signature(load).parameters)
    for call in ast.walk(ast.parse(text)):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "mmjax.load":
            settings = eval(f"dict({', '.join(map(ast.unparse, call.keywords))})")
            settings = {name: value for name, value in settings.items() if name not in known}
            model_settings.apply_overrides(model_settings.clip_template(), settings)


def test_a_setting_that_there_is_not_is_seen():
    check_loads("mmjax.load('a.pt', step=3, activation='gelu', **{'image.heads': 4})")
    with pytest.raises(doc_blocks.UserError, match="activatoin"):
        check_loads("mmjax.load('a.pt', activatoin='gelu')")


@pytest.mark.parametrize("block", by_name([block for block in BLOCKS if block.language == "toml"]))
def test_toml_is_valid(block):
    assert tomllib.loads(block.text)


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("python train.py --config=clip --confg.steps=3", "did you mean"),
        ("python train.py --config=clip --config.data.train=shapes --config.stepz=3", "stepz"),
        ("mmjax train --config=clip --config.data.train=pairs:a.tsv", "say `# needs: pairs:a.tsv`"),
        ("mmjax tain --config=clip", "tain"),
        ("mmjax plan --config=clip --topology=v9:4", "v9"),
        ("make quickstrat", "quickstrat"),
        ("pip install 'mmjax[htp]'", "htp"),
        ("python benchmarks/loss.py --mush=8x1x1", "loss.py has no flag --mush"),
        ("python benchmarks/lost.py", "lost.py"),
        ("img2dataset --url_list=a.tsv", "say `# needs: img2dataset`"),
    ],
)
def test_what_is_wrong_in_a_command_is_seen(line, mistake):
    (command,) = doc_blocks.commands(doc_blocks.Block("a.md", 1, "sh", line + "\n"))
    with pytest.raises((AssertionError, doc_blocks.UserError), match=mistake):
        doc_blocks.check(command)


def test_needs_are_of_the_lines_below_or_of_one_line():
    text = 'P="mmjax info"\n$P A  # needs: A\n$P B\n# needs: C\nmmjax \\\n  info C && make test\n'
    commands = doc_blocks.commands(doc_blocks.Block("a.md", 1, "sh", text))
    assert [(command.argv, command.needs) for command in commands] == [
        (("mmjax", "info", "A"), "A"),
        (("mmjax", "info", "B"), ""),
        (("mmjax", "info", "C"), "C"),
        (("make", "test"), "C"),
    ]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What went wrong in each block that was run, all in one process in a folder with what they name."""
    folder = tmp_path_factory.mktemp("docs")
    for name, stored in WORKDIRS.items():
        with tarfile.open(FIXTURES / f"{stored}.tar.xz") as tar:
            tar.extractall(folder / name, filter="data")
    (folder / "photos").mkdir()
    source = Shapes("test")
    for number in range(8):
        Image.fromarray(source[number]["image"]).save(folder / "photos" / f"{number}.jpg")
    (folder / "configs").symlink_to(doc_blocks.ROOT / "configs")
    items = [
        {"name": block.name, "text": block.text}
        for block in OF_PYTHON
        if not block.is_in_an_example and not block.needs
    ]
    for block in OF_SHELL:
        for command in doc_blocks.commands(block):
            name, arguments = command.ours if command.is_run else ("", [])
            if name and [name, *arguments] not in [item.get("argv") for item in items]:
                items.append({"name": f"{block.name} {' '.join(command.argv)}", "argv": [name, *arguments]})
    (folder / "blocks.json").write_text(json.dumps(items))
    runner = Path(__file__).parent / "helpers" / "run_doc_blocks.py"
    done = runs.python(runner, "blocks.json", "results.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text())


@pytest.mark.full
def test_blocks_run(results):
    assert not results, "\n".join(f"{name}:\n{error}" for name, error in results.items())
