"""Evaluation on corrupted examples: by hand, in training, by eval.py and in a suite; what a model cannot have."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import tasks
from mmjax.config import parse, recipe
from mmjax.config.schema import base_config
from mmjax.data.loading import corruption, modality_transform
from mmjax.data.loading.inputs import InputSpecs
from mmjax.errors import UserError
from mmjax.evaluation import evaluation_task, metric_columns
from mmjax.evaluation.config import EvalConfig, SuiteConfig
from mmjax.evaluation.corrupted import checked_sweeps
from mmjax.evaluation.embedding import batched_apply
from mmjax.evaluation.evaluators.multimodal_classification import MultimodalClassificationEvaluator
from mmjax.metrics import robustness
from mmjax.parallel.make_mesh import make_mesh
from mmjax.tasks.preprocessing import DatasetMetadata
from tests.helpers import media_models, runs
from tests.helpers.evaluated_sources import array_specs, evaluated

LABELS = [i % 3 for i in range(60)]


class Rows:
    """Tables of one number, the label, with a series that tells nothing."""

    name, class_names, templates = "rows", ["0", "1", "2"], None

    def __len__(self):
        return len(LABELS)

    def __getitem__(self, index):
        modalities = {"table": np.array([LABELS[index]], np.float32), "series": np.zeros((2, 1), np.float32)}
        return {"id": index, "label": LABELS[index], "modalities": modalities}


def test_curves_are_of_the_metrics_of_corrupted_examples():
    specs = dataclasses.replace(array_specs({"table": (1,), "series": (2, 1)}), may_lack=True)

    class Task:
        class_names = ("0", "1", "2")
        dataset_metadata = DatasetMetadata(class_names=class_names)
        example_transform = modality_transform.ModalityTransform(specs)

        def classify(self, params, batch, present):
            table = present[:, list(specs.names).index("table")]
            nearest = jnp.clip(jnp.round(batch["table"][:, 0]), 0, 2).astype(jnp.int32)
            return jax.nn.one_hot(jnp.where(table, nearest, 0), 3)

    runner = batched_apply.BatchRunner(make_mesh(parse(base_config()).mesh, jax.devices()[:1]), 16)
    evaluator = MultimodalClassificationEvaluator(Task(), runner)
    data = evaluated(Rows(), InputSpecs.of(specs), keep=True)
    name = "multimodal_classification"
    clean = evaluation_task.evaluate(name, evaluator, data)
    sweeps = tuple(corruption.parse_sweeps("table:noise0/0.4/1+table:drop1"))
    result = evaluation_task.evaluate(name, evaluator, dataclasses.replace(data, sweeps=sweeps))
    added = {key: value for key, value in result.metrics.items() if key not in clean.metrics}
    assert result.metrics == {**clean.metrics, **added} and clean.metrics["acc1"] == 1.0
    np.testing.assert_array_equal(result.artifacts.confusion, clean.artifacts.confusion)

    def by_hand(*point):
        arrays = [corruption.corrupt_arrays(Rows()[i]["modalities"], point, i) for i in range(len(LABELS))]
        values = [array.get("table", np.zeros(1))[0] for array in arrays]
        return np.mean(np.clip(np.round(values), 0, 2) == LABELS)

    assert set(added) == {
        f"{metric}{key}"
        for metric in ("acc1", "mean_per_class_recall", "macro_f1", "auroc")
        for key in ("@table:noise0.4", "@table:noise1", "_area@table:noise", "@table:drop1")
    }
    for (point,) in sweeps[0].points:
        assert added[f"acc1@{point}"] == pytest.approx(by_hand(point)) and 1 / 3 < added[f"acc1@{point}"] < 1
    assert added["acc1@table:drop1"] == pytest.approx(1 / 3)
    middle, last = added["acc1@table:noise0.4"], added["acc1@table:noise1"]
    assert added["acc1_area@table:noise"] == pytest.approx(0.4 * (1 + middle) / 2 + 0.6 * (middle + last) / 2)
    shown = metric_columns.columns([result.metrics])
    groups = [(column.group, column.heading, column.rate) for column in shown if "@" in column.key]
    assert groups[:4] == [
        ("top-1, table noise", "0.4", True), ("top-1, table noise", "1", True), ("top-1, table noise", "area", True),
        ("per-class recall, table noise", "0.4", True),
    ]  # fmt: skip


def task_of(spec):
    config = parse(recipe.load_recipe(spec) if isinstance(spec, str) else spec)
    image = tasks.make_image_spec(config)
    return tasks.Task(config, image, None, None, tasks.read_dataset_metadata(config, tasks.open_mixture(config)))


@pytest.mark.parametrize(
    ("spec", "text", "message"),
    [
        ("fusion", "video:noise0.1", "sees no video; it sees image, series, table"),
        ("fusion:only=table", "table:drop0.1", "table:drop wants a classifier of several modalities"),
        ("classify", "image:drop0.1", "image:drop wants a classifier of several modalities"),
        ("classify:modalities=text+table", "text:replace0.1", "text:replace wants texts, and the model takes ids"),
        ("fusion", "image:noise", "'image:noise': level '' is not a number"),
    ],
)
def test_what_a_model_cannot_have_is_one_line(spec, text, message):
    with pytest.raises(UserError) as caught:
        checked_sweeps(task_of(spec), EvalConfig(corrupt=text))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("eval.corrupt=")
    with pytest.raises(UserError, match="^corrupt="):
        checked_sweeps(task_of(spec), SuiteConfig(corrupt=text))


def test_corruptions_know_which_columns_are_numbers():
    (sweep,) = checked_sweeps(task_of("fusion"), EvalConfig(corrupt="table:noise1,image:blur2"))
    assert [item.numbers for item in sweep.points[0]] == [4, None]
    assert checked_sweeps(task_of(media_models.fused()), EvalConfig(corrupt="video:noise0.1,audio:snr3"))


@pytest.mark.full
def test_training_eval_and_suites_give_the_same_curves(tmp_path, monkeypatch):
    monkeypatch.setattr("mmjax.data.sources.sensors.TEST_LENGTH", 40)
    config = recipe.load_recipe("fusion:kind=late")
    config.steps, config.batch_size, config.eval.batch_size, config.schedule.warmup = 2, 8, 8, 1
    config.checkpoint.every, config.eval.every, config.log.tensorboard = 2, 1, False
    corrupt = "image:noise0.2/0.8+series:drop0.5,table:noise1"
    config.eval.corrupt = corrupt
    workdir = tmp_path / "run"
    assert runs.train(config, workdir, write_report=True) is None
    lines = runs.lines(workdir, "eval")
    assert [line["step"] for line in lines] == [1, 2]
    trained = {key.removeprefix("sensors/"): value for key, value in lines[-1].items() if "@" in key}
    assert {"acc1@image:noise0.8", "acc1_area@image:noise", "acc1@series:drop0.5,table:noise1"} <= set(trained)
    (curve,) = (c for c in robustness.curves(trained | {"acc1": lines[-1]["sensors/acc1"]}) if c.metric == "acc1")
    assert curve.levels == (0.0, 0.2, 0.8) and curve.area == trained["acc1_area@image:noise"]
    page = (workdir / "report.html").read_text()
    assert "<h2>Robustness</h2>" in page and "top-1 by image noise" in page

    assert runs.eval_cli(f"--workdir={workdir}", f"--output={tmp_path}/plain.json") == 0
    (record,) = json.loads((tmp_path / "plain.json").read_text())
    assert {key: value for key, value in record["metrics"].items() if "@" in key} == trained
    suite = tmp_path / "suite.py"
    suite.write_text(
        "from mmjax.config import dataset, suite_config\n\n\n"
        "def get_config(arg=''):\n"
        "    config = suite_config(collection='all')\n"
        f"    config.corrupt = {corrupt!r}\n"
        "    config.datasets.sensors = dataset('sensors/test', 'multimodal_classification')\n"
        "    return config\n"
    )
    assert runs.eval_cli(f"--workdir={workdir}", f"--config={suite}", f"--output={tmp_path}/suite.json") == 0
    (record,) = json.loads((tmp_path / "suite.json").read_text())
    assert record["settings"]["corrupt"] == corrupt
    assert {key: value for key, value in record["metrics"].items() if "@" in key} == trained
