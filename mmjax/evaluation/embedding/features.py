"""Embeddings of a source's images with its captions, labels and ids, from one pass of the image tower."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

from mmjax.data.source_protocols import Source
from mmjax.errors import UserError


@runtime_checkable
class Embedder(Protocol):
    """The interface of a model to evaluations of embeddings."""

    def images(self, images: Iterable[np.ndarray], /) -> np.ndarray:
        """Embeds a stream of N uint8 [H, W, 3] images: float32 [N, E] or [N, V, E], L2-normalised, in order."""
        ...

    def texts(self, texts: list[str], /) -> np.ndarray:
        """Embeds M texts: float32 [M, E], L2-normalised, in order."""
        ...

    def loss(self, image_embeddings: np.ndarray, text_embeddings: np.ndarray, ids: np.ndarray, /) -> float | None:
        """The training loss of N pairs, [N, E] each with ids uint64 [N], averaged over consecutive full batches.

        Where `pair_ids` of `SharesIds` gives several ids of a pair, they are [N, K]. None where it has no value (fewer
        pairs than a batch, say); the metric is then left out.
        """
        ...


@runtime_checkable
class SharesIds(Embedder, Protocol):
    """An embedder whose training loss has more positives than pairs of equal ids."""

    def pair_ids(self, ids: np.ndarray, texts: list[str], /) -> np.ndarray:
        """What positives share, for `loss`: uint64 [N], or [N, K] of which any may be equal to another pair's."""
        ...


@runtime_checkable
class ReadsExamples(Embedder, Protocol):
    """An embedder of examples by whatever it reads of them: images, other modalities, several."""

    def examples(self, examples: Iterable[Any], source: Source, /) -> np.ndarray:
        """Embeds examples of a source: float32 [N, E] or [N, V, E], L2-normalised, in order."""
        ...


@runtime_checkable
class Example(Protocol):
    """A decoded evaluation example.

    Attributes:
      inputs: what a model is given of it beside text, by modality: an image, uint8 [H, W, 3], or other arrays.
      seen: what a model of texts sees, the first of them; None without one.
      captions: all of them.
      label: None without one.
      id: 64-bit unsigned.
      labels: all of its classes where there may be several; None elsewhere.
    """

    @property
    def inputs(self) -> Mapping[str, np.ndarray]: ...
    @property
    def seen(self) -> np.ndarray | None: ...
    @property
    def captions(self) -> list[str]: ...
    @property
    def label(self) -> int | None: ...
    @property
    def id(self) -> int: ...
    @property
    def labels(self) -> list[int] | None: ...


Examples = Callable[[Source], Iterable[Example]]
T = TypeVar("T")


class ExamplePass(Generic[T]):
    """Examples in one pass, with what is needed of them afterwards set aside as they go by.

    Images are read once and not held; captions, labels and ids are.

    Args:
      examples: a stream of examples.
      keep: what to set aside of an example.

    Attributes:
      kept: what was set aside so far, in order.
    """

    def __init__(self, examples: Iterable[Any], keep: Callable[[Any], T]):
        self.examples, self.keep = examples, keep
        self.kept: list[T] = []

    def __iter__(self) -> Iterator[Any]:
        for example in self.examples:
            self.kept.append(self.keep(example))
            yield example


@dataclasses.dataclass(frozen=True)
class Features:
    """The embeddings of a source's images, with captions, labels and ids.

    Attributes:
      source: of the images.
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

    @property
    def class_names(self) -> list[str]:
        """Names of the classes.

        Raises:
          ValueError: the source has none.
        """
        if not self.source.class_names:
            raise ValueError(f"{self.source.name} has no classes")
        return list(self.source.class_names)

    @property
    def single_labels(self) -> Int64[np.ndarray, " N"]:
        """The class of every image.

        Raises:
          ValueError: images have none, or may show several.
        """
        if self.labels is None:
            raise ValueError(f"{self.source.name} does not have one class an image")
        return self.labels


def embed_source(source: Source, embedder: Embedder, examples: Examples) -> Features:
    """Embeds all images of a source, once; none is left out and none is held.

    Args:
      source: what to embed.
      embedder: the model.
      examples: decodes a source into its examples, each once, in order of index.

    Raises:
      UserError: for a source without examples, or an example without an image.
      ValueError: for another number of examples or embeddings, or classes without labels.
    """
    if not len(source):
        raise UserError(f"data.eval: {source.name!r} has no examples; name a source or split that has some")
    stream = ExamplePass(examples(source), keep=lambda e: (list(e.captions), e.label, e.labels, int(e.id)))
    if isinstance(embedder, ReadsExamples):
        embeddings = embedder.examples(stream, source)
    else:
        embeddings = embedder.images(decoded_input(example, source.name) for example in stream)
    count = len(stream.kept)
    if count != len(source):
        # What a report shows is read again by position, and a benchmark's number is for all of it.
        raise ValueError(f"{source.name}: {len(source)} records gave {count} examples; evaluation leaves none out")
    if embeddings.shape[:1] != (count,):
        raise ValueError(f"{source.name}: {count} images gave embeddings of shape {embeddings.shape}")
    captions, labels, label_lists, ids = map(list, zip(*stream.kept, strict=True))
    label_array = targets = None
    if source.class_names and any(label_list is not None for label_list in label_lists):
        targets = _multi_hot(label_lists, len(source.class_names))
    elif source.class_names:
        missing = sum(label is None for label in labels)
        if missing:
            raise ValueError(
                f"{source.name}: {missing} of {count} examples have no label, though the source has classes"
            )
        label_array = np.array(labels, np.int64)
    return Features(source, embeddings, captions, label_array, np.array(ids, np.uint64), targets)


def decoded_input(example: Example, name: str) -> np.ndarray:
    """What a model of texts sees of an example of the source `name`: its image, or the array of another modality.

    Raises:
      UserError: it has none.
    """
    if example.seen is None:
        raise UserError(
            f"data.eval: the example of id {example.id} of {name!r} has no image (or what the model sees else); leave"
            " it out"
        )
    return example.seen


def _multi_hot(label_lists: Sequence[Sequence[int] | None], classes: int) -> Bool[np.ndarray, "N C"]:
    targets = np.zeros((len(label_lists), classes), bool)
    for row, labels in zip(targets, label_lists, strict=True):
        row[labels or []] = True
    return targets
