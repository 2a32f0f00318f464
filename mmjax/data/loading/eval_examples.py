"""Evaluation examples: each example of a source once, in order of index."""

import collections
import concurrent.futures
import copy
import functools
import itertools
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from mmjax.data.bad_example import BadExample, UnforeseenError, one_example
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.bad_example_log import write_traceback
from mmjax.data.loading.batches import available_cores
from mmjax.data.loading.example_transforms import add_path_to_errors
from mmjax.data.loading.inputs import InputSpecs
from mmjax.data.record import check_index
from mmjax.data.source_protocols import Source
from mmjax.errors import UserError

# What an evaluation example holds by name; the rest of its record are its extras.
_NAMED = ("image", "captions", "label", "id", "labels", "path", "caption_weights")


class EvalExample(NamedTuple):
    """One evaluation example.

    Attributes:
      inputs: what the model is given beside text, by modality, of those that the record has and the model wants:
        `image` uint8 [H,W,3], and others.
      captions: all of them; none where the record has none.
      label: None without one.
      id: 64-bit unsigned.
      labels: all classes that the image shows, where it may show several; None elsewhere.
      extras: what else the record holds (`question`, `answers`, `modalities`, `annotation`, ...), as it is there.
    """

    inputs: Mapping[str, np.ndarray]
    captions: list[str]
    label: int | None
    id: int
    labels: list[int] | None = None
    extras: Mapping[str, Any] = types.MappingProxyType({})

    @property
    def image(self) -> np.ndarray | None:
        """The image; None where the record has none, or none is wanted."""
        return self.inputs.get("image")

    @property
    def seen(self) -> np.ndarray | None:
        """What a model of texts sees: the image, or the other modality that is wanted; None where there is none."""
        return next(iter(self.inputs.values()), None)


def unreadable(source: Source, index: int, error: BadExample) -> UserError:
    """The error of an evaluation that cannot read an example: leaving it out would give another result."""
    cause = error.__cause__
    where = ""
    if isinstance(error, UnforeseenError) and cause is not None:
        where = f"; the traceback is in {write_traceback(cause)}"
    return UserError(
        f"data.eval: example {index} of {source.name!r} cannot be read ({error}); repair or remove it{where}"
    )


class EvalExamples:
    """A source's examples in order, each once, as evaluation wants them: nothing random, nothing left out."""

    def __init__(self, source: Source, specs: InputSpecs | ImageSpec | None, *, threads: int | None = None):
        """Wraps a source.

        Args:
          source: what to evaluate on.
          specs: how images and other modalities are prepared; None where none are wanted.
          threads: that decode ahead when the examples are iterated over; by default one per core.
        """
        self.source = source
        self.specs = InputSpecs.of(specs)
        self.threads = available_cores() if threads is None else threads

    def with_specs(self, specs: InputSpecs) -> "EvalExamples":
        """The same examples, prepared in another way."""
        examples = copy.copy(self)
        examples.specs = specs
        return examples

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> EvalExample:
        """Returns example `index`.

        Raises:
          UserError: its image cannot be read, naming it. An evaluation that skips images has another result.
          IndexError: out of range.
        """
        try:
            return self.read_example(index)
        except BadExample as error:
            raise unreadable(self.source, index, error) from error.__cause__ or error

    def read_example(self, index: int) -> EvalExample:
        """Returns example `index`.

        Raises:
          BadExample: it cannot be read.
          IndexError: out of range.
        """
        index = check_index(index, len(self))
        with one_example():
            record = self.source[index]
            with add_path_to_errors(record):
                inputs = self.specs.evaluate(record, index)
            return EvalExample(
                inputs,
                list(record.get("captions", ())),
                record.get("label"),
                record["id"],
                record.get("labels"),
                {name: value for name, value in record.items() if name not in _NAMED},
            )

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
