"""Examples read by several processes, each its own part."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from mmjax.data.image import transforms
from mmjax.data.loading import eval_examples
from mmjax.evaluation.embedding import batched_apply
from mmjax.parallel import process_agreement

# What a record may hold besides, and the other processes are told.
_TOLD = ("question", "answers", "answer_type", "references")


class SharedExamples(eval_examples.EvalExamples):
    """A source's examples where several processes evaluate: each reads and decodes the rows that its devices embed.

    All else (captions, labels, ids) is exchanged batch by batch; the images of others are blank.

    Args:
      source, image_spec: see `EvalExamples`.
      batch_size: examples embedded at a time over all processes.
      rows: those of a batch that this process embeds, ascending.
    """

    def __init__(self, source: Any, image_spec: transforms.ImageSpec, batch_size: int, rows: np.ndarray):
        super().__init__(source, image_spec)
        self.batch_size, self.rows = batch_size, rows.tolist()

    def __iter__(self) -> Iterator[eval_examples.EvalExample]:
        blank = np.zeros((self.image_spec.size, self.image_spec.size, 3), np.uint8)
        starts = range(0, len(self), self.batch_size)
        mine = [start + row for start in starts for row in self.rows if start + row < len(self)]
        ahead = self.read(mine)  # by threads, over the ends of batches
        for start in range(0, len(self), self.batch_size):
            stop = min(start + self.batch_size, len(self))
            own, told, error = {}, [], None
            try:
                for index in (start + row for row in self.rows if start + row < stop):
                    example = next(ahead)
                    own[index] = example.image
                    label = None if example.label is None else int(example.label)
                    extras = {name: example.extras[name] for name in _TOLD if name in example.extras}
                    told.append([index, example.captions, label, int(example.id), example.labels, extras])
            except Exception as caught:
                error = caught
            process_agreement.raise_error_on_all(error)
            everyone = {index: rest for part in process_agreement.all_gather_objects(told) for index, *rest in part}
            for index in range(start, stop):
                yield eval_examples.EvalExample(own.get(index, blank), *everyone[index])


class _Undecoded:
    """A source whose records have no images."""

    def __init__(self, source: Any):
        self.source, self.name = source, source.name

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return {**self.source[index], "image": None}


def without_images(found: eval_examples.EvalExamples) -> eval_examples.EvalExamples:
    """The same examples, shared among processes in the same way, whose images nobody decodes."""
    other = copy.copy(found)
    other.source = _Undecoded(found.source)
    return other


def fed_images(
    found: eval_examples.EvalExamples, places: Sequence[int], feeder: batched_apply.Feeder
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Images of the examples at these places, in the order in which a feeder takes them.

    Each process reads and decodes only the rows that it feeds; those of others are blank. All processes ask together.

    Args:
      found: the examples.
      places: any of them, also several times.
      feeder: what the images go to as rows.

    Raises:
      UserError: in every process, when one of them cannot read an image.
    """
    blank = np.zeros((found.image_spec.size, found.image_spec.size, 3), np.uint8)
    rows = feeder.rows.tolist()
    own = set(rows)
    ahead = found.read([place for at, place in enumerate(places) if at % feeder.batch_size in own])
    for start in range(0, len(places), feeder.batch_size):
        count = min(feeder.batch_size, len(places) - start)
        images, error = {}, None
        try:
            images = {row: next(ahead).image for row in rows if row < count}
        except Exception as caught:
            error = caught
        process_agreement.raise_error_on_all(error)
        yield from (images.get(row, blank) for row in range(count))


def make_examples(
    sources: Sequence[Any], image_spec: transforms.ImageSpec | None, feeder: batched_apply.Feeder
) -> Callable[[Any], eval_examples.EvalExamples]:
    """How sources are decoded: `sources` by all processes together, and a view of one by whichever process asks.

    Without an `image_spec` there is nothing to decode, and every process reads all.
    """

    def decoded(source: Any) -> eval_examples.EvalExamples:
        if jax.process_count() == 1 or image_spec is None or not any(source is each for each in sources):
            return eval_examples.EvalExamples(source, image_spec)
        return SharedExamples(source, image_spec, feeder.batch_size, feeder.rows)

    return decoded
