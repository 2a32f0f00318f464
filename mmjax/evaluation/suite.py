"""Runs zero-shot classification and retrieval over evaluation sources, through whatever can embed images and texts.

A source with class names is evaluated by zero-shot classification, any other by retrieval; both also give the held-out
loss. Images stream from the source to the embedder and are never held. The few that a report shows are read again
afterwards, by position, once it is known which they are.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from mmjax.data.source import Record, Source
from mmjax.errors import UserError
from mmjax.evaluation.metrics import top_matches
from mmjax.evaluation.retrieval import embed_unique, evaluate_retrieval
from mmjax.evaluation.zero_shot import evaluate_zero_shot

CLASSIFICATION = "zeroshot_classification"
RETRIEVAL = "zeroshot_retrieval"

_SHOWN = 12  # images, and captions, in a report
_NEAREST = 5  # matches shown for each of them
_THUMBNAIL = 160  # longest side, pixels


@runtime_checkable
class Embedder(Protocol):
    """What an evaluation needs of a model."""

    def images(self, images: Iterable[np.ndarray], /) -> np.ndarray:
        """Embeds a stream of N uint8 [H, W, 3] images: float32 [N, E], L2-normalised, in order."""
        ...

    def texts(self, texts: list[str], /) -> np.ndarray:
        """Embeds M texts: float32 [M, E], L2-normalised, in order."""
        ...

    def loss(self, image_embeddings: np.ndarray, text_embeddings: np.ndarray, ids: np.ndarray, /) -> float | None:
        """The training loss of N pairs, [N, E] each with ids uint64 [N], averaged over consecutive full batches.

        None where it has no value (fewer pairs than a batch, say); the metric is then left out.
        """
        ...


@runtime_checkable
class Example(Protocol):
    """A decoded evaluation example: image uint8 [H, W, 3], all its captions, its label or None, its 64-bit id."""

    image: np.ndarray
    captions: list[str]
    label: int | None
    id: int


Examples = Callable[[Source], Iterable[Example]]


@dataclasses.dataclass(frozen=True)
class Match:
    """A retrieved text (a caption or class name) or thumbnail, its cosine similarity, and whether it is right."""

    item: str | np.ndarray
    score: float
    right: bool


@dataclasses.dataclass(frozen=True)
class ImageMatches:
    """A thumbnail, uint8 [h, w, 3], its own captions, and the texts nearest to it, best first."""

    image: np.ndarray
    captions: list[str]
    nearest: list[Match]


@dataclasses.dataclass(frozen=True)
class CaptionMatches:
    """A caption or class name and the thumbnails of the images nearest to it, best first."""

    caption: str
    nearest: list[Match]


@dataclasses.dataclass(frozen=True)
class Artifacts:
    """What a report shows of one evaluation; confusion ([C, C], rows are true classes) is for classification alone."""

    images: list[ImageMatches]
    captions: list[CaptionMatches]
    confusion: np.ndarray | None = None
    class_names: list[str] | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The outcome on one source.

    Attributes:
      dataset: the source's name.
      task: `zeroshot_classification` or `zeroshot_retrieval`.
      n: the number of images.
      metrics: rates in [0, 1], ranks from 1 up, and `loss`, the held-out loss in nats.
      artifacts: examples for a report, when they were asked for.
    """

    dataset: str
    task: str
    n: int
    metrics: dict[str, float]
    artifacts: Artifacts | None = None


def evaluate(
    sources: Sequence[Source],
    embedder: Embedder,
    *,
    examples: Examples,
    keep_artifacts: bool = False,
    seed: int = 0,
) -> list[Evaluation]:
    """Evaluates every source, in order.

    Args:
      sources: one evaluation each.
      embedder: the model.
      examples: decodes a source (or a view of one) into its examples, each once, in order of index.
      keep_artifacts: whether to also collect what a report shows.
      seed: decides which examples a report shows; metrics do not depend on it.

    Raises:
      UserError: for a source without examples, or with class names and no templates.
      ValueError: for labels, captions or embeddings that do not fit.
    """
    return [_evaluate_source(source, embedder, examples, keep_artifacts, seed) for source in sources]


def to_records(evaluations: Sequence[Evaluation], *, model: str, pretrained: str) -> list[dict[str, Any]]:
    """The evaluations in the JSON shape of CLIP_benchmark, one record per dataset."""
    return [
        {
            "dataset": evaluation.dataset,
            "model": model,
            "pretrained": pretrained,
            "task": evaluation.task,
            "metrics": {name: float(value) for name, value in evaluation.metrics.items()},
            "language": "en",
        }
        for evaluation in evaluations
    ]


@dataclasses.dataclass(frozen=True)
class Column:
    """A metric as tables show it: its key, a heading (with the group it stands under), and how to print a value."""

    key: str
    group: str
    heading: str
    rate: bool

    def text(self, value: float | None) -> str:
        if value is None:
            return "-"
        return f"{100 * value:.2f}%" if self.rate else f"{value:.4g}"


def columns(metrics: Iterable[dict[str, float]]) -> list[Column]:
    """The columns for a table of these metrics, known ones first and in a fixed order, then the rest by name."""
    present = {key for each in metrics for key in each}
    known = [Column("acc1", "", "top-1", True), Column("acc5", "", "top-5", True)]
    known += [Column("mean_per_class_recall", "", "per-class recall", True)]
    for prefix, group in (("image_retrieval", "text to image"), ("text_retrieval", "image to text")):
        known += [Column(f"{prefix}_recall@{k}", group, f"R@{k}", True) for k in (1, 5, 10)]
        known += [
            Column(f"{prefix}_{kind}_rank", group, heading, False)
            for kind, heading in (("median", "MedR"), ("mean", "MeanR"))
        ]
    known += [Column("loss", "", "loss", False)]
    others = present - {column.key for column in known}
    return [column for column in known if column.key in present] + [Column(k, "", k, False) for k in sorted(others)]


def format_table(records: Sequence[dict[str, Any]]) -> str:
    """A plain-text table of the records of `to_records`, one block per task; rates in percent."""
    models = {(record["model"], record["pretrained"]) for record in records}
    blocks = []
    for task, title in ((CLASSIFICATION, "zero-shot classification"), (RETRIEVAL, "zero-shot retrieval")):
        rows = [record for record in records if record["task"] == task]
        if not rows:
            continue
        shown = columns(row["metrics"] for row in rows)
        names = [row["dataset"] for row in rows]
        if len(models) > 1:
            names = [f"{row['dataset']} ({row['model']} {row['pretrained']})" for row in rows]
        cells = [[column.text(row["metrics"].get(column.key)) for column in shown] for row in rows]
        widths = [max(len(column.heading), *(len(row[i]) for row in cells)) for i, column in enumerate(shown)]
        first = max(len(text) for text in [title, *names])
        lines = []
        if any(column.group for column in shown):
            lines.append(f"{'':{first}}{_group_line(shown, widths)}".rstrip())
        header = "".join(f"  {column.heading:>{width}}" for column, width in zip(shown, widths, strict=True))
        lines += [f"{title:{first}}{header}", "-" * (first + len(header))]
        for name, row in zip(names, cells, strict=True):
            lines.append(
                f"{name:{first}}" + "".join(f"  {text:>{width}}" for text, width in zip(row, widths, strict=True))
            )
        blocks.append("\n".join(lines))
    if len(models) == 1:
        blocks.insert(0, "{}  {}".format(*models.pop()).rstrip())
    return "\n\n".join(blocks)


def _group_line(shown: list[Column], widths: list[int]) -> str:
    """The groups' names over their columns."""
    line, start = "", 0
    while start < len(shown):
        stop = start + 1
        while stop < len(shown) and shown[stop].group == shown[start].group:
            stop += 1
        width = sum(widths[start:stop]) + 2 * (stop - start - 1)
        label = f" {shown[start].group} " if shown[start].group else ""
        line += "  " + (label.center(width, "-") if label else " " * width)
        start = stop
    return line


def _evaluate_source(
    source: Source, embedder: Embedder, examples: Examples, keep_artifacts: bool, seed: int
) -> Evaluation:
    captions, labels, ids = [], [], []

    def stream() -> Iterator[np.ndarray]:
        for example in examples(source):
            captions.append(list(example.captions))
            labels.append(example.label)
            ids.append(int(example.id))
            yield example.image

    image_embeddings = embedder.images(stream())
    count = len(ids)
    if not count:
        raise UserError(f"data.eval: {source.name!r} has no examples; name a source or split that has some")
    if count != len(source):
        # What a report shows is read again by position, and a benchmark's number is for all of it.
        raise ValueError(f"{source.name}: {len(source)} records gave {count} examples; evaluation leaves none out")
    if image_embeddings.shape[:1] != (count,):
        raise ValueError(f"{source.name}: {count} images gave embeddings of shape {image_embeddings.shape}")
    id_array = np.array(ids, np.uint64)

    if source.class_names:
        missing = sum(label is None for label in labels)
        if missing:
            raise ValueError(
                f"{source.name}: {missing} of {count} examples have no label, though the source has classes"
            )
        label_array = np.array(labels, np.int64)
        result = evaluate_zero_shot(
            image_embeddings,
            label_array,
            embed_texts=embedder.texts,
            class_names=source.class_names,
            templates=source.templates or [],
        )
        _, first, index = embed_unique(embedder.texts, [own[0] for own in captions])
        paired = first[index]
        texts, text_embeddings = list(source.class_names), result.weights
        text_groups, image_groups = [{label} for label in range(len(texts))], labels
        task, confusion = CLASSIFICATION, result.confusion
    else:
        result = evaluate_retrieval(image_embeddings, captions, embed_texts=embedder.texts, image_ids=id_array)
        # The loss pairs every image with its first caption.
        paired = result.text_embeddings[result.text_index[np.unique(result.text_image, return_index=True)[1]]]
        texts, text_embeddings = result.texts, result.text_embeddings
        text_groups, image_groups = [set() for _ in texts], ids
        for text, image in zip(result.text_index, result.text_image, strict=True):
            text_groups[text].add(ids[image])
        task, confusion = RETRIEVAL, None

    metrics = dict(result.metrics)
    loss = embedder.loss(image_embeddings, paired, id_array)
    if loss is not None:
        metrics["loss"] = float(loss)
    artifacts = None
    if keep_artifacts:
        artifacts = _artifacts(
            source, examples, captions, image_embeddings, image_groups, texts, text_embeddings, text_groups, seed
        )
        artifacts = dataclasses.replace(artifacts, confusion=confusion, class_names=source.class_names)
    return Evaluation(source.name, task, count, metrics, artifacts)


def _artifacts(
    source: Source,
    examples: Examples,
    captions: list[list[str]],
    image_embeddings: np.ndarray,
    image_groups: list[int],
    texts: list[str],
    text_embeddings: np.ndarray,
    text_groups: list[set[int]],
    seed: int,
) -> Artifacts:
    """Matches both ways; a text is right for an image whose group (its class, or its id) is among the text's groups."""
    images, queries = _spread(len(image_embeddings), _SHOWN, seed), _spread(len(texts), _SHOWN, seed)
    text_at, text_scores = top_matches(image_embeddings[images], text_embeddings, _NEAREST)
    image_at, image_scores = top_matches(text_embeddings[queries], image_embeddings, _NEAREST)
    thumbnails = _thumbnails(source, examples, {*images.tolist(), *image_at.ravel().tolist()})
    return Artifacts(
        images=[
            ImageMatches(
                thumbnails[image],
                captions[image],
                [
                    Match(texts[t], float(s), image_groups[image] in text_groups[t])
                    for t, s in zip(at, scores, strict=True)
                ],
            )
            for image, at, scores in zip(images.tolist(), text_at.tolist(), text_scores, strict=True)
        ],
        captions=[
            CaptionMatches(
                texts[text],
                [
                    Match(thumbnails[i], float(s), image_groups[i] in text_groups[text])
                    for i, s in zip(at, scores, strict=True)
                ],
            )
            for text, at, scores in zip(queries.tolist(), image_at.tolist(), image_scores, strict=True)
        ],
    )


def _spread(count: int, wanted: int, seed: int) -> np.ndarray:
    """One random position from each of `wanted` equal stretches of range(count); all of them when there are fewer."""
    if count <= wanted:
        return np.arange(count)
    edges = np.linspace(0, count, wanted + 1).astype(np.int64)
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


class _View:
    """Some examples of a source, as a source."""

    def __init__(self, source: Source, indices: list[int]):
        self.source, self.indices = source, indices
        self.name, self.class_names, self.templates = source.name, source.class_names, source.templates

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Record:
        return self.source[self.indices[index]]


def _thumbnails(source: Source, examples: Examples, positions: set[int]) -> dict[int, np.ndarray]:
    """Small versions of the images at these positions."""
    wanted = sorted(positions)
    return {at: _thumbnail(each.image) for at, each in zip(wanted, examples(_View(source, wanted)), strict=True)}


def _thumbnail(image: np.ndarray) -> np.ndarray:
    if max(image.shape[:2]) <= _THUMBNAIL:
        return image.copy()
    small = Image.fromarray(image)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return np.asarray(small)
