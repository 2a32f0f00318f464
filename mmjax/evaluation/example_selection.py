"""What a report shows of an evaluation besides numbers: images and texts with what is nearest to them, failures first.

Images are not held by an evaluation. The few that are shown are read again, by position, once it is known which.
"""

import dataclasses

import numpy as np
from PIL import Image

from mmjax.data.record import Record, Source
from mmjax.evaluation.embedding.features import Examples, Features
from mmjax.metrics import exact_dot

_SHOWN = 12  # images, and captions, in a report
_FAILURES = 8  # of them, where there are so many
_CANDIDATES = 2000  # queries whose best match is looked up to find failures
_NEAREST = 5  # matches shown for each of them
_THUMBNAIL = 160  # longest side, pixels


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
class Look:
    """A picture, uint8 [h, w, 3], what it is of, and numbers or text that belong to it."""

    picture: np.ndarray
    title: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Inside:
    """What is shown of one image.

    Attributes:
      maps: the image itself, then maps over it.
      words: a map for each word.
      words_title: what the words are.
    """

    maps: list[Look]
    words: list[Look]
    words_title: str = ""


@dataclasses.dataclass(frozen=True)
class Artifacts:
    """What a report shows of one evaluation.

    Attributes:
      images, captions: examples.
      confusion: [C, C] counts, rows are true classes; for classification alone.
      class_names: of the C classes.
      average_precisions, class_counts: [C], where images show several classes: NaN for one that no image shows.
      what: which of several predictions these are of, such as "k = 10"; "" where there is one.
      inside: images with where the model's attention went.
    """

    images: list[ImageMatches]
    captions: list[CaptionMatches]
    confusion: np.ndarray | None = None
    class_names: list[str] | None = None
    average_precisions: np.ndarray | None = None
    class_counts: np.ndarray | None = None
    what: str = ""
    inside: list[Inside] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Matching:
    """Which texts are right for which images.

    A text is right for an image whose group (its class, or its id) is among the text's groups.

    Attributes:
      texts: captions or class names.
      embeddings: [M, E] theirs.
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

    def right(self, image: int, text: int) -> bool:
        return self.image_groups[image] in self.text_groups[text]


def collect(features: Features, matching: Matching, examples: Examples, *, seed: int = 0) -> Artifacts:
    """Chooses what to show, matches it both ways, and reads the images.

    Args:
      features: the images.
      matching: the texts.
      examples: decodes a source (or a view of one).
      seed: decides which failures and which others are shown.
    """
    own, texts = features.embeddings, matching.embeddings
    captions = matching.captions or features.captions
    images = _choose(own, texts, matching.right, seed)
    queries = _choose(texts, own, lambda text, image: matching.right(image, text), seed)
    text_at, text_scores = exact_dot.top_matches(own[images], texts, _NEAREST)
    image_at, image_scores = exact_dot.top_matches(texts[queries], own, _NEAREST)
    thumbnails = _thumbnails(features.source, examples, {*images.tolist(), *image_at.ravel().tolist()})
    return Artifacts(
        images=[
            ImageMatches(
                thumbnails[image],
                captions[image],
                [Match(matching.texts[t], float(s), matching.right(image, t)) for t, s in zip(at, scores, strict=True)],
            )
            for image, at, scores in zip(images.tolist(), text_at.tolist(), text_scores, strict=True)
        ],
        captions=[
            CaptionMatches(
                matching.texts[text],
                [Match(thumbnails[i], float(s), matching.right(i, text)) for i, s in zip(at, scores, strict=True)],
            )
            for text, at, scores in zip(queries.tolist(), image_at.tolist(), image_scores, strict=True)
        ],
        confusion=matching.confusion,
        class_names=matching.class_names,
        average_precisions=matching.average_precisions,
        class_counts=matching.class_counts,
    )


def _choose(queries: np.ndarray, gallery: np.ndarray, right, seed: int) -> np.ndarray:
    """Positions of queries to show: failures from all over the set, then others."""
    candidates = spread(len(queries), _CANDIDATES, seed)
    best = exact_dot.top_matches(queries[candidates], gallery, 1)[0][:, 0]
    good = np.array([right(query, item) for query, item in zip(candidates.tolist(), best.tolist(), strict=True)])
    failures, others = candidates[~good], candidates[good]
    count = min(len(failures), max(_FAILURES, _SHOWN - len(others)))
    failures = failures[spread(len(failures), count, seed)]
    return np.concatenate([failures, others[spread(len(others), _SHOWN - count, seed)]])


def spread(count: int, wanted: int, seed: int) -> np.ndarray:
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
