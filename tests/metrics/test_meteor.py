"""METEOR: the conversation with its program by a stand-in, and the program itself where there is Java."""

import json
import shutil
import sys

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.metrics import meteor
from tests.helpers import runs

GOLDEN = json.loads((runs.ROOT / "tests/golden/captions.json").read_text())["meteor"]

# Statistics are the lengths of the candidate and of all references; the score is their ratio.
STAND_IN = """
import sys
for line in sys.stdin:
    kind, *parts = [part.strip() for part in line.rstrip("\\n").split("|||")]
    if kind == "SCORE":
        print(len(parts[-1].split()), sum(len(part.split()) for part in parts[:-1]))
    else:
        pairs = [tuple(map(int, part.split())) for part in parts]
        for mine, theirs in pairs:
            print(mine / theirs)
        print(sum(m for m, _ in pairs) / sum(t for _, t in pairs))
    sys.stdout.flush()
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    def use(text):
        (tmp_path / "program.py").write_text(text)
        monkeypatch.setattr(meteor, "_command", lambda: ([sys.executable, "program.py"], tmp_path))

    return use


def test_each_caption_and_the_whole_are_asked_for(program):
    program(STAND_IN)
    corpus, captions = meteor.meteor(["a b\nc", "x ||| y"], [["a b", "c|||d e f"], ["x y z", "w"]], tokenized=True)
    np.testing.assert_allclose(captions, [3 / 6, 2 / 4])
    assert corpus == 5 / 10


def test_many_captions_do_not_block_the_pipes(program):
    program(STAND_IN)
    texts = ["word " * 50] * 3000
    assert meteor.meteor(texts, [[text] for text in texts], tokenized=True)[0] == 1


@pytest.mark.parametrize(
    "text, message",
    [
        ("import sys; sys.exit('no heap')", r"ended early \(no heap\)"),
        ("import time; time.sleep(60)", "did not answer in time"),
        (STAND_IN.replace("mine / theirs", "'?'"), "expected a score"),
    ],
)
@pytest.mark.parametrize("captions", [1, 20_000])  # more than a pipe takes
def test_a_program_that_fails_is_told_of(program, captions, text, message):
    program(text)
    with pytest.raises(UserError, match=message):
        meteor.meteor(["a b c d e"] * captions, [["a"]] * captions, tokenized=True, timeout=2)


def test_what_is_missing_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(meteor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install 'mmjax"):
        meteor.meteor(["a"], [["a"]])
    folder = tmp_path / "meteor"
    folder.mkdir()
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(meteor.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match="has no meteor-1.5.jar"):
        meteor.meteor(["a"], [["a"]])
    (folder / "meteor-1.5.jar").touch()
    monkeypatch.setattr(meteor.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs Java"):
        meteor.meteor(["a"], [["a"]])


@pytest.mark.full
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR's own program needs Java, which is not on PATH")
def test_scores_are_those_of_pycocoevalcap():
    corpus, captions = meteor.meteor(GOLDEN["candidates"], GOLDEN["references"], tokenized=True)
    assert corpus == pytest.approx(GOLDEN["score"], abs=1e-12)
    np.testing.assert_allclose(captions, GOLDEN["each"], atol=1e-12)
