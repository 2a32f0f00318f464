"""Several labels, two captions for two images, scores of captions, intervals: a suite by their definitions."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from mmjax.config import dataset, suite_config
from mmjax.config.suite_recipe import parse_suite
from mmjax.data.source_protocols import SourceOptions
from mmjax.errors import UserError
from mmjax.evaluation.suite.jobs import make_jobs
from mmjax.evaluation.suite.runner import open_jobs
from tests.helpers import recorded_model, runs
from tests.helpers.tar_sets import jpeg, write_tar

SUITE = """
from mmjax.config import dataset, suite_config

def get_config(arg=""):
    config = suite_config("{root}", "all")
    config.bootstrap = 200
    config.datasets.voc = dataset("wds:{{root}}/voc/test", main_metric="mean_average_precision")
    config.datasets.wino = dataset("winoground:{{root}}/examples.jsonl", "image_caption_selection", main_metric="acc")
    config.datasets.flickr = dataset("karpathy:{{root}}/dataset_x.json/test", "zeroshot_retrieval", "clip_score")
    config.datasets.probes = dataset("folder:{{root}}/classes", "knn", "linear_probe", train="folder:{{root}}/classes")
    return config
"""
SHOWN = np.random.default_rng(0).random((12, 3)) < 0.5


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The suite's records, its report, and what was embedded."""
    root = tmp_path_factory.mktemp("tasks")
    (root / "suite.py").write_text(SUITE.format(root=root))
    (root / "voc" / "test").mkdir(parents=True)
    members = []
    for i, shown in enumerate(SHOWN):
        file = io.BytesIO()
        np.save(file, shown.astype(np.int64))
        members += [(f"s{i:02}.jpg", jpeg(i)), (f"s{i:02}.npy", file.getvalue())]
    write_tar(root / "voc" / "test" / "0.tar", members)
    files = {"dataset_type": "multilabel", "classnames": "cat\ndog\nyak", "zeroshot_classification_templates": "a {c}"}
    for name, text in (files | {"test/nshards": "1"}).items():
        (root / "voc" / f"{name}.txt").write_text(text)
    lines = runs.write_pairs(root / "images", count=8).read_text().splitlines()[1:]
    pairs = [line.split("\t") for line in lines]
    entries = [
        {"filename": name, "split": "test", "sentences": [{"raw": caption}, {"raw": f"{caption} {i}"}]}
        for i, (name, caption) in enumerate(pairs)
    ]
    (root / "dataset_x.json").write_text(json.dumps({"images": entries}))
    names = [name for name, _ in pairs]
    wino = [
        {"image_0": names[i], "image_1": names[i + 1], "caption_0": f"{i} on top", "caption_1": f"on top {i}"}
        for i in (0, 2, 4)
    ]
    (root / "examples.jsonl").write_text("\n".join(map(json.dumps, wino)))
    runs.write_classes(root / "classes")
    workdir = root / "run"
    assert runs.train(runs.config(steps=2, data__eval="", eval__batch_size=16), workdir) is None
    with recorded_model.record() as recording:
        assert runs.eval_cli(f"--workdir={workdir}", f"--config={root / 'suite.py'}") == 0
    records = json.loads((workdir / "eval" / "2.json").read_text())
    metrics = {(record["dataset"], record["task"]): record["metrics"] for record in records}
    return metrics, (workdir / "eval" / "2.html").read_text(), recording, wino, entries


def test_several_labels_give_scikit_learn_s_average_precision(outcome):
    metrics, page, recording, *_ = outcome
    classes = np.stack([recording.texts[f"a {name}"] for name in ("cat", "dog", "yak")])
    scores = recording.passes[0].astype(np.float64) @ classes.T
    expected = [average_precision_score(shown, column) for shown, column in zip(SHOWN.T, scores.T, strict=True)]
    result = metrics["voc", "zeroshot_classification"]
    assert result == {"mean_average_precision": pytest.approx(np.mean(expected))}
    assert "Classes: voc" in page and all(f"{100 * value:.2f}%" in page for value in expected)


def test_winoground_counts_both_captions_and_both_images(outcome):
    metrics, _, recording, wino, _ = outcome
    images = recording.passes[1].reshape(3, 2, -1).astype(np.float64)
    texts = np.array([[recording.texts[entry[f"caption_{i}"]] for i in (0, 1)] for entry in wino], np.float64)
    s = np.einsum("nie,nce->nic", images, texts)
    text = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
    image = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1])
    means = {"text_acc": text.mean(), "image_acc": image.mean(), "acc": (text & image).mean()}
    assert metrics["wino", "image_caption_selection"] == means


def test_clip_score_is_of_the_first_caption_and_the_others_are_references(outcome):
    metrics, _, recording, _, entries = outcome
    rows = [
        [recording.texts[f"A photo depicts {sentence['raw']}"] for sentence in entry["sentences"]] for entry in entries
    ]
    first, second = np.array(rows, np.float64).transpose(1, 0, 2)
    scores = 2.5 * np.maximum((recording.passes[2] * first).sum(axis=1), 0)
    near = np.maximum((first * second).sum(axis=1), 0)
    result = metrics["flickr", "clip_score"]
    assert result["clip_score"] == pytest.approx(scores.mean(), abs=1e-6)
    both = 2 * scores * near / np.maximum(scores + near, 1e-30)
    assert result["ref_clip_score"] == pytest.approx(both.mean(), abs=1e-6)
    assert result["clip_score_low95"] <= result["clip_score"] <= result["clip_score_high95"]


def test_recalls_have_intervals(outcome):
    result = outcome[0]["flickr", "zeroshot_retrieval"]
    for side in ("image", "text"):
        for k in (1, 5, 10):
            name = f"{side}_retrieval_recall@{k}"
            assert result[f"{name}_low95"] <= result[name] <= result[f"{name}_high95"]
    assert result["text_retrieval_recall@5_low95"] < result["text_retrieval_recall@5_high95"]


def test_the_report_has_the_classes_of_probes(outcome):
    page = outcome[1]
    for what in ("linear probe", "k nearest neighbours, k = 10"):
        assert f"Classes: probes, {what}" in page and f"Confusion: probes, {what}" in page


def test_each_dataset_has_keys_of_its_own(tmp_path):
    (tmp_path / "t.tsv").write_text("image\tcaption\tlong\na.png\tone\tone of them\n")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    suite = suite_config()
    suite.datasets.one = dataset(f"pairs:{tmp_path}/t.tsv", "zeroshot_retrieval", caption_keys="long")
    suite.collection = "one"
    options = SourceOptions(caption_keys="of_the_training_run", keys_field="eval")
    parsed = parse_suite(suite)
    (opened,) = open_jobs(make_jobs(parsed), options, parsed)
    assert opened.source[0]["captions"] == ["one of them"]
    suite.datasets.one.caption_keys = "lnog"
    with pytest.raises(UserError, match=r"datasets.one.caption_keys.*'lnog'.*did you mean 'long'"):
        parsed = parse_suite(suite)
        open_jobs(make_jobs(parsed), options, parsed)
