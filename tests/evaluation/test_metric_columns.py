"""The table of retrieval shows every metric legibly."""

import numpy as np

from mmjax.evaluation import metric_columns, results
from mmjax.evaluation.evaluators import retrieval


def test_a_retrieval_table_shows_every_metric_in_a_terminal():
    rng = np.random.default_rng(0)
    captions = [[f"{i} {j}" for j in range(3)] for i in range(20)]
    metrics = retrieval.evaluate_retrieval(
        rng.normal(size=(20, 4)),
        captions,
        embed_texts=lambda texts: rng.normal(size=(len(texts), 4)).astype(np.float32),
        fold_size=10,
    ).metrics
    shown = metric_columns.columns([metrics])
    assert {column.key for column in shown} == set(metrics)
    assert {column.key for column in shown if column.group == "image to text, 2x10"} == {
        f"2x10_text_retrieval_{name}"
        for name in (
            "recall@1", "recall@5", "recall@10", "median_rank", "mean_rank", "mean_reciprocal_rank",
            "mean_average_precision",
        )
    }  # fmt: skip
    record = dict(
        dataset="coco/test", model="m", pretrained="p", task=results.RETRIEVAL, metrics=metrics, language="en"
    )
    text = metric_columns.format_table([record])
    assert max(map(len, text.splitlines())) <= 120
    assert f"{100 * metrics['rsum']:.1f}" in text and text.count("MRR") == text.count("mAP") == 4
    assert text.count("text to image, 2x10") == 1 and text.count("coco/test") > 1
