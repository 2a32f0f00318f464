"""One pass of the image tower over a source: embeddings with the captions, labels and ids that every task shares."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

from mmjax.data.record import Source
from mmjax.errors import UserError


@runtime_checkable
class Embedder(Protocol):
    """What an evaluation needs of a model."""

    def images(self, images: Iterable[np.ndarray], /) -> np.ndarray:
        """Embeds a stream of N uint8 [H, W, 3] images: float32 [N, E] or [N, V, E], L2-normalised, in order."""
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
    """A decoded evaluation example: image uint8 [H, W, 3], all its captions, its label or None, its 64-bit id.

    `labels` are all of its classes where there may be several; None elsewhere.
    """

    image: np.ndarray
    captions: list[str]
    label: int | None
    id: int
    labels: list[int] | None


Examples = Callable[[Source], Iterable[Example]]


@dataclasses.dataclass(frozen=True)
class Features:
    """A source's images as embeddings, and what is known of them.

    Attributes:
      source: whose they are.
      embeddings: [N, E] float32, L2-normalised, in the source's order; [N, V, E] where an image has several.
      captions: of every image.
      labels: [N] of every image, or None where the source has no classes or images show several.
      ids: [N] of every image.
      targets: [N, C] whether each image shows each class, where images may show several; else None.
    """

    source: Source
    embeddings: Float32[np.ndarray, "N *V E"]
    captions: list[list[str]]
    labels: Int64[np.ndarray, " N"] | None
    ids: UInt64[np.ndarray, " N"]
    targets: Bool[np.ndarray, "N C"] | None = None

    def __len__(self) -> int:
        return len(self.ids)


def embed_source(source: Source, embedder: Embedder, examples: Examples) -> Features:
    """Embeds all images of a source, once; none is left out and none is held.

    Args:
      source: what to embed.
      embedder: the model.
      examples: decodes a source into its examples, each once, in order of index.

    Raises:
      UserError: for a source without examples.
      ValueError: for another number of examples or embeddings, or classes without labels.
    """
    captions: list[list[str]] = []
    labels: list[int | None] = []
    several: list[list[int] | None] = []
    ids: list[int] = []

    def stream() -> Iterator[np.ndarray]:
        for example in examples(source):
            captions.append(list(example.captions))
            labels.append(example.label)
            several.append(example.labels)
            ids.append(int(example.id))
            yield example.image

    if not len(source):
        raise UserError(f"data.eval: {source.name!r} has no examples; name a source or split that has some")
    embeddings = embedder.images(stream())
    count = len(ids)
    if count != len(source):
        # What a report shows is read again by position, and a benchmark's number is for all of it.
        raise ValueError(f"{source.name}: {len(source)} records gave {count} examples; evaluation leaves none out")
    if embeddings.shape[:1] != (count,):
        raise ValueError(f"{source.name}: {count} images gave embeddings of shape {embeddings.shape}")
    found = targets = None
    if source.class_names and any(own is not None for own in several):
        targets = np.zeros((count, len(source.class_names)), bool)
        for row, own in zip(targets, several, strict=True):
            row[own or []] = True
    elif source.class_names:
        missing = sum(label is None for label in labels)
        if missing:
            raise ValueError(
                f"{source.name}: {missing} of {count} examples have no label, though the source has classes"
            )
        found = np.array(labels, np.int64)
    return Features(source, embeddings, captions, found, np.array(ids, np.uint64), targets)
