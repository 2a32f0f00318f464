"""Sections of the report on one evaluation: classes, confusions, examples and attention maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax.evaluation.example_selection import Artifacts
from mmjax.evaluation.heatmaps import colormap_stops
from mmjax.evaluation.metric_columns import task_titles
from mmjax.evaluation.results import CLASSIFICATION, Evaluation
from mmjax.report.markup import render

_TABLE_CLASSES = 24  # confusion matrices up to this size are tables of numbers, larger ones pictures


def render_section(evaluation: Evaluation) -> str:
    """The sections of an evaluation as HTML; empty without artifacts."""
    artifacts = evaluation.artifacts
    if artifacts is None:
        return ""
    # A dataset may have several tasks with classes.
    titles = [] if evaluation.task == CLASSIFICATION else task_titles([evaluation.task]).values()
    return render(
        "section.html",
        artifacts=artifacts,
        dataset=evaluation.dataset,
        unit=evaluation.counted,
        heading=", ".join(filter(None, [evaluation.dataset, *titles, artifacts.what])),
        is_classification=evaluation.task == CLASSIFICATION,
        class_tables=_class_tables(artifacts),
        confusion=None if artifacts.confusion is None else _confusion(artifacts.confusion, artifacts.class_names),
        right_images=_count_right(artifacts.images),
        right_captions=_count_right(artifacts.captions),
        colours=",".join(colormap_stops()),
    )


def _class_tables(artifacts: Artifacts) -> list[dict[str, Any]]:
    """Every class's accuracy, with what it is most often taken for, or average precision; the worst first."""
    tables = []
    if artifacts.confusion is not None:
        counts = artifacts.confusion
        names, totals = artifacts.class_names or range(len(counts)), counts.sum(axis=1)
        rates = np.where(totals > 0, counts.diagonal() / np.maximum(totals, 1), np.nan)
        wrong = _off_diagonal(counts)
        others = [
            [f"{names[other]} ({row[other]:,})" if row[other] else ""]
            for row, other in zip(wrong, wrong.argmax(axis=1).tolist(), strict=True)
        ]
        columns = ("top-1", "most often taken for")
        tables.append(
            _class_table(names, totals, rates, others) | {"columns": columns, "order": "The least accurate first."}
        )
    if artifacts.average_precisions is not None and artifacts.class_counts is not None:
        counts, rates = artifacts.class_counts, artifacts.average_precisions
        table = _class_table(artifacts.class_names or range(len(counts)), counts, rates, [[]] * len(counts))
        tables.append(table | {"columns": ["average precision"], "order": "The lowest average precision first."})
    return tables


def _class_table(names: Sequence, counts: np.ndarray, rates: np.ndarray, others: list[list[str]]) -> dict[str, Any]:
    """A row for every class that has images: name, images, rate and others; by rates, NaN for a class without."""
    rated = np.flatnonzero(~np.isnan(rates))
    order = rated[np.argsort(rates[rated], kind="stable")].tolist()
    rows = [(names[label], counts[label], rates[label], others[label]) for label in order]
    return {"rows": rows, "count": len(counts), "empty": len(counts) - len(rated)}


def _confusion(counts: np.ndarray, class_names: list[str] | None) -> dict[str, Any]:
    names = class_names or range(len(counts))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = _off_diagonal(counts)
    worst = np.argsort(-wrong, axis=None, kind="stable")[:10].tolist()
    mistakes = [
        (wrong.flat[cell], *(names[i] for i in divmod(cell, len(counts)))) for cell in worst if wrong.flat[cell]
    ]
    if len(counts) > _TABLE_CLASSES:
        return {"picture": _confusion_image(share), "mistakes": mistakes}
    # The square root lifts rare mistakes into sight.
    strengths = np.where(np.eye(len(counts), dtype=bool), 85 * share, 100 * np.sqrt(share))
    rows = [
        (name, [(counts[i, j], "accent" if i == j else "bad", strengths[i, j]) for j in range(len(counts))])
        for i, name in enumerate(names)
    ]
    return {"names": names, "rows": rows, "picture": None, "mistakes": mistakes}


def _off_diagonal(counts: np.ndarray) -> np.ndarray:
    return counts * (1 - np.eye(len(counts), dtype=counts.dtype))


def _confusion_image(share: np.ndarray) -> np.ndarray:
    # One colour of varying opacity shows on a light page and on a dark one.
    pixels = np.empty((*share.shape, 4), np.uint8)
    pixels[..., :3] = (200, 64, 47)
    np.einsum("CCR->CR", pixels[..., :3])[...] = (47, 111, 222)
    pixels[..., 3] = np.rint(255 * np.sqrt(share))
    return pixels


def _count_right(shown: Sequence) -> int:
    """How many have a right match first."""
    return sum(bool(matches.nearest and matches.nearest[0].right) for matches in shown)
