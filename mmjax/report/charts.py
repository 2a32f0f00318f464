"""Learning curves as inline SVG, in the report's own colours so that they follow a dark theme."""

import dataclasses
import functools
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from mmjax.evaluation.metric_columns import columns
from mmjax.evaluation.results import Evaluation
from mmjax.metrics import robustness

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

_CURVE_POINTS = 400
_SERIES = 6
# Colours that matplotlib writes and nothing else does, replaced by the page's variables in the finished SVG.
_INK, _GRID = "#010101", "#020202"
# Held-out metrics that are drawn, and what they are called there.
_LOSSES = {"contrastive_loss": "contrast, held out", "mlm_loss": "masked words, held out"}
_LOSSES |= {"mim_loss": "masked patches, held out"}
_RATES = {
    "acc1": "top-1",
    "exact_match": "captions exactly right",
    "accuracy": "VQA accuracy",
    "itm_accuracy": "matching",
    "itm_hardest_accuracy": "matching, hardest",
    "itm_uniform_accuracy": "matching",
    "mlm_accuracy": "masked words",
    "offset_accuracy": "offset within a frame",
}
_RECALL = re.compile(r"[a-z]+_retrieval_recall@1")  # not that of folds
_VARIABLES = {_INK: "var(--soft)", _GRID: "var(--line)"} | {f"#03030{i}": f"var(--c{i})" for i in range(_SERIES)}


@dataclasses.dataclass(frozen=True)
class _Series:
    """One line of a chart: its legend and its finite points."""

    label: str
    steps: list[float]
    values: list[float]
    noisy: bool = False


def charts(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Charts of the lines of `metrics.jsonl`: losses, accuracies, rates by step; their name, SVG and legend."""
    train = [line for line in history if line.get("kind") == "train"]
    evals = [line for line in history if line.get("kind") == "eval"]

    def trained(key: str, label: str, noisy: bool = False) -> list[_Series]:
        return [make_series(train, key, label, noisy)]

    def evaluated(metrics: dict[str, str]) -> list[_Series]:
        keys = sorted({key for line in evals for key in line if key.rpartition("/")[2] in metrics})
        parts = ((key, key.rpartition("/")) for key in keys)
        return [make_series(evals, key, f"{dataset} {metrics[metric]}") for key, (dataset, _, metric) in parts]

    rates = rate_labels({key.rpartition("/")[2] for line in evals for key in line})
    named = list(dict.fromkeys(key for line in train for key in line))
    parts = [key for key in named if key.startswith("loss_")]
    hits = [key for key in named if key.endswith("accuracy")]
    legend = {"accuracy": "in the training batch"}
    accuracies = [make_series(train, key, legend.get(key, key.replace("_", " ")), True) for key in hits]
    losses = [make_series(train, key, key.removeprefix("loss_"), True) for key in parts]
    named_series = [
        ("Loss", trained("loss", "training", True) + evaluated({"loss": "held out"})),
        ("Losses by objective", losses + evaluated(_LOSSES)),
        *_halves("Accuracy", accuracies, evaluated(rates)),
        ("Learning rate", trained("learning_rate", "learning rate")),
        ("Logit scale", trained("logit_scale", "logit scale")),
        ("Gradient norm", trained("grad_norm", "gradient norm", True)),
        *(("Throughput", trained(key, key.replace("_", " "), True)) for key in named if key.endswith("_per_second")),
    ]
    drawn = [(name, [curve for curve in series if curve.steps]) for name, series in named_series]
    return [_chart(f"chart{i}-", name, series) for i, (name, series) in enumerate(drawn) if series]


def robustness_charts(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Charts of metrics over levels of corruption, a line for each dataset."""
    lines: dict[tuple[str, str], list[_Series]] = {}
    for evaluation in evaluations:
        for curve in robustness.curves(evaluation.metrics):
            series = _Series(evaluation.dataset, list(curve.levels), list(curve.values))
            lines.setdefault((curve.metric, curve.sweep), []).append(series)
    headings = {column.key: column for column in columns(evaluation.metrics for evaluation in evaluations)}
    charts_of = []
    for number, ((metric, sweep), series) in enumerate(lines.items()):
        column = headings[metric]
        name = " ".join(filter(None, [column.group, column.heading]))
        title = f"{name} by {sweep.replace(':', ' ').replace(',', ', ')}"
        charts_of.append(_chart(f"robustness{number}-", title, series, "level of corruption", is_rate=column.rate))
    return charts_of


def rate_labels(metrics: Iterable[str]) -> dict[str, str]:
    """What the main ones of some metrics are called, by metric: accuracies, and recall at 1 of either direction."""
    retrieved = (column for column in columns([dict.fromkeys(metrics, 0.0)]) if _RECALL.fullmatch(column.key))
    return _RATES | {column.key: f"{column.group} {column.heading}" for column in retrieved}


def _halves(name: str, training: list[_Series], held_out: list[_Series]) -> list[tuple[str, list[_Series]]]:
    """One chart, or two where colours would repeat."""
    if len(training) + len(held_out) <= _SERIES:
        return [(name, training + held_out)]
    return [(f"{name} in training", training), (f"{name}, held out", held_out)]


def is_number(value: Any) -> bool:
    """Whether a value can be drawn."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def make_series(lines: Sequence[Mapping[str, Any]], key: str, label: str, noisy: bool = False) -> _Series:
    points = sorted(
        (line["step"], line[key]) for line in lines if is_number(line.get("step")) and is_number(line.get(key))
    )
    if len(points) > _CURVE_POINTS:
        # Means over equal stretches: a picture has no more pixels to show, and a page should stay small.
        points = [tuple(part.mean(axis=0)) for part in np.array_split(np.array(points, np.float64), _CURVE_POINTS)]
    return _Series(label, [float(step) for step, _ in points], [float(value) for _, value in points], noisy)


def smooth(values: list[float]) -> np.ndarray:
    """A centred mean over about a twentieth of the curve, narrower at its ends."""
    reach = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - reach, 0)
    high = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _chart(
    prefix: str, name: str, series: list[_Series], axis: str = "training step", *, is_rate: bool | None = None
) -> dict[str, Any]:
    """A chart; `prefix` begins its ids in the page, `axis` says what it is by."""
    # Imported here: drawing takes half a second to import, which evaluation alone should not pay.
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

    is_percent = name.startswith("Accuracy") if is_rate is None else is_rate
    style: "dict[RcKeyType, Any]" = {
        "svg.fonttype": "none",
        "svg.hashsalt": "mmjax",
        "text.parse_math": False,
        "font.size": 9,
        "text.color": _INK,
        "axes.edgecolor": _GRID,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.2, 2.5))
        axes = figure.add_axes((0.115, 0.115, 0.865, 0.84))
        for number, curve in enumerate(series):
            colour = f"#03030{number % _SERIES}"
            dots = "o" if len(curve.steps) <= 40 else None
            draw = functools.partial(
                axes.plot, color=colour, linewidth=1.6, solid_joinstyle="round", solid_capstyle="round"
            )
            if curve.noisy and len(curve.steps) > 40:
                draw(curve.steps, curve.values, linewidth=0.8, alpha=0.3)
                draw(curve.steps, smooth(curve.values))
            else:
                draw(curve.steps, curve.values, marker=dots, markersize=3)
        axes.patch.set_visible(False)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, pad=5)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=is_rate is None))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0) if is_percent else FuncFormatter(_tick))
        stream = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    legend = [(i % _SERIES, curve.label) for i, curve in enumerate(series) if curve.label != name.lower()]
    return {"name": name, "legend": legend, "svg": Markup(_inline(stream.getvalue(), prefix, f"{name} by {axis}"))}


def _tick(value: float, _: int) -> str:
    if 0 < abs(value) < 0.01:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"


def _inline(svg: str, prefix: str, label: str) -> str:
    """matplotlib's SVG as part of a page: no prolog, metadata or namespaces, ids of its own, the page's colours."""
    svg = svg[svg.index("<svg") :]
    # Its style element would reach the whole page; the page says the same for charts alone.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
