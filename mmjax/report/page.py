"""The report of a run as one self-contained HTML page: results, learning curves and examples.

The page refers to nothing outside itself: images are data URIs, charts are inline SVG in the page's own colours (so
that they follow a dark theme), and there is no script. Everything that came from data or config is escaped.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mmjax.config.schema import RunConfig
from mmjax.config.typed_groups import to_dict
from mmjax.evaluation.metric_columns import columns, split_columns, task_titles
from mmjax.evaluation.results import Evaluation
from mmjax.io import paths
from mmjax.report.charts import charts, is_number, rate_labels, robustness_charts
from mmjax.report.markup import render
from mmjax.report.sections import render_section

_COLUMNS = 10  # that are seen at once on a window of 1300 pixels
_TILES = 6  # of results at the head of the page
_FIRST_CHARTS = ("Loss", "Accuracy", "Accuracy, held out")  # are seen without scrolling


def write_report(
    path: Any, config: RunConfig, history: list[dict[str, Any]], evaluations: Sequence[Evaluation], *, step: int | None
) -> Any:
    """Writes the report of an evaluation at `step` (None for weights without one) to `path` and returns it."""
    text = render_report(
        title=config.name if step is None else f"{config.name}, step {step:,}",
        config=to_dict(config),
        history=history,
        evaluations=evaluations,
    )
    paths.write_atomically(path, text)
    return path


def render_report(
    *,
    title: str,
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Evaluation],
    sections: Sequence[str] | None = None,
    means: Mapping[str, tuple[float, int]] | None = None,
) -> str:
    """The report as the text of one HTML file.

    Args:
      title: the heading.
      config: the run's configuration, shown as JSON.
      history: the lines of `metrics.jsonl`: `step`, `kind` (train, eval or summary) and numbers; in eval lines their
        keys are DATASET/METRIC. May be empty.
      evaluations: the outcome on each source, with artifacts where examples are to be shown.
      sections: what `sections.render_section` made of each evaluation, where they were made before.
      means: of main metrics by collection, with the number of datasets.
    """
    made = [render_section(evaluation) for evaluation in evaluations] if sections is None else sections
    curves = charts(history)
    return render(
        "page.html",
        title=title,
        facts=_facts(config, history, evaluations),
        tables=_tables(evaluations),
        means=means or {},
        tiles=_tiles(evaluations),
        first_charts=[chart for chart in curves if chart["name"] in _FIRST_CHARTS],
        robustness=robustness_charts(evaluations),
        charts=[chart for chart in curves if chart["name"] not in _FIRST_CHARTS],
        sections=Markup("\n".join(made)),
        config=json.dumps(config, indent=2, default=str, ensure_ascii=False),
    )


def _facts(config: Mapping, history: Sequence[Mapping], evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    facts = {}
    steps = [line["step"] for line in history if is_number(line.get("step"))]
    if steps:
        facts["steps trained"] = f"{max(steps):,}"
    if is_number(config.get("batch_size")):
        facts["batch size"] = f"{config['batch_size']:,}"
    if "seed" in config:
        facts["seed"] = config["seed"]
    for line in history:
        if line.get("kind") == "summary":
            for key, value in line.items():
                # "DATASET/METRIC" stands in the tables.
                if key not in ("step", "kind") and "/" not in key and is_number(value):
                    facts[key.replace("_", " ")] = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    counts: dict[str, dict[str, int]] = {}
    for evaluation in evaluations:
        counts.setdefault(evaluation.counted, {})[evaluation.dataset] = evaluation.n
    if counts:
        facts["evaluated on"] = " and ".join(
            f"{sum(by_dataset.values()):,} {unit}" for unit, by_dataset in counts.items()
        )
    return facts


def _tiles(evaluations: Sequence[Evaluation]) -> list[dict[str, str]]:
    """The main rates of every evaluation; none where they would be too many to be seen at once."""
    tiles = []
    titles = task_titles(evaluation.task for evaluation in evaluations)
    for evaluation in evaluations:
        source, labels = f"{evaluation.dataset}, {titles[evaluation.task]}", rate_labels(evaluation.metrics)
        for column in columns([evaluation.metrics]):
            if label := labels.get(column.key, ""):
                value = column.text(evaluation.metrics[column.key])
                tiles.append({"value": value, "metric": label, "source": source})
    return tiles if len(tiles) <= _TILES else []


def _tables(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """The tables of results, one a task, or several with the columns that a page has room for."""
    tables = []
    for task, title in task_titles(evaluation.task for evaluation in evaluations).items():
        rows = [evaluation for evaluation in evaluations if evaluation.task == task]
        parts = split_columns(columns(row.metrics for row in rows), lambda column: 1, _COLUMNS)
        for number, shown in enumerate(parts or [[]]):
            groups = [(name, len(list(group))) for name, group in itertools.groupby(shown, lambda column: column.group)]
            tables.append(
                {
                    "title": "" if number else title[0].upper() + title[1:],
                    "unit": rows[0].counted,
                    "groups": groups if any(name for name, _ in groups) else [],
                    "columns": shown,
                    "rows": rows,
                }
            )
    return tables
