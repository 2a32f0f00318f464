"""One self-contained HTML page of a run: its results, how it got there, and what it gets right and wrong.

The page refers to nothing outside itself: images are data URIs, charts are inline SVG in the page's own colours (so
that they follow a dark theme), and there is no script. Everything that came from data or config is escaped.
"""

import base64
import dataclasses
import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmjax import storage
from mmjax.evaluation.artifacts import Match
from mmjax.evaluation.suite import Evaluation
from mmjax.evaluation.tables import CLASSIFICATION, RETRIEVAL, columns

_PIXELATED_BELOW = 64  # thumbnails with a shorter longest side are enlarged without smoothing
_TABLE_CLASSES = 24  # confusion matrices up to this size are tables of numbers, larger ones pictures
_CURVE_POINTS = 400
_SERIES = 6
# Colours that matplotlib writes and nothing else does, replaced by the page's variables in the finished SVG.
_INK, _GRID = "#010101", "#020202"
_VARIABLES = {_INK: "var(--soft)", _GRID: "var(--line)"} | {f"#03030{i}": f"var(--c{i})" for i in range(_SERIES)}

_CSS = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1b1f24;--soft:#667080;--line:#e3e6eb;--accent:#2f6fde;
--good:#17834a;--bad:#c8402f;--c0:#2f6fde;--c1:#d9622b;--c2:#17834a;--c3:#8b4fc6;--c4:#b98a00;--c5:#c2367e}
@media(prefers-color-scheme:dark){:root{--page:#14171b;--card:#1c2026;--ink:#e5e8ec;--soft:#98a2b0;--line:#2f353d;
--accent:#6ea0ff;--good:#4cc081;--bad:#ff7a68;--c0:#6ea0ff;--c1:#ff9a62;--c2:#4cc081;
--c3:#bd8cf2;--c4:#e3bc3f;--c5:#f27db5}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto
,sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 24px 72px}
h1{font-size:26px;line-height:1.25;margin:0 0 10px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:19px;margin:44px 0 12px;letter-spacing:-.005em}
h3{font-size:15px;margin:22px 0 10px;overflow-wrap:anywhere}
p,.note{color:var(--soft);margin:0 0 12px;max-width:78ch;font-size:14px}
.facts{display:flex;flex-wrap:wrap;gap:6px 22px;margin:0;padding:0;list-style:none;color:var(--soft);font-size:14px}
.facts b{color:var(--ink);font-weight:600;font-variant-numeric:tabular-nums}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
.results{width:100%}
.results+.results{margin-top:22px}
.results caption{text-align:left;font-weight:600;padding:2px 0 6px}
.results th{font-weight:500;color:var(--soft);font-size:13px;padding:4px 10px;text-align:right;white-space:nowrap}
.results thead tr:last-child th{border-bottom:1px solid var(--line)}
.results .group{text-align:center}.results .group span{display:block;border-bottom:1px solid var(--line)}
.results td{padding:7px 10px;text-align:right;white-space:nowrap}
.results tr>:first-child{text-align:left;padding-left:0}
.results td:first-child{font-weight:600}
.results tbody tr+tr td{border-top:1px solid var(--line)}
.results .rate{background:linear-gradient(90deg,color-mix(in srgb,var(--accent) 15%,transparent) var(--v),transparent 0)
no-repeat 0 calc(100% + 5px)/100% 4px content-box border-box}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:14px}
.charts h3{margin:0 0 2px}.charts svg{display:block;width:100%;height:auto}
svg text{font-family:inherit!important}svg *{stroke-linejoin:round;stroke-linecap:butt}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:12.5px;color:var(--soft);min-height:19px}
.legend i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:6px;vertical-align:middle}
.confusion{font-size:12px}
.confusion td{width:38px;height:32px;text-align:center;border:1px solid var(--card);border-radius:5px}
.confusion tbody th{font-weight:500;text-align:right;padding-right:8px;white-space:nowrap}
.confusion thead th{font-weight:500;height:1px;padding:0 0 6px;vertical-align:bottom}
.confusion thead th span{writing-mode:vertical-rl;transform:rotate(180deg);white-space:nowrap}
.confusion .axis{color:var(--soft)}
.matrix{width:min(100%,620px);image-rendering:pixelated;border:1px solid var(--line);border-radius:6px;display:block}
.split{display:flex;flex-wrap:wrap;gap:14px 36px;align-items:flex-start}
.split h3{margin-top:0}
.confused{margin:0;padding:0;list-style:none;font-size:14px}.confused li{padding:2px 0}
.confused b{font-variant-numeric:tabular-nums;display:inline-block;min-width:2.4em;font-weight:600}
.matches{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:12px}
.match{display:flex;gap:14px;align-items:flex-start}
.match>img{width:92px;height:92px;object-fit:contain;border-radius:6px;flex:none;background:var(--line)}
.match>div{min-width:0;flex:1}
.match ul{margin:0 0 8px;padding:0;list-style:none;font-weight:600;font-size:14px;line-height:1.35;
overflow-wrap:anywhere}
.match ol{margin:0;padding:0;list-style:none;font-size:13px}
.match li.hit,.match li.miss{display:flex;gap:8px;color:var(--soft);padding:1px 0}
.match li span{flex:1;overflow-wrap:anywhere;line-height:1.4}
.match li b{font-weight:500;font-variant-numeric:tabular-nums}
.match li.hit{color:var(--good)}
.match li::before{content:"";width:1em;flex:none}.match li.hit::before{content:"\\2713"}
.strip p{color:var(--ink);font-weight:600;line-height:1.35;margin:0 0 10px;overflow-wrap:anywhere}
.strip div{display:flex;gap:6px}
.strip figure{margin:0;flex:0 1 92px;min-width:0;text-align:center;font-size:12px;color:var(--soft)}
.strip img{width:100%;aspect-ratio:1;object-fit:contain;display:block;border-radius:6px;background:var(--line);
border:2px solid transparent}
.strip .hit img{border-color:var(--good)}.strip .hit{color:var(--good)}
.strip .hit figcaption::before{content:"\\2713\\a0"}
img.pixels{image-rendering:pixelated}
details{margin-top:40px}summary{cursor:pointer;font-weight:600}
pre{overflow:auto;font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace;margin:12px 0 0}
"""


@dataclasses.dataclass(frozen=True)
class _Series:
    """One line of a chart: its legend and its finite points."""

    label: str
    steps: list[float]
    values: list[float]
    noisy: bool = False


def write_report(
    path: Any, config: Any, history: list[dict[str, Any]], evaluations: Sequence[Evaluation], *, step: int
) -> Any:
    """Writes the report of an evaluation at `step` to `path` and returns it."""
    title = f"{config.name}, step {step:,}"
    storage.write_atomically(
        path, render_report(title=title, config=config.to_dict(), history=history, evaluations=evaluations)
    )
    return path


def render_report(
    *,
    title: str,
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Evaluation],
) -> str:
    """The report as the text of one HTML file.

    Args:
      title: the heading.
      config: the run's configuration, shown as JSON.
      history: the lines of `metrics.jsonl`: `step`, `kind` (train, eval or summary) and numbers; in eval lines their
        keys are DATASET/METRIC. May be empty.
      evaluations: the outcome on each source, with artifacts where examples are to be shown.
    """
    sections = [
        _header(title, config, history, evaluations),
        _results(evaluations),
        _curves(history),
        *(part(evaluation) for evaluation in evaluations for part in (_confusion, _examples)),
        f"<details><summary>Configuration</summary><pre class=card>{_config_json(config)}</pre></details>",
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_CSS}</style></head><body><main>\n" + "\n".join(filter(None, sections)) + "\n</main></body></html>\n"
    )


def _text(value: Any) -> str:
    # A lone surrogate (a broken file name, say) could not be written as UTF-8.
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def _config_json(config: Mapping[str, Any]) -> str:
    return _text(json.dumps(config, indent=2, default=str, ensure_ascii=False))


def _header(title: str, config: Mapping, history: Sequence[Mapping], evaluations: Sequence[Evaluation]) -> str:
    facts = {}
    steps = [line["step"] for line in history if _is_number(line.get("step"))]
    if steps:
        facts["steps trained"] = f"{max(steps):,}"
    if _is_number(config.get("batch_size")):
        facts["batch size"] = f"{config['batch_size']:,}"
    if "seed" in config:
        facts["seed"] = config["seed"]
    for line in history:
        if line.get("kind") == "summary":
            for key, value in line.items():
                # "DATASET/METRIC" stands in the tables.
                if key not in ("step", "kind") and "/" not in key and _is_number(value):
                    facts[key.replace("_", " ")] = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    facts["evaluated on"] = f"{sum(evaluation.n for evaluation in evaluations):,} images"
    items = "".join(f"<li>{_text(key)} <b>{_text(value)}</b></li>" for key, value in facts.items())
    return f"<h1>{_text(title)}</h1><ul class=facts>{items}</ul>"


def _results(evaluations: Sequence[Evaluation]) -> str:
    tables = []
    for task, caption in ((CLASSIFICATION, "Zero-shot classification"), (RETRIEVAL, "Zero-shot retrieval")):
        rows = [evaluation for evaluation in evaluations if evaluation.task == task]
        if not rows:
            continue
        shown = columns(row.metrics for row in rows)
        groups: list[list[Any]] = []
        for column in shown:
            if groups and groups[-1][0] == column.group:
                groups[-1][1] += 1
            else:
                groups.append([column.group, 1])
        head = ""
        if any(group for group, _ in groups):
            cells = (f"<th class=group colspan={n}>{f'<span>{_text(g)}</span>' if g else ''}</th>" for g, n in groups)
            head = f"<tr><th></th><th></th>{''.join(cells)}</tr>"
        head += "<tr><th>dataset</th><th>images</th>" + "".join(f"<th>{_text(c.heading)}</th>" for c in shown) + "</tr>"
        body = ""
        for row in rows:
            body += f"<tr><td>{_text(row.dataset)}</td><td>{row.n:,}</td>"
            for column in shown:
                value = row.metrics.get(column.key)
                bar = f' class=rate style="--v:{100 * value:.1f}%"' if column.rate and value is not None else ""
                body += f"<td{bar}>{_text(column.text(value))}</td>"
            body += "</tr>"
        tables.append(
            f"<table class=results><caption>{caption}</caption><thead>{head}</thead><tbody>{body}</tbody></table>"
        )
    content = "".join(tables) or "<p>Nothing was evaluated.</p>"
    return f"<h2>Results</h2><div class='card scroll'>{content}</div>"


def _curves(history: Sequence[Mapping]) -> str:
    train = [line for line in history if line.get("kind") == "train"]
    evals = [line for line in history if line.get("kind") == "eval"]

    def trained(key: str, label: str, noisy: bool = False) -> list[_Series]:
        return [_series(train, key, label, noisy)]

    def evaluated(metrics: dict[str, str]) -> list[_Series]:
        keys = sorted({key for line in evals for key in line if key.rpartition("/")[2] in metrics})
        labels = ((key, *key.rpartition("/")[::2]) for key in keys)
        return [_series(evals, key, f"{dataset} {metrics[metric]}") for key, dataset, metric in labels]

    rates = {
        "acc1": "top-1",
        "image_retrieval_recall@1": "text to image R@1",
        "text_retrieval_recall@1": "image to text R@1",
    }
    charts = [
        ("Loss", trained("loss", "training", True) + evaluated({"loss": "held out"})),
        ("Accuracy", trained("accuracy", "in the training batch", True) + evaluated(rates)),
        ("Learning rate", trained("learning_rate", "learning rate")),
        ("Logit scale", trained("logit_scale", "logit scale")),
        ("Gradient norm", trained("grad_norm", "gradient norm", True)),
        ("Throughput", trained("images_per_second", "images per second", True)),
    ]
    charts = [(name, [each for each in series if each.steps]) for name, series in charts]
    cards = [_chart(i, name, series) for i, (name, series) in enumerate(charts) if series]
    if not cards:
        return "<h2>Learning curves</h2><p>No training history was recorded.</p>"
    note = "<p>By training step. Pale lines are single measurements, full ones their running mean.</p>"
    return f"<h2>Learning curves</h2>{note}<div class=charts>{''.join(cards)}</div>"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _series(lines: Sequence[Mapping], key: str, label: str, noisy: bool = False) -> _Series:
    points = sorted(
        (line["step"], line[key]) for line in lines if _is_number(line.get("step")) and _is_number(line.get(key))
    )
    if len(points) > _CURVE_POINTS:
        # Means over equal stretches: a picture has no more pixels to show, and a page should stay small.
        points = [tuple(part.mean(axis=0)) for part in np.array_split(np.array(points, np.float64), _CURVE_POINTS)]
    return _Series(label, [float(step) for step, _ in points], [float(value) for _, value in points], noisy)


def _smooth(values: list[float]) -> np.ndarray:
    """A centred mean over about a twentieth of the curve, narrower at its ends."""
    reach = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - reach, 0)
    high = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _chart(index: int, name: str, series: list[_Series]) -> str:
    # Imported here: drawing takes half a second to import, which evaluation alone should not pay.
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

    style = {"svg.fonttype": "none", "svg.hashsalt": "mmjax", "text.parse_math": False, "font.size": 9}
    style |= {"text.color": _INK, "axes.edgecolor": _GRID, "xtick.color": _INK, "ytick.color": _INK}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.2, 2.5))
        axes = figure.add_axes((0.115, 0.115, 0.865, 0.84))
        for number, each in enumerate(series):
            colour = f"#03030{number % _SERIES}"
            dots = "o" if len(each.steps) <= 40 else None
            line = {"color": colour, "linewidth": 1.6, "solid_joinstyle": "round", "solid_capstyle": "round"}
            if each.noisy and len(each.steps) > 40:
                axes.plot(each.steps, each.values, **line | {"linewidth": 0.8}, alpha=0.3)
                axes.plot(each.steps, _smooth(each.values), **line)
            else:
                axes.plot(each.steps, each.values, **line, marker=dots, markersize=3)
        axes.patch.set_visible(False)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, pad=5)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0) if name == "Accuracy" else FuncFormatter(_tick))
        stream = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    svg = _inline(stream.getvalue(), f"chart{index}-", name)
    legend = "".join(
        f'<span><i style="background:var(--c{number % _SERIES})"></i>{_text(each.label)}</span>'
        for number, each in enumerate(series)
        if each.label != name.lower()
    )
    return f"<div class=card><h3>{_text(name)}</h3><div class=legend>{legend}</div>{svg}</div>"


def _tick(value: float, _: int) -> str:
    if 0 < abs(value) < 0.01:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:g}"


def _inline(svg: str, prefix: str, name: str) -> str:
    """matplotlib's SVG as part of a page: no prolog, metadata or namespaces, ids of its own, the page's colours."""
    svg = svg[svg.index("<svg") :]
    # Its style element would reach the whole page; the page says the same for charts alone.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{_text(name)} by training step"', 1)


def _confusion(evaluation: Evaluation) -> str:
    artifacts = evaluation.artifacts
    if artifacts is None or artifacts.confusion is None:
        return ""
    counts = artifacts.confusion
    names = artifacts.class_names or [str(index) for index in range(len(counts))]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = _confusion_table(counts, share, names) if len(counts) <= _TABLE_CLASSES else _confusion_image(share)
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:10].tolist()
    worst = [divmod(cell, len(counts)) for cell in order if wrong.flat[cell]]
    items = "".join(f"<li><b>{wrong[i, j]:,}</b> {_text(names[i])} taken for {_text(names[j])}</li>" for i, j in worst)
    mistakes = f"<ul class=confused>{items}</ul>" if worst else "<p>No mistakes.</p>"
    return (
        f"<h2>Confusion: {_text(evaluation.dataset)}</h2>"
        "<p>Rows are true classes, columns predicted ones; shades are shares of the row.</p>"
        f"<div class='card split'><div class=scroll>{picture}</div>"
        f"<div><h3>Most frequent mistakes</h3>{mistakes}</div></div>"
    )


def _confusion_table(counts: np.ndarray, share: np.ndarray, names: Sequence[str]) -> str:
    head = "".join(f"<th><span>{_text(name)}</span></th>" for name in names)
    rows = ""
    for i, name in enumerate(names):
        rows += f"<tr><th>{_text(name)}</th>"
        for j, value in enumerate(counts[i]):
            # The square root lifts rare mistakes into sight.
            strength = 100 * math.sqrt(share[i, j]) if i != j else 85 * share[i, j]
            colour = "var(--accent)" if i == j else "var(--bad)"
            ink = ";color:var(--card)" if strength > 55 else ""
            style = f"background:color-mix(in srgb,{colour} {strength:.0f}%,var(--page)){ink}"
            rows += f'<td style="{style}">{value or ""}</td>'
        rows += "</tr>"
    return f"<table class=confusion><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _confusion_image(share: np.ndarray) -> str:
    # One colour of varying opacity shows on a light page and on a dark one.
    pixels = np.empty((*share.shape, 4), np.uint8)
    pixels[..., :3] = (200, 64, 47)
    np.einsum("CCR->CR", pixels[..., :3])[...] = (47, 111, 222)
    pixels[..., 3] = np.rint(255 * np.sqrt(share))
    return f'<img class=matrix alt="confusion matrix" src="{_data_uri(pixels)}">'


def _examples(evaluation: Evaluation) -> str:
    artifacts = evaluation.artifacts
    if artifacts is None:
        return ""
    kind = "class names" if evaluation.task == CLASSIFICATION else "captions"
    images = ""
    for each in artifacts.images:
        own = "".join(f"<li>{_text(caption)}</li>" for caption in each.captions[:5])
        images += (
            f"<div class='card match'>{_image(each.image, 'an evaluation image')}"
            f"<div><ul>{own}</ul><ol>{''.join(map(_text_match, each.nearest))}</ol></div></div>"
        )
    captions = ""
    for each in artifacts.captions:
        shown = "".join(map(_image_match, each.nearest))
        captions += f"<div class='card strip'><p>{_text(each.caption)}</p><div>{shown}</div></div>"
    right = sum(bool(each.nearest and each.nearest[0].right) for each in artifacts.images)
    found = sum(bool(each.nearest and each.nearest[0].right) for each in artifacts.captions)
    return (
        f"<h2>Nearest {kind}: {_text(evaluation.dataset)}</h2>"
        f"<p>{len(artifacts.images)} images from all over the dataset, each under its own caption, with the nearest "
        f"{kind} and their cosine similarity. \N{CHECK MARK} marks right ones; the first is right for {right}.</p>"
        f"<div class=matches>{images}</div>"
        f"<h2>Nearest images: {_text(evaluation.dataset)}</h2>"
        f"<p>The images nearest to {len(artifacts.captions)} {kind}, best first; the first is right for {found}.</p>"
        f"<div class=matches>{captions}</div>"
    )


def _text_match(match: Match) -> str:
    kind = "hit" if match.right else "miss"
    return f"<li class={kind}><span>{_text(match.item)}</span><b>{match.score:.3f}</b></li>"


def _image_match(match: Match) -> str:
    kind = "hit" if match.right else "miss"
    alt = "a right image" if match.right else "a wrong image"
    return f"<figure class={kind}>{_image(match.item, alt)}<figcaption>{match.score:.3f}</figcaption></figure>"


def _image(pixels: np.ndarray, alt: str) -> str:
    pixelated = " class=pixels" if max(pixels.shape[:2]) <= _PIXELATED_BELOW else ""
    return f'<img{pixelated} alt="{alt}" src="{_data_uri(pixels)}">'


def _data_uri(pixels: np.ndarray) -> str:
    image, stream = Image.fromarray(pixels), io.BytesIO()
    # Small pictures stay exact; larger photographs would make the page heavy.
    kind = "png" if max(pixels.shape[:2]) <= _PIXELATED_BELOW or image.mode == "RGBA" else "jpeg"
    image.save(stream, kind, **({"quality": 88} if kind == "jpeg" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
