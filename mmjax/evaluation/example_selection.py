"""Artifacts of an evaluation for the report: images and texts with their nearest matches, failures first.

Images are not held by an evaluation. The few that are shown are read again, by position, once it is known which.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from mmjax.data.record import Record
from mmjax.data.source_protocols import Source
from mmjax.evaluation.embedding.features import Examples, Features, decoded_input
from mmjax.evaluation.pictures import example_picture
from mmjax.metrics import exact_dot

NUM_SHOWN = 12  # images, and captions, in a report
NUM_FAILURES = 8  # of them, where there are so many
_CANDIDATES = 2000  # queries whose best match is looked up to find failures
_NEAREST = 5  # matches shown for each of them


@dataclasses.dataclass(frozen=True)
class Match:
    """A retrieved text (a caption or class name) or thumbnail, its cosine similarity, and whether it is right."""

    item: str | np.ndarray
    score: float
    right: bool


@dataclasses.dataclass(frozen=True)
class ImageMatches:
    """A thumbnail with its texts.

    Attributes:
      image: uint8 [h, w, 3].
      captions: its own.
      nearest: the texts nearest to it, best first.
      alignment: of a transcript, pairs of words said and written, see `word_errors.align`.
    """

    image: np.ndarray
    captions: list[str]
    nearest: list[Match]
    alignment: list[tuple[str | None, str | None]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class CaptionMatches:
    """A caption or class name and the thumbnails of the images nearest to it, best first."""

    caption: str
    nearest: list[Match]


@dataclasses.dataclass(frozen=True)
class Panel:
    """A picture, uint8 [h, w, 3], with its title and numbers or text that belong to it."""

    picture: np.ndarray
    title: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class AttentionPanels:
    """An image with its attention maps.

    Attributes:
      maps: the image itself, then maps over it.
      words: a map for each word.
      words_title: a heading of those.
    """

    maps: list[Panel]
    words: list[Panel]
    words_title: str = ""


@dataclasses.dataclass(frozen=True)
class Artifacts:
    """Examples and counts of one evaluation, as the report shows them.

    Attributes:
      images, captions: examples.
      confusion: [C, C] counts, rows are true classes; for classification alone.
      class_names: of the C classes.
      average_precisions, class_counts: [C], where images show several classes: NaN for one that no image shows.
      what: which of several predictions these are of, such as "k = 10"; "" where there is one.
      attention: images with their attention maps.
      panels: other pictures, under `panels_title` and `panels_text`.
      separations: spectrograms of mixtures and of what was separated of them, as panels like those.
    """

    images: list[ImageMatches]
    captions: list[CaptionMatches]
    confusion: np.ndarray | None = None
    class_names: list[str] | None = None
    average_precisions: np.ndarray | None = None
    class_counts: np.ndarray | None = None
    what: str = ""
    attention: list[AttentionPanels] = dataclasses.field(default_factory=list)
    panels: list[Panel] = dataclasses.field(default_factory=list)
    panels_title: str = ""
    panels_text: str = ""
    separations: list[AttentionPanels] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Matching:
    """Texts and images with what is right for what.

    A text is right for an image whose group (its class, or its id) is among the text's groups.

    Attributes:
      texts: captions or class names.
      embeddings: [M, E] of the texts.
      text_groups: of each text.
      image_groups: of each image.
      confusion, class_names, average_precisions, class_counts: see `Artifacts`.
      captions: of each image, where other ones than the source's are to be shown.
    """

    texts: list[str]
    embeddings: np.ndarray
    text_groups: list[set[int]]
    image_groups: list[int]
    confusion: np.ndarray | None = None
    class_names: list[str] | None = None
    average_precisions: np.ndarray | None = None
    class_counts: np.ndarray | None = None
    captions: list[list[str]] | None = None

    def is_right(self, image: int, text: int) -> bool:
        """Whether a text is right for an image."""
        return self.image_groups[image] in self.text_groups[text]


def collect_artifacts(features: Features, matching: Matching, examples: Examples, *, seed: int = 0) -> Artifacts:
    """Chooses images and texts to show, matches them both ways, and reads the images.

    Args:
      features: the images.
      matching: the texts.
      examples: decodes a source (or a view of one).
      seed: decides which failures and which others are shown.
    """
    image_embeddings, texts = features.embeddings, matching.embeddings
    captions = matching.captions or features.captions
    images = _choose(image_embeddings, texts, matching.is_right, seed)
    queries = _choose(texts, image_embeddings, lambda text, image: matching.is_right(image, text), seed)
    nearest_texts, text_scores = exact_dot.top_matches(image_embeddings[images], texts, _NEAREST)
    nearest_images, image_scores = exact_dot.top_matches(texts[queries], image_embeddings, _NEAREST)
    thumbnails = _thumbnails(features.source, examples, {*images.tolist(), *nearest_images.ravel().tolist()})
    text_matches = [
        [Match(matching.texts[t], float(s), matching.is_right(image, t)) for t, s in zip(*best, strict=True)]
        for image, *best in zip(images.tolist(), nearest_texts.tolist(), text_scores, strict=True)
    ]
    image_matches = [
        [Match(thumbnails[i], float(s), matching.is_right(i, text)) for i, s in zip(*best, strict=True)]
        for text, *best in zip(queries.tolist(), nearest_images.tolist(), image_scores, strict=True)
    ]
    return Artifacts(
        [ImageMatches(thumbnails[i], captions[i], best) for i, best in zip(images.tolist(), text_matches, strict=True)],
        [CaptionMatches(matching.texts[t], best) for t, best in zip(queries.tolist(), image_matches, strict=True)],
        confusion=matching.confusion,
        class_names=matching.class_names,
        average_precisions=matching.average_precisions,
        class_counts=matching.class_counts,
    )


def _choose(queries: np.ndarray, gallery: np.ndarray, is_right: Callable[[int, int], bool], seed: int) -> np.ndarray:
    """Positions of queries to show: failures from all over the set, then others."""
    candidates = stratified_sample(len(queries), _CANDIDATES, seed)
    best = exact_dot.top_matches(queries[candidates], gallery, 1)[0][:, 0]
    good = np.array([is_right(query, item) for query, item in zip(candidates.tolist(), best.tolist(), strict=True)])
    failures, others = candidates[~good], candidates[good]
    count = min(len(failures), max(NUM_FAILURES, NUM_SHOWN - len(others)))
    failures = failures[stratified_sample(len(failures), count, seed)]
    return np.concatenate([failures, others[stratified_sample(len(others), NUM_SHOWN - count, seed)]])


def stratified_sample(count: int, wanted: int, seed: int) -> np.ndarray:
    """One random position from each of `wanted` equal stretches of range(count); all of them when there are fewer."""
    if count <= wanted:
        return np.arange(count)
    edges = np.linspace(0, count, wanted + 1).astype(np.int64)
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


class _Subset:
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
    order = sorted(positions)
    shown = examples(_Subset(source, order))
    pairs = zip(order, shown, strict=True)
    pictures = {}
    for position, example in pairs:
        decoded_input(example, source.name)
        pictures[position] = example_picture(example.inputs)
    return pictures
