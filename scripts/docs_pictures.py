"""Draws the pictures of docs/ from recorded runs: curves, retrievals, attention and a table of a fusion.

  python scripts/docs_pictures.py --run=runs/quickstart --fusion=runs/fusion --fusion=runs/fusion-dropout

What the docs show are `configs/quickstart.py`, and `configs/fusion.py:kind=cross` with `dropout=0.0` and `dropout=0.3`,
each with the default seed. Numbers are from `metrics.jsonl`, images and maps from `report.html`: no model is loaded.
"""

import argparse
import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
_HELD_OUT = {
    "digits/acc1": "digits, zero-shot top-1",
    "shapes/image_retrieval_recall@1": "scenes, text to image R@1",
    "shapes/text_retrieval_recall@1": "scenes, image to text R@1",
}
_FUSION = {
    "acc1": "all three",
    **{f"acc1_without_{name}": f"without {name}" for name in ("image", "series", "table")},
    **{f"acc1_only_{name}": f"{name} alone" for name in ("image", "series", "table")},
}
_BOUND = (0.972, 0.870, 0.906, 0.906, 0.472, 0.441, 0.441)  # of any classifier, see docs/recipes.md


def draw_curves(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and held-out rates by step, of the lines of `metrics.jsonl`."""
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    train = [line for line in lines if line["kind"] == "train"]
    left.plot([line["step"] for line in train], [line["loss"] for line in train])
    left.set_title("contrastive loss in training", fontsize=10)
    for key, label in _HELD_OUT.items():
        points = [(line["step"], line[key]) for line in lines if line["kind"] == "eval" and key in line]
        right.plot(*zip(*points, strict=True), marker="o", label=f"{label}: {points[-1][1]:.1%}")
    right.plot(
        [line["step"] for line in train], [line["accuracy"] for line in train], color="0.75", label="training batch"
    )
    right.set_title("rates, held out and in the training batch", fontsize=10)
    right.set_ylim(0, 1)
    right.legend(fontsize=8, loc="lower right")
    for axis in (left, right):
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_fusions(runs: Mapping[str, Mapping[str, float]]) -> Figure:
    """Top-1 of fused modalities by what is missing, a row a run; `runs` are the last evaluations by name."""
    rows = {"bound of any classifier": _BOUND}
    rows |= {name: [line[f"sensors/{key}"] for key in _FUSION] for name, line in runs.items()}
    values = 100 * np.array(list(rows.values()))
    figure = Figure(figsize=(8.4, 0.45 * len(rows) + 0.9), layout="constrained")
    axis = figure.subplots()
    axis.imshow(values - values[0], cmap="RdYlGn", vmin=-60, vmax=60, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        axis.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=9)
    axis.set_xticks(range(len(_FUSION)), list(_FUSION.values()), fontsize=9)
    axis.set_yticks(range(len(rows)), list(rows), fontsize=9)
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)
    return figure


def read_image(uri: str) -> Image.Image:
    """The picture of a data URI."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


def _section(report: str, title: str) -> str:
    """The part of a report under a heading."""
    if f"<h2>{title}</h2>" not in report:
        raise SystemExit(f"--run: its report.html has no section {title!r}; give a workdir of configs/quickstart.py")
    return report.partition(f"<h2>{title}</h2>")[2].partition("<h2>")[0]


def _figures(part: str) -> list[tuple[Image.Image, str]]:
    """The pictures of a part of a report, with their captions."""
    pictures = re.findall(r'<img[^>]* src="([^"]+)">\s*<figcaption>(.*?)</figcaption>', part, re.DOTALL)
    return [(read_image(uri), unescape(re.sub(r"<[^>]+>", "\n", text)).strip()) for uri, text in pictures]


def _grid(rows: Sequence[tuple[str, Sequence[tuple[Image.Image, str, str]]]], size: float, below: float) -> Figure:
    """A figure with a row for each title and its pictures; a picture has a caption and the colour of its frame."""
    columns = max(len(pictures) for _, pictures in rows)
    figure = Figure(figsize=(columns * (size + 0.15), len(rows) * (size + below)))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(left=0.005, right=0.995, top=1 - 0.5 * below / (size * len(rows)), bottom=0.06, hspace=below)
    for (title, pictures), row in zip(rows, axes, strict=True):
        for axis, (picture, caption, colour) in zip(row, pictures, strict=False):
            axis.imshow(picture, interpolation="nearest" if max(picture.size) < 64 else None)
            axis.set_xlabel(caption, fontsize=8)
            axis.spines[:].set(color=colour, linewidth=2)
        row[0].set_title(title, loc="left", fontsize=9)
        for axis in row:
            axis.set(xticks=[], yticks=[])
        for axis in row[len(pictures) :]:
            axis.set_axis_off()
    return figure


def draw_retrievals(report: str, dataset: str = "shapes", count: int = 4) -> Figure:
    """Captions with their nearest images, right ones in green; half of them failures, which a report shows first."""
    section = _section(report, f"Nearest images: {dataset}")
    strips = re.findall(r"<div class='card strip'><p>(.*?)</p>(.*?)</div></div>", section, re.DOTALL)
    rows = []
    for caption, strip in strips[: count // 2] + strips[-(count - count // 2) :]:
        hits = re.findall(r"<figure class=(hit|miss)>", strip)
        frames = ["#17834a" if hit == "hit" else "#d9dde3" for hit in hits]
        pictures = [(*shown, frame) for shown, frame in zip(_figures(strip), frames, strict=True)]
        rows.append((unescape(caption), pictures))
    return _grid(rows, 1.25, 0.45)


def draw_attention(report: str, dataset: str = "shapes", count: int = 2) -> Figure:
    """Images, where the image tower looks, and which patches are near to the image's caption and to another one."""
    section = _section(report, f"Looking inside: {dataset}")
    rows = []
    for panel in section.split("<div class='card inside'>")[1 : count + 1]:
        pictures = _figures(panel)
        caption = next(text.partition(": ")[2] for _, text in pictures if text.startswith("own text"))
        short = [re.sub(r"(\ncosine \S+):.*|\n.* a patch", r"\1", text) for _, text in pictures]
        rows.append((caption, [(picture, text, "#d9dde3") for (picture, _), text in zip(pictures, short, strict=True)]))
    return _grid(rows, 1.6, 0.5)


def _lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _fusion_name(run: Path) -> str:
    model = json.loads((run / "config.json").read_text())["model"]
    return f"{model['fusion']['kind']}, modality dropout {model['modality_dropout']:g}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True, help="workdir of configs/quickstart.py")
    parser.add_argument("--fusion", type=Path, action="append", required=True, help="workdir of configs/fusion.py")
    parser.add_argument("--output", type=Path, default=PICTURES)
    args = parser.parse_args(argv)
    args.output.mkdir(exist_ok=True)
    report = (args.run / "report.html").read_text()
    fusions = {_fusion_name(run): next(x for x in _lines(run)[::-1] if x["kind"] == "eval") for run in args.fusion}
    pictures = {
        "curves.svg": draw_curves(_lines(args.run)),
        "fusion.svg": draw_fusions(fusions),
        "retrieval.png": draw_retrievals(report),
        "attention.png": draw_attention(report),
    }
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mmjax", "font.family": "sans-serif"}):
        for name, figure in pictures.items():
            metadata = {"Date": None} if name.endswith(".svg") else {}
            figure.savefig(args.output / name, dpi=72, metadata=metadata)
            print(f"{args.output / name}: {(args.output / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
