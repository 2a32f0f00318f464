"""The report of a run as one self-contained HTML page: results, learning curves and examples.

The page refers to nothing outside itself: images are data URIs, charts are inline SVG in the page's own colours (so
that they follow a dark theme), and there is no script. Everything that came from data or config is escaped.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.evaluation.metric_columns import columns, task_titles
from mmjax.evaluation.results import Evaluation, task_unit
from mmjax.io import paths
from mmjax.report.charts import is_number, render_curves
from mmjax.report.markup import escape
from mmjax.report.sections import render_section
from mmjax.report.stylesheet import CSS


def write_report(
    path: Any, config: Any, history: list[dict[str, Any]], evaluations: Sequence[Evaluation], *, step: int | None
) -> Any:
    """Writes the report of an evaluation at `step` (None for weights without one) to `path` and returns it."""
    text = render_report(
        title=config.name if step is None else f"{config.name}, step {step:,}",
        config=config.to_dict(),
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
    parts = [
        _header(title, config, history, evaluations),
        _results(evaluations, means or {}),
        render_curves(history),
        *([render_section(evaluation) for evaluation in evaluations] if sections is None else sections),
        f"<details><summary>Configuration</summary><pre class=card>{_config_json(config)}</pre></details>",
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head><body><main>\n" + "\n".join(filter(None, parts)) + "\n</main></body></html>\n"
    )


def _config_json(config: Mapping[str, Any]) -> str:
    return escape(json.dumps(config, indent=2, default=str, ensure_ascii=False))


def _header(title: str, config: Mapping, history: Sequence[Mapping], evaluations: Sequence[Evaluation]) -> str:
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
        counts.setdefault(task_unit(evaluation.task), {})[evaluation.dataset] = evaluation.n
    if counts:
        facts["evaluated on"] = " and ".join(
            f"{sum(by_dataset.values()):,} {unit}" for unit, by_dataset in counts.items()
        )
    items = "".join(f"<li>{escape(key)} <b>{escape(value)}</b></li>" for key, value in facts.items())
    return f"<h1>{escape(title)}</h1><ul class=facts>{items}</ul>"


def _results(evaluations: Sequence[Evaluation], means: Mapping[str, tuple[float, int]]) -> str:
    tables = []
    for task, caption in task_titles(evaluation.task for evaluation in evaluations).items():
        rows = [evaluation for evaluation in evaluations if evaluation.task == task]
        shown = columns(row.metrics for row in rows)
        groups: list[list[Any]] = []
        for column in shown:
            if groups and groups[-1][0] == column.group:
                groups[-1][1] += 1
            else:
                groups.append([column.group, 1])
        head = ""
        if any(group for group, _ in groups):
            cells = (f"<th class=group colspan={n}>{f'<span>{escape(g)}</span>' if g else ''}</th>" for g, n in groups)
            head = f"<tr><th></th><th></th>{''.join(cells)}</tr>"
        head += (
            f"<tr><th>dataset</th><th>{task_unit(task)}</th>"
            + "".join(f"<th>{escape(c.heading)}</th>" for c in shown)
            + "</tr>"
        )
        body = ""
        for row in rows:
            body += f"<tr><td>{escape(row.dataset)}</td><td>{row.n:,}</td>"
            for column in shown:
                value = row.metrics.get(column.key)
                bar = f' class=rate style="--v:{100 * value:.1f}%"' if column.rate and value is not None else ""
                body += f"<td{bar}>{escape(column.text(value))}</td>"
            body += "</tr>"
        heading = f"<caption>{escape(caption[0].upper() + caption[1:])}</caption>"
        tables.append(f"<table class=results>{heading}<thead>{head}</thead><tbody>{body}</tbody></table>")
    content = "".join(tables) or "<p>Nothing was evaluated.</p>"
    for name, (mean, count) in means.items():
        content += f"<p class=mean>Mean of the {count} datasets of {escape(name)}: <b>{100 * mean:.2f}%</b></p>"
    return f"<h2>Results</h2><div class='card scroll'>{content}</div>"
