"""Examples of which every process decodes the part that its devices embed."""

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

# Fields of a record besides captions, label and id that processes exchange.
_EXCHANGED_FIELDS = ("question", "answers", "answer_type", "references")


class ShardedExamples(eval_examples.EvalExamples):
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
            images, annotations, error = {}, [], None
            try:
                for index in (start + row for row in self.rows if start + row < stop):
                    example = next(ahead)
                    images[index] = example.image
                    label = None if example.label is None else int(example.label)
                    extras = {name: example.extras[name] for name in _EXCHANGED_FIELDS if name in example.extras}
                    annotations.append([index, example.captions, label, int(example.id), example.labels, extras])
            except Exception as caught:
                error = caught
            process_agreement.raise_error_on_all(error)
            gathered = process_agreement.all_gather_objects(annotations)
            everyone = {index: rest for part in gathered for index, *rest in part}
            for index in range(start, stop):
                yield eval_examples.EvalExample(images.get(index, blank), *everyone[index])


class _ImagelessSource:
    """A source without its images."""

    def __init__(self, source: Any):
        self.source, self.name = source, source.name

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return {**self.source[index], "image": None}


def without_images(examples: eval_examples.EvalExamples) -> eval_examples.EvalExamples:
    """The same examples, shared among processes in the same way, whose images nobody decodes."""
    imageless = copy.copy(examples)
    imageless.source = _ImagelessSource(examples.source)
    return imageless


def sharded_images(
    examples: eval_examples.EvalExamples, indices: Sequence[int], runner: batched_apply.BatchRunner
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Images of examples by index, in the order in which a runner takes them.

    Each process reads and decodes only the rows of its own devices; those of others are blank. All processes take part.

    Args:
      examples: a source's.
      indices: of any of them, also several times.
      runner: takes the images as rows.

    Raises:
      UserError: in every process, when one of them cannot read an image.
    """
    blank = np.zeros((examples.image_spec.size, examples.image_spec.size, 3), np.uint8)
    rows = runner.rows.tolist()
    local = set(rows)
    ahead = examples.read([index for i, index in enumerate(indices) if i % runner.batch_size in local])
    for start in range(0, len(indices), runner.batch_size):
        count = min(runner.batch_size, len(indices) - start)
        images, error = {}, None
        try:
            images = {row: next(ahead).image for row in rows if row < count}
        except Exception as caught:
            error = caught
        process_agreement.raise_error_on_all(error)
        yield from (images.get(row, blank) for row in range(count))


def make_examples(
    sources: Sequence[Any], image_spec: transforms.ImageSpec | None, runner: batched_apply.BatchRunner
) -> Callable[[Any], eval_examples.EvalExamples]:
    """The function that decodes a source: `sources` by all processes together, any other by the process that calls it.

    Without an `image_spec` there is nothing to decode, and every process reads all.
    """

    def decode(source: Any) -> eval_examples.EvalExamples:
        if jax.process_count() == 1 or image_spec is None or not any(source is shared for shared in sources):
            return eval_examples.EvalExamples(source, image_spec)
        return ShardedExamples(source, image_spec, runner.batch_size, runner.rows)

    return decode
