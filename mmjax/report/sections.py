"""Sections of the report on one evaluation: classes, confusions, examples and attention maps."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mmjax.evaluation.example_selection import AttentionPanels, CaptionMatches, ImageMatches, Match, Panel
from mmjax.evaluation.heatmaps import colormap_stops
from mmjax.evaluation.metric_columns import task_titles
from mmjax.evaluation.results import CLASSIFICATION, Evaluation
from mmjax.report.markup import data_uri, escape, image

_ATTENTION_NOTE = (
    "Attention shows where information may pass, not why the model answers as it does: what is looked at need not"
    " matter, and what matters may have come another way."
)
_TABLE_CLASSES = 24  # confusion matrices up to this size are tables of numbers, larger ones pictures


def render_section(evaluation: Evaluation) -> str:
    """The sections of an evaluation as HTML; empty without artifacts."""
    return "".join(part(evaluation) for part in (_accuracies, _average_precisions, _confusion, _examples, _attention))


def _heading(evaluation: Evaluation) -> str:
    """The dataset and, where it has several tasks with classes, which one this is of."""
    names = [evaluation.dataset]
    if evaluation.task != CLASSIFICATION:
        names.append(next(iter(task_titles([evaluation.task]).values())))
    return escape(", ".join(filter(None, [*names, evaluation.artifacts.what])))


def _class_names(evaluation: Evaluation, count: int) -> Sequence[str]:
    return evaluation.artifacts.class_names or [str(index) for index in range(count)]


def _accuracies(evaluation: Evaluation) -> str:
    """Every class's accuracy, the worst first, with what it is most often taken for."""
    artifacts = evaluation.artifacts
    if artifacts is None or artifacts.confusion is None:
        return ""
    counts = artifacts.confusion
    names, totals = _class_names(evaluation, len(counts)), counts.sum(axis=1)
    rates = np.where(totals > 0, counts.diagonal() / np.maximum(totals, 1), np.nan)
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    others = [
        f"{escape(names[other])} ({row[other]:,})" if row[other] else ""
        for row, other in zip(wrong, wrong.argmax(axis=1).tolist(), strict=True)
    ]
    columns = {"top-1": rates, "most often taken for": others}
    return _class_table(evaluation, totals, columns, "The least accurate first.")


def _average_precisions(evaluation: Evaluation) -> str:
    """Every class's average precision, the worst first, where images show several classes."""
    artifacts = evaluation.artifacts
    if artifacts is None or artifacts.average_precisions is None:
        return ""
    columns = {"average precision": artifacts.average_precisions}
    return _class_table(evaluation, artifacts.class_counts, columns, "The lowest average precision first.")


def _class_table(
    evaluation: Evaluation, counts: np.ndarray, columns: Mapping[str, Sequence | np.ndarray], order: str
) -> str:
    """A row for every class that has images.

    Args:
      evaluation: whose classes.
      counts: [C] images of each.
      columns: what stands beside the counts, by heading: first the rates [C], in [0, 1] or NaN for a class without an
        image, which the table is sorted by; then, if anything, HTML [C].
      order: the sentence that says so.
    """
    names, (rates, *others) = _class_names(evaluation, len(counts)), columns.values()
    rated = np.flatnonzero(~np.isnan(rates))
    rows = "".join(
        f"<tr><td>{escape(names[label])}</td><td>{counts[label]:,}</td>"
        f'<td class=rate style="--v:{100 * rates[label]:.1f}%">{100 * rates[label]:.2f}%</td>'
        f"{''.join(f'<td>{other[label]}</td>' for other in others)}</tr>"
        for label in rated[np.argsort(rates[rated], kind="stable")].tolist()
    )
    empty = len(counts) - len(rated)
    note = f" {empty} of {len(counts)} classes have no image." if empty else ""
    head = "".join(f"<th>{column}</th>" for column in ("class", "images", *columns))
    return (
        f"<h2>Classes: {_heading(evaluation)}</h2><p>{order}{note}</p>"
        f"<div class='card scroll tall'><table class=results><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _confusion(evaluation: Evaluation) -> str:
    artifacts = evaluation.artifacts
    if artifacts is None or artifacts.confusion is None:
        return ""
    counts = artifacts.confusion
    names = _class_names(evaluation, len(counts))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = _confusion_table(counts, share, names) if len(counts) <= _TABLE_CLASSES else _confusion_image(share)
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:10].tolist()
    worst = [divmod(cell, len(counts)) for cell in order if wrong.flat[cell]]
    items = "".join(
        f"<li><b>{wrong[i, j]:,}</b> {escape(names[i])} taken for {escape(names[j])}</li>" for i, j in worst
    )
    mistakes = f"<ul class=confused>{items}</ul>" if worst else "<p>No mistakes.</p>"
    return (
        f"<h2>Confusion: {_heading(evaluation)}</h2>"
        "<p>Rows are true classes, columns predicted ones; shades are shares of the row.</p>"
        f"<div class='card split'><div class=scroll>{picture}</div>"
        f"<div><h3>Most frequent mistakes</h3>{mistakes}</div></div>"
    )


def _confusion_table(counts: np.ndarray, share: np.ndarray, names: Sequence[str]) -> str:
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in names)
    rows = ""
    for i, name in enumerate(names):
        rows += f"<tr><th>{escape(name)}</th>"
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
    return f'<img class=matrix alt="confusion matrix" src="{data_uri(pixels)}">'


def _examples(evaluation: Evaluation) -> str:
    artifacts = evaluation.artifacts
    if artifacts is None or not artifacts.images:
        return ""
    kind = "class names" if evaluation.task == CLASSIFICATION else "captions"
    images = ""
    for matches in artifacts.images:
        # A class's captions differ in their templates alone.
        alike = evaluation.task == CLASSIFICATION and artifacts.average_precisions is None
        captions = matches.captions[: 1 if alike else 5]
        items = "".join(f"<li>{escape(caption)}</li>" for caption in captions)
        images += (
            f"<div class='card match'>{image(matches.image, 'an evaluation image')}"
            f"<div><ul>{items}</ul><ol>{''.join(map(_text_match, matches.nearest))}</ol></div></div>"
        )
    right = _count_right(artifacts.images)
    chosen = (
        f"{len(artifacts.images)} images from all over the dataset, failures first, {{}} \N{CHECK MARK} marks right "
        f"ones; the first is right for {right} of these. Failures are chosen more often than they occur."
    )
    if artifacts.what:  # nothing was retrieved
        note = chosen.format("each with what belongs to it and what the model gave, with its score.")
        heading = escape(artifacts.what[0].upper() + artifacts.what[1:])
        return f"<h2>{heading}: {escape(evaluation.dataset)}</h2><p>{note}</p><div class=matches>{images}</div>"
    chosen = chosen.format(f"each under its own caption, with the nearest {kind} and their cosine similarity.")
    texts = ""
    for matches in artifacts.captions:
        shown = "".join(map(_image_match, matches.nearest))
        texts += f"<div class='card strip'><p>{escape(matches.caption)}</p><div>{shown}</div></div>"
    return (
        f"<h2>Nearest {kind}: {escape(evaluation.dataset)}</h2>"
        f"<p>{chosen}</p><div class=matches>{images}</div>"
        f"<h2>Nearest images: {escape(evaluation.dataset)}</h2>"
        f"<p>The images nearest to {len(artifacts.captions)} {kind}, best first, failures before others; the first is "
        f"right for {_count_right(artifacts.captions)}.</p>"
        f"<div class=matches>{texts}</div>"
    )


def _count_right(shown: Sequence[ImageMatches] | Sequence[CaptionMatches]) -> int:
    """How many have a right match first."""
    return sum(bool(matches.nearest and matches.nearest[0].right) for matches in shown)


def _attention(evaluation: Evaluation) -> str:
    """Images with attention and similarity maps, and strips of words."""
    if evaluation.artifacts is None or not evaluation.artifacts.attention:
        return ""
    shown = evaluation.artifacts.attention
    cards, colours = "".join(map(_attention_card, shown)), ",".join(colormap_stops())
    return (
        f"<h2>Looking inside: {escape(evaluation.dataset)}</h2><p>{_explain_maps(shown)}{_ATTENTION_NOTE}</p>"
        f"<div class=scale><span>low</span><i style='background:linear-gradient(90deg,{colours})'></i>"
        f"<span>high</span></div><div class=insides>{cards}</div>"
    )


def _explain_maps(shown: list[AttentionPanels]) -> str:
    """An explanation of the kinds of maps that are shown."""
    titles = " ".join(panel.title for panels in shown for panel in panels.maps)
    text = ""
    if "rollout" in titles:
        text += (
            "Attention of what is embedded to each patch, the mean over heads: in the last layer, and rolled out"
            " through all layers and residual connections; each map has its own scale. "
        )
    if "own text" in titles:
        text += (
            "Similarity is that of each patch, embedded as if it were the whole image, with a text: patches were not"
            " trained for it. The maps of an image share a scale; the number is the whole image's. "
        )
    if any(panels.words for panels in shown):
        text += "Words are shown with the patches that the last layer attends to for them, on one scale an image. "
    return text


def _attention_card(panels: AttentionPanels) -> str:
    maps = "".join(map(_figure, panels.maps))
    words = ""
    if panels.words:
        figures = "".join(map(_figure, panels.words))
        words = f"<h3>{escape(panels.words_title)}</h3><div class='looks words'>{figures}</div>"
    return f"<div class='card inside'><div class=looks>{maps}</div>{words}</div>"


def _figure(panel: Panel) -> str:
    title = escape(panel.title)
    detail = f"<span>{escape(panel.detail)}</span>" if panel.detail else ""
    return f"<figure>{image(panel.picture, title)}<figcaption>{title}{detail}</figcaption></figure>"


def _text_match(match: Match) -> str:
    kind = "hit" if match.right else "miss"
    return f"<li class={kind}><span>{escape(match.item)}</span><b>{match.score:.3f}</b></li>"


def _image_match(match: Match) -> str:
    kind = "hit" if match.right else "miss"
    alt = "a right image" if match.right else "a wrong image"
    return f"<figure class={kind}>{image(match.item, alt)}<figcaption>{match.score:.3f}</figcaption></figure>"
