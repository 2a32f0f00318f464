import json
import re

import jax
import numpy as np
import pytest

import mmjax
from mmjax.data.sources.bouncing import Bouncing
from mmjax.errors import UserError
from mmjax.metrics.synchronization import offset_metrics
from mmjax.tasks.synchronization import clip_specs
from mmjax.training import train
from tests.helpers import runs, sync_runs

LENGTH = 10


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr("mmjax.data.sources.bouncing.TEST_LENGTH", LENGTH)


def expected(model, windows):
    """The metrics, clip by clip, from embeddings of windows of the loaded model."""
    task, similarities, shifts = model._task, [], []
    specs = clip_specs(task.config, task.input_specs, windows)
    for index in range(LENGTH):
        arrays = specs.evaluate(Bouncing("test", length=LENGTH)[index])
        video = np.stack([arrays["video"][m : m + 2] for m in range(windows)])
        audio = np.stack([arrays["audio"][5 * n : 5 * n + 10] for n in range(windows + 6)])
        v = np.array(task.embed_modality(model.params, "video", jax.numpy.asarray(video)), np.float64)
        a = np.array(task.embed_modality(model.params, "audio", jax.numpy.asarray(audio)), np.float64)
        similarities.append([np.mean([v[m] @ a[m + k] for m in range(windows)]) for k in range(7)])
        shifts.append(int(arrays["shift"]))
    return offset_metrics(np.array(similarities), np.array(shifts), logit_scale=model.logit_scale)


@pytest.mark.full
def test_a_run_is_evaluated_while_it_trains_and_afterwards(tmp_path):
    config = sync_runs.config(log__tensorboard=False)
    assert runs.train(config, tmp_path / "run", write_report=True) is None
    (line,) = runs.lines(tmp_path / "run", "eval")
    metrics = {name.removeprefix("bouncing/"): x for name, x in line.items() if name.startswith("bouncing/")}
    model = mmjax.load(tmp_path / "run")
    assert model.can == ("sync_offset",)
    assert metrics == pytest.approx(expected(model, 4), rel=1e-4)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Offsets of sounds: bouncing" in page and page.count("the sound is late by") == 6

    # Other windows, by eval.py; the same as the suite's dataset.
    options = ["--config.eval.synchronization.windows=7", f"--output={tmp_path / 'results.json'}"]
    assert runs.eval_cli(f"--workdir={tmp_path / 'run'}", *options) == 0
    (record,) = json.loads((tmp_path / "results.json").read_text())
    assert record["task"] == "synchronization" and record["metrics"] == pytest.approx(expected(model, 7), rel=1e-4)

    suite = tmp_path / "suite.py"
    suite.write_text(
        "from mmjax.config import dataset, suite_config\n"
        "def get_config(arg=''):\n"
        "    suite = suite_config('data', 'bounces')\n"
        "    suite.datasets.bounces = dataset('bouncing/test', 'synchronization')\n"
        "    return suite\n"
    )
    output = tmp_path / "suite.json"
    assert runs.eval_cli(f"--workdir={tmp_path / 'run'}", f"--config={suite}", f"--output={output}") == 0
    (record,) = json.loads(output.read_text())
    assert record["metrics"] == pytest.approx(metrics, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__eval": "shapes/test"}, "'shapes' has no video and audio"),
        (
            {"eval__tasks": ("modality_retrieval",)},
            "modality_retrieval is not for model.kind='two_tower' trained with sync",
        ),
        ({"eval__synchronization__windows": -1}, "eval.synchronization.windows=-1: give 1 to 10,000, or 0"),
        ({"eval__synchronization__windows": 100_000}, "eval.synchronization.windows=100000: give 1 to 10,000, or 0"),
    ],
)
def test_what_does_not_fit_is_one_line(changes, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        train.open_run(sync_runs.config(**changes), None)
    assert "\n" not in str(caught.value)
