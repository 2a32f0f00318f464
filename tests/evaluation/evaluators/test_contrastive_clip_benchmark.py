"""The same embeddings give CLIP_benchmark's numbers; `make_clip_benchmark.py` recorded them from its own functions."""

import numpy as np
import pytest

from mmjax.evaluation.evaluators import retrieval, zero_shot
from mmjax.metrics import compositional
from tests.helpers import runs


@pytest.fixture(scope="module")
def golden():
    with np.load(runs.ROOT / "tests/golden/clip_benchmark.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    values = dict(zip(arrays["metric_names"].tolist(), arrays["metric_values"].tolist(), strict=True))
    return arrays, values


def test_retrieval(golden):
    arrays, values = golden
    result = retrieval.retrieval_metrics(arrays["images"], arrays["texts"], arrays["text_image"])
    for side in ("image", "text"):
        for k in (1, 5, 10):
            name = f"{side}_retrieval_recall@{k}"
            assert result[name] == pytest.approx(values[name], abs=1e-6)
    assert 0.2 < values["image_retrieval_recall@1"] < values["text_retrieval_recall@1"] < 1


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_zero_shot_with_shared_templates_and_with_prompts_per_class(golden, kind):
    arrays, values = golden
    prompts = dict(zip(arrays["prompt_names"].tolist(), arrays["prompts"], strict=True))
    embed = lambda texts: np.stack([prompts[text] for text in texts])
    names = [str(c) for c in range(7)]
    prompts_by_class = {c: [f"{c} {t}" for t in "abc"[: 1 + int(c) % 3]] for c in names}
    settings = dict(
        embed_texts=embed,
        class_names=names,
        templates={"shared": ["{c} a", "{c} b", "{c} c"], "own": prompts_by_class}[kind],
    )
    weights = zero_shot.zero_shot_weights(*settings.values())
    pictures = arrays["images"] + 0.25 * weights[arrays["labels"]]
    pictures = (pictures / np.linalg.norm(pictures, axis=1, keepdims=True)).astype(np.float32)
    result = zero_shot.evaluate_zero_shot(pictures, arrays["labels"], **settings).metrics
    result |= zero_shot.evaluate_multilabel(pictures, arrays["targets"], **settings).metrics
    del result["macro_f1"]  # CLIP_benchmark has none
    assert len(result) == 4
    for name, value in result.items():
        assert value == pytest.approx(values[f"{kind} {name}"], abs=1e-6)
    assert values[f"{kind} acc1"] < values[f"{kind} acc5"] < 1


def test_compositional(golden):
    arrays, values = golden
    result = compositional.winoground_metrics(arrays["pairs"], arrays["captions"])
    for name in ("image_acc", "text_acc", "acc"):
        assert result[name] == pytest.approx(values[f"winoground {name}"], abs=1e-6)
    assert 0 < result["acc"] < min(result["image_acc"], result["text_acc"]) < 1
    captions = arrays["captions"]
    crepe = compositional.sugarcrepe_metrics(arrays["pairs"][:, 0], captions[:, 0], captions[:, 1])
    assert crepe["acc"] == pytest.approx(values["sugarcrepe"], abs=1e-6)
