"""Examples by position: source -> decoded, cropped and tokenised arrays.

Everything random about a training example is a pure function of (seed, position), so neither hosts, workers, threads
nor a restart can change it.
"""

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from mmjax.data.faults import BadExample, reason_code
from mmjax.data.images import ImageSpec, decode, eval_transform, train_image
from mmjax.data.order import (
    GlobalOrder,
    SourceOrder,
    WindowedOrder,
    example_rng,
    hash64,
    integer_weights,
    mixture_position,
)
from mmjax.data.reading import ReadError
from mmjax.data.source import Record, Sharded, Source
from mmjax.data.tokenizers import Tokenizer
from mmjax.errors import UserError

# Examples of one position that the storage may fail to give, each after its own trying again.
_STORAGE_TRIES = 2


class TrainExamples:
    """Training examples by global position (step * global batch + row), for any number of epochs.

    A position belongs to one component of the mixture and is the k-th of that component; k // len(source) is its epoch
    and k % len(source) its place in the epoch's order. Each component thus gives each example once an epoch.

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
        order: str = "global",
        window: int = 8,
        max_tries: int = 32,
    ):
        """Makes the examples.

        Args:
          mixture: (source, weight) pairs; the weights are proportions and need not sum to 1.
          seed: the run's seed.
          image_spec: size and crop of the images.
          tokenizer: for the captions.
          shuffle: permute every epoch; otherwise each source is read in its own order.
          order: `global` permutes all examples of a source; `windowed` permutes its shards and then the examples
            within `window` of them at a time. Sources without shards are permuted whole.
          window: shards.
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
        self.orders = [_order(source, shuffle, order, window) for source in self.sources]
        self._prepared: dict[int, tuple[int, int]] = {}  # component: the window that its source was told of
        self.seed = seed
        self.image_spec = image_spec
        self.tokenizer = tokenizer
        self.max_tries = max_tries

    def describe(self) -> list[dict[str, Any]]:
        """What the order of the examples follows from, by component, for JSON: two runs of equal ones see the same."""
        return [
            {
                "source": source.name,
                "weight": weight,
                "examples": length,
                "order": type(order).__name__,
                "shards": order.digest() if isinstance(order, WindowedOrder) else "",
            }
            for source, weight, length, order in zip(self.sources, self.weights, self.lengths, self.orders, strict=True)
        ]

    def locate(self, position: int) -> tuple[int, int, int]:
        """Returns (component, epoch, index into its source) of the example that belongs at `position`."""
        component, count = mixture_position(position, self.weights)
        epoch, place = divmod(count, self.lengths[component])
        return component, epoch, self.orders[component].index(place, _epoch_key(self.seed, component, epoch))

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
        component, count = mixture_position(position, self.weights)
        source, order = self.sources[component], self.orders[component]
        epoch, place = divmod(count, self.lengths[component])
        key = _epoch_key(self.seed, component, epoch)
        if isinstance(order, WindowedOrder):
            self._prepare(component, order, place, key)
        index = order.index(place, key)
        replaced = storage_failures = 0
        for attempt in range(self.max_tries):
            rng = example_rng(self.seed, position, attempt)
            if attempt > 0:
                draw = rng.random()
                # A window without a good example is left, in the end.
                near = attempt <= self.max_tries // 2
                index = order.another(place, key, draw) if near else int(draw * len(source))
            try:
                return {**self._load(source[index], rng), "replaced": np.int8(replaced)}
            except (BadExample, OSError) as error:
                last = error
                replaced = replaced or reason_code(error)
                storage_failures += isinstance(error, ReadError)
                if storage_failures == _STORAGE_TRIES:
                    raise UserError(
                        f"data.train: the storage of {source.name!r} fails ({error}); start again once it answers"
                    ) from error
        raise UserError(
            f"data.train: {self.max_tries} examples of {source.name!r} in a row could not be used; the last one was "
            f"number {index} ({last}); check that the files are there and are images with captions"
        ) from last

    def _prepare(self, component: int, order: WindowedOrder, place: int, key: int) -> None:
        """Tells the source which shards are needed now and next, once a window."""
        window = order.window(place, key)
        if self._prepared.get(component) != (key, window):
            self._prepared[component] = (key, window)
            self.sources[component].prepare(order.shards(window, key) + order.shards(window + 1, key))

    def _load(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        with _told_where(record):
            caption = _draw_caption(record, rng.random())
            image = train_image(record["image"], self.image_spec, rng)
        ids, mask = self.tokenizer([caption])
        return {"image": image, "text": ids[0], "text_mask": mask[0], "id": id_words(record["id"])}


def _order(source: Source, shuffle: bool, order: str, window: int) -> GlobalOrder | WindowedOrder:
    if not shuffle:
        return SourceOrder(len(source))
    if order == "windowed" and isinstance(source, Sharded):
        return WindowedOrder(source.shard_lengths, window)
    return GlobalOrder(len(source))


@contextlib.contextmanager
def _told_where(record: Record) -> Iterator[None]:
    """Adds the record's path to what is wrong with it."""
    try:
        yield
    except BadExample as error:
        if "path" not in record:
            raise
        raise BadExample(error.reason, f"{record['path']}: {error.detail}") from error


def _draw_caption(record: Record, draw: float) -> str:
    """The caption that a draw from [0, 1) stands for, of those that are not blank."""
    captions = record["captions"]
    weights = record.get("caption_weights") or [1.0] * len(captions)
    usable = [(caption, weight) for caption, weight in zip(captions, weights, strict=True) if caption.strip()]
    if not usable:
        raise BadExample("no_caption", "no caption that is not blank")
    ends = np.cumsum([weight for _, weight in usable])
    at = int(np.searchsorted(ends, draw * ends[-1], side="right"))
    return usable[min(at, len(usable) - 1)][0]


class EvalExample(NamedTuple):
    """One evaluation example: image uint8 [H,W,3], all captions, label (None without one), id (64-bit unsigned).

    `labels` are all classes that the image shows, where it may show several; None elsewhere.
    """

    image: np.ndarray
    captions: list[str]
    label: int | None
    id: int
    labels: list[int] | None = None


class EvalExamples:
    """A source's examples in order, each once, as evaluation wants them: nothing random, nothing left out."""

    def __init__(self, source: Source, image_spec: ImageSpec, *, threads: int | None = None):
        """Wraps a source.

        Args:
          source: what to evaluate on.
          image_spec: images are resized with `eval_transform`.
          threads: that decode ahead when the examples are iterated over; by default one per core.
        """
        self.source = source
        self.image_spec = image_spec
        self.threads = available_cores() if threads is None else threads

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
            with _told_where(record):
                image = eval_transform(decode(record["image"]), self.image_spec)
        except (BadExample, OSError) as error:
            raise UserError(
                f"data.eval: example {index} of {self.source.name!r} cannot be read ({error}); repair or remove it"
            ) from error
        return EvalExample(image, list(record["captions"]), record.get("label"), record["id"], record.get("labels"))

    def __iter__(self) -> Iterator[EvalExample]:
        return self.read(range(len(self)))

    def read(self, indices: Iterable[int]) -> Iterator[EvalExample]:
        """Yields the examples of these indices in their order, decoded ahead by threads."""
        indices = iter(indices)
        with concurrent.futures.ThreadPoolExecutor(self.threads) as pool:
            submit = functools.partial(pool.submit, self.__getitem__)
            ahead = collections.deque(map(submit, itertools.islice(indices, 4 * self.threads)))
            try:
                while ahead:
                    example = ahead.popleft().result()
                    ahead.extend(map(submit, itertools.islice(indices, 1)))
                    yield example
            finally:  # an error, or a reader who has seen enough
                for future in ahead:
                    future.cancel()


def id_words(value: int) -> np.ndarray:
    """Splits a 64-bit id into uint32 [2]: low word, high word (JAX has no 64-bit integers by default)."""
    return np.array((value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF), dtype=np.uint32)


@functools.lru_cache(maxsize=1024)
def _epoch_key(seed: int, component: int, epoch: int) -> int:
    return hash64(seed, component, epoch)


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
