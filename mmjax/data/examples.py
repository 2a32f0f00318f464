"""Examples by position: source -> decoded, cropped and tokenised arrays.

Everything random about a training example is a pure function of (seed, position), so neither hosts, workers, threads
nor a restart can change it.
"""

import functools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from mmjax.data.images import BadExample, ImageSpec, decode, eval_transform, train_transform
from mmjax.data.order import example_rng, hash64, integer_weights, mixture_position, permute
from mmjax.data.source import Record, Source
from mmjax.data.tokenizers import Tokenizer
from mmjax.errors import UserError

# `replaced` in a training example is an index into this: why the example that belongs there could not be used.
REASONS = ("ok", "decode", "too_large", "missing", "read", "caption", "other")


class TrainExamples:
    """Training examples by global position (step * global batch + row), for any number of epochs.

    A position belongs to one component of the mixture and is the k-th of that component; k // len(source) is its epoch
    and k % len(source) its place in the epoch's permutation. Each component thus gives each example once an epoch.

    An example that cannot be used is replaced by another one of its component, drawn from (seed, position, attempt).
    The positions after it stay what they are, and the reason is reported in `replaced`.
    """

    def __init__(
        self,
        mixture: Sequence[tuple[Source, int | float | Fraction]],
        *,
        seed: int,
        image_spec: ImageSpec,
        tokenizer: Tokenizer,
        shuffle: bool = True,
        max_tries: int = 32,
    ):
        """Makes the examples.

        Args:
          mixture: (source, weight) pairs; the weights are proportions and need not sum to 1.
          seed: the run's seed.
          image_spec: size and crop of the images.
          tokenizer: for the captions.
          shuffle: permute every epoch; otherwise each source is read in its own order.
          max_tries: examples tried for one position before giving up.

        Raises:
          UserError: no sources, an empty source, or a weight that is not positive.
        """
        self.sources = [source for source, _ in mixture]
        for source in self.sources:
            if len(source) == 0:
                raise UserError(f"data.train: {source.name!r} has no examples; check its path and format")
        try:
            self.weights = integer_weights([weight for _, weight in mixture])
        except ValueError as error:
            raise UserError(f"data.train: {error}") from error
        self.lengths = [len(source) for source in self.sources]
        self.seed = seed
        self.image_spec = image_spec
        self.tokenizer = tokenizer
        self.shuffle = shuffle
        self.max_tries = max_tries

    def locate(self, position: int) -> tuple[int, int, int]:
        """Returns (component, epoch, index into its source) of the example that belongs at `position`."""
        component, count = mixture_position(position, self.weights)
        length = self.lengths[component]
        epoch, place = divmod(count, length)
        index = permute(place, length, _epoch_key(self.seed, component, epoch)) if self.shuffle else place
        return component, epoch, index

    def __getitem__(self, position: int | np.integer) -> dict[str, np.ndarray]:
        """Returns the example at a global position.

        Returns:
          image: uint8 [H,W,3].
          text: int32 [L].
          text_mask: bool [L].
          id: uint32 [2], the low and the high word of the source's 64-bit id.
          replaced: int8 [], 0 or the reason (an index into REASONS) why this stands in for another example.

        Raises:
          UserError: after `max_tries` bad examples, naming the source and the last error.
        """
        position = int(position)
        component, _, index = self.locate(position)
        source = self.sources[component]
        replaced = 0
        for attempt in range(self.max_tries):
            rng = example_rng(self.seed, position, attempt)
            if attempt > 0:
                index = int(rng.random() * len(source))
            try:
                return {**self._load(source[index], rng), "replaced": np.int8(replaced)}
            except (BadExample, OSError) as error:
                last = error
                replaced = replaced or reason_code(error)
        raise UserError(
            f"data.train: {self.max_tries} examples of {source.name!r} in a row could not be used; the last one was "
            f"number {index} ({last}); check that the files are there and are images with captions"
        ) from last

    def _load(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        captions = [caption for caption in record["captions"] if caption.strip()]
        if not captions:
            raise BadExample("caption", "no caption that is not blank")
        caption = captions[int(rng.random() * len(captions))]
        image = train_transform(decode(record["image"]), self.image_spec, rng)
        ids, mask = self.tokenizer([caption])
        return {"image": image, "text": ids[0], "text_mask": mask[0], "id": id_words(record["id"])}


class EvalExample(NamedTuple):
    """One evaluation example: image uint8 [H,W,3], all captions, label (None without classes), id (64-bit unsigned)."""

    image: np.ndarray
    captions: list[str]
    label: int | None
    id: int


class EvalExamples:
    """A source's examples in order, each once, as evaluation wants them: nothing random, nothing left out."""

    def __init__(self, source: Source, image_spec: ImageSpec):
        """Wraps a source; images are resized with `eval_transform`."""
        self.source = source
        self.image_spec = image_spec

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> EvalExample:
        """Returns example `index`.

        Raises:
          UserError: its image cannot be read, naming it. An evaluation that skips images has another result.
          IndexError: out of range.
        """
        try:
            record = self.source[index]
            image = eval_transform(decode(record["image"]), self.image_spec)
        except (BadExample, OSError) as error:
            raise UserError(
                f"data.eval: example {index} of {self.source.name!r} cannot be read ({error}); repair or remove it"
            ) from error
        return EvalExample(image, list(record["captions"]), record.get("label"), record["id"])

    def __iter__(self) -> Iterator[EvalExample]:
        for index in range(len(self)):
            yield self[index]


def reason_code(error: BadExample | OSError) -> int:
    """Index into REASONS of why an example could not be used."""
    if isinstance(error, BadExample):
        return REASONS.index(error.reason if error.reason in REASONS else "other")
    return REASONS.index("missing" if isinstance(error, FileNotFoundError) else "read")


def id_words(value: int) -> np.ndarray:
    """Splits a 64-bit id into uint32 [2]: low word, high word (JAX has no 64-bit integers by default)."""
    return np.array((value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF), dtype=np.uint32)


@functools.lru_cache(maxsize=1024)
def _epoch_key(seed: int, component: int, epoch: int) -> int:
    return hash64(seed, component, epoch)
