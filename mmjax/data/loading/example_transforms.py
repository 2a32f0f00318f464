"""Transforms of training examples, from a record to arrays of fixed shapes; here that of an image with a caption.

A transform is called with a record and a random generator that belongs to the example alone, and draws from it in a
fixed order; it is picklable, so that workers can have it. It raises `BadExample` for a record that it cannot use, which
is then replaced by another one.

An image is uint8 [H,W,3], or with `image_spec.frame` a frame of that size and `image_box` int32 [8], see `frames`.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from mmjax.data.bad_example import BadExample, one_example
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.inputs import Arrays, InputSpecs
from mmjax.data.record import Record
from mmjax.data.text.tokenizer import Tokenizer


@runtime_checkable
class ExampleTransform(Protocol):
    """Makes arrays of a record: the same keys, shapes and dtypes every time."""

    def __call__(self, record: Record, rng: np.random.Generator, /) -> Arrays: ...


@runtime_checkable
class MixingTransform(ExampleTransform, Protocol):
    """A transform that makes an example of several records of different ids; its arrays have their first one's `id`.

    Attributes:
      partners: how many others are drawn for an example, of its source.
    """

    @property
    def partners(self) -> int: ...

    def partner(self, record: Record, rng: np.random.Generator, /) -> Arrays:
        """What is taken of one of the others."""
        ...

    def mix(self, arrays: Arrays, partners: Sequence[Arrays], /) -> Arrays:
        """The arrays of the example."""
        ...


@dataclasses.dataclass(frozen=True)
class TextTransform:
    """An image, or what the model sees else, and a text; attributes as `PairTransform` has them."""

    inputs: InputSpecs | ImageSpec
    tokenizer: Tokenizer | None

    def __post_init__(self):
        object.__setattr__(self, "inputs", InputSpecs.of(self.inputs))

    def input_arrays(self, record: Record, rng: np.random.Generator) -> Arrays:
        """The arrays of what the model sees."""
        return InputSpecs.of(self.inputs).train(record, rng)

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
          ValueError: the transform only describes what a model reads.
        """
        if self.tokenizer is None:
            raise ValueError("a transform without a tokenizer makes no arrays; it only describes what a model reads")
        return self.tokenizer

    def tokenize(self, text: str) -> Arrays:
        """A text's ids and which of them are no padding."""
        ids, mask = self.require_tokenizer()([text])
        return {"text": ids[0], "text_mask": mask[0]}


@dataclasses.dataclass(frozen=True)
class PairTransform(TextTransform):
    """An image and one of its captions, for contrastive learning, captioning, matching and masked modelling.

    Gives `image` uint8 [H,W,3], `text` int32 [L], `text_mask` bool [L] and `id` uint32 [2]. Other modalities take the
    image's place, or come beside it, by their names.

    Attributes:
      inputs: size and crop of the images, and how other modalities are prepared.
      tokenizer: for the captions; None where the transform only describes what a model reads.
    """

    def __call__(self, record: Record, rng: np.random.Generator) -> Arrays:
        with add_path_to_errors(record):
            caption = draw_caption(record, rng.random())
            return {**self.input_arrays(record, rng), **self.tokenize(caption), "id": id_words(record["id"])}

    def text_arrays(self, record: Record, rng: np.random.Generator) -> Arrays:
        """The `text` and `text_mask` that a call gives, without its image; `rng` as the call is given it."""
        with add_path_to_errors(record):
            return self.tokenize(draw_caption(record, rng.random()))


@dataclasses.dataclass(frozen=True)
class InputTransform:
    """Several modalities of an example without text, for contrast between them.

    Gives an array of each and `id` uint32 [2].

    Attributes:
      inputs: how they are prepared.
    """

    inputs: InputSpecs

    def __call__(self, record: Record, rng: np.random.Generator) -> Arrays:
        with add_path_to_errors(record):
            return {**self.inputs.train(record, rng), "id": id_words(record["id"])}


def id_words(value: int) -> np.ndarray:
    """Splits a 64-bit id into uint32 [2]: low word, high word (JAX has no 64-bit integers by default)."""
    return np.array((value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF), dtype=np.uint32)


@contextlib.contextmanager
def add_path_to_errors(record: Record) -> Iterator[None]:
    """Adds the record's path to what is wrong with it; whatever is raised becomes a BadExample, see `one_example`."""
    try:
        with one_example():
            yield
    except BadExample as error:
        if "path" not in record:
            raise
        raise error.with_path(record["path"]) from error.__cause__


def draw_caption(record: Record, draw: float) -> str:
    """The caption that a draw from [0, 1) stands for, of those that are not blank."""
    captions = record.get("captions", [])
    if isinstance(captions, str):
        raise BadExample("other", f"captions={captions!r} is one text; a record has a list of them")
    weights = record.get("caption_weights") or [1.0] * len(captions)
    usable = [(caption, weight) for caption, weight in zip(captions, weights, strict=True) if caption.strip()]
    if not usable:
        raise BadExample("no_caption", "no caption that is not blank")
    ends = np.cumsum([weight for _, weight in usable])
    index = int(np.searchsorted(ends, draw * ends[-1], side="right"))
    return usable[min(index, len(usable) - 1)][0]
