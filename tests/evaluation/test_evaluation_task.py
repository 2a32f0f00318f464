"""Evaluations as objects: one of another package, in training, eval.py and suites, and what is said of mistakes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from mmjax import plugin_imports, registry
from mmjax.config import schema, serialize
from mmjax.evaluation import evaluation_task
from mmjax.evaluation.config import EvaluationSettings
from mmjax.evaluation.evaluation_task import EvaluationTask
from tests.helpers import plugin_files, recorded_model, runs
from tests.helpers.plugin_files import message, one_line

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"
SUITE = """
from mmjax.config import dataset, suite_config

def get_config(arg=""):
    config = suite_config(plugins=("aligned",))
    config.datasets.{name} = dataset("{source}", "zeroshot_retrieval", "distance")
    config.collection = "{name}"
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a run lies that was evaluated by the evaluation of the docs, with that and its data."""
    folder = tmp_path_factory.mktemp("evaluations")
    code = DOCS.read_text().partition("### Evaluations of your own")[2].partition("```python\n")[2].partition("```")[0]
    (folder / "aligned.py").write_text(code)
    source = f"pairs:{runs.write_pairs(folder / 'pictures', count=12)}"
    (folder / "suite.py").write_text(SUITE.format(name="captions", source=source))
    with plugin_files.path_entry(folder):
        plugin_imports.import_plugins(("aligned",))
        config = runs.config(steps=2, plugins=("aligned",), data__train=source, data__eval=source, eval__batch_size=4)
        with recorded_model.record() as recording:
            assert runs.train(config, folder / "run") is None
    recording.save(folder / "recording.npz")
    return folder


@pytest.fixture
def here(folder):
    """That folder, whose plugin can be imported."""
    with plugin_files.path_entry(folder):
        yield folder


def in_training(folder):
    (line,) = runs.lines(folder / "run", "eval")
    return line


def evaluated(output):
    return {record["task"]: record for record in json.loads(output.read_text())}


def test_by_default_it_runs_beside_ours(folder):
    line = in_training(folder)
    recording = recorded_model.Recording.load(folder / "recording.npz")
    (images,), texts = recording.passes, recording.texts  # embedded once for both
    pairs = [row.split("\t") for row in (folder / "pictures" / "captions.tsv").read_text().splitlines()[1:]]
    captions = np.stack([texts[caption] for _, caption in pairs])
    expected = np.square(images.astype(np.float64) - captions).sum(axis=1).mean()
    assert line["captions/distance/distance"] == pytest.approx(expected, rel=1e-5)
    assert 0 <= line["captions/image_retrieval_recall@1"] <= 1


def test_eval_py_and_suites_give_what_training_gave(here, capsys):
    line, flags = in_training(here), [f"--workdir={here / 'run'}", "--plugins=aligned"]
    assert runs.eval_cli(*flags, f"--output={here / 'plain.json'}") == 0
    plain = evaluated(here / "plain.json")
    assert [*plain] == ["zeroshot_retrieval", "distance"]
    assert plain["distance"]["metrics"]["distance"] == line["captions/distance/distance"]
    assert runs.eval_cli(*flags, f"--output={here / 's.json'}", f"--config={here / 'suite.py'}") == 0
    suite = evaluated(here / "s.json")
    assert suite["distance"]["metrics"] == plain["distance"]["metrics"] and suite["distance"]["n"] == 12
    assert suite["distance"]["settings"]["fields"] == {"power": 2.0}
    assert "distance" in capsys.readouterr().out


def test_its_fields_are_of_eval_and_of_suites(here, capsys):
    flags = [f"--workdir={here / 'run'}", "--plugins=aligned"]
    output = here / "power.json"
    only = ["--config.eval.tasks=('distance',)", "--config.eval.distance.power=0.0"]
    assert runs.eval_cli(*flags, f"--output={output}", *only) == 0
    assert {task: record["metrics"] for task, record in evaluated(output).items()} == {"distance": {"distance": 1.0}}
    suite = [*flags, f"--output={here / 's0.json'}", f"--config={here / 'suite.py'}", "--config.collection=captions"]
    assert runs.eval_cli(*suite, "--config.distance.power=0.0") == 0
    assert evaluated(here / "s0.json")["distance"]["metrics"] == {"distance": 1.0}
    capsys.readouterr()
    assert runs.eval_cli(*flags, f"--output={output}", "--config.eval.distance.pwer=1.0") == 2
    assert "did you mean" in one_line(capsys)
    assert runs.eval_cli(*flags, f"--output={output}", "--config.eval.tasks=('distnace',)") == 2
    assert "'distnace' is not known (did you mean 'distance'?)" in one_line(capsys)


def test_without_its_plugin_a_run_says_which_it_needs(here, capsys):
    """Where it is asked for; what does not ask for it is evaluated, with a note."""
    flags = [f"--workdir={here / 'run'}", f"--output={here / 'x.json'}"]
    assert runs.eval_cli(*flags) == 0
    note = "note: the evaluation 'distance' is not run; it is of the plugin aligned (sha256."
    assert note in capsys.readouterr().out and [*evaluated(here / "x.json")] == ["zeroshot_retrieval"]
    assert runs.eval_cli(*flags, "--config.eval.tasks=('distance',)") == 2
    assert "evaluation 'distance' is of the plugin aligned" in one_line(capsys)


def test_what_is_no_evaluation_is_named():
    with plugin_files.forgotten():
        registry.evaluations.register("mine")(len)
        assert message(evaluation_task.load, "mine").startswith(f"evaluation 'mine' of {__name__} is builtin_function")


def test_ours_say_what_they_need():
    tasks = {name: evaluation_task.load(name) for name in registry.evaluations}
    assert all(isinstance(info, EvaluationTask) and info.title for info in tasks.values())
    settings = {field.name for field in dataclasses.fields(EvaluationSettings)}
    assert {field for info in tasks.values() for field in info.reads} <= settings | {"prompts", "fold_size"}
    flat = serialize.flatten(schema.base_config())
    groups = {path[:end] for path in flat for end in range(len(path) + 1) if path[end : end + 1] in ("", ".")}
    assert {field for info in tasks.values() for field in info.reads_of_run} <= groups
    assert [name for name, info in tasks.items() if info.needs_train] == ["knn", "linear_probe"]
