"""Examples of which every process decodes the part that its devices embed."""

import copy
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from mmjax.data.image import transforms
from mmjax.data.loading import eval_examples
from mmjax.data.loading.inputs import InputSpecs
from mmjax.data.record import Record
from mmjax.data.source_protocols import Source
from mmjax.evaluation.embedding import batched_apply
from mmjax.evaluation.embedding.features import decoded_input
from mmjax.parallel import process_agreement

# Fields of a record besides captions, label and id that processes exchange.
_EXCHANGED_FIELDS = ("question", "answers", "answer_type", "references", "task", "language")


class ShardedExamples(eval_examples.EvalExamples):
    """A source's examples where several processes evaluate: each reads and decodes the rows that its devices embed.

    All else (captions, labels, ids) is exchanged batch by batch; the images of others, and what else is decoded, are
    blank.

    Args:
      source, specs: see `EvalExamples`.
      batch_size: examples embedded at a time over all processes.
      rows: those of a batch that this process embeds, ascending.
    """

    def __init__(self, source: Source, specs: InputSpecs | transforms.ImageSpec, batch_size: int, rows: np.ndarray):
        super().__init__(source, specs)
        self.batch_size, self.rows = batch_size, rows.tolist()

    def __iter__(self) -> Iterator[eval_examples.EvalExample]:
        starts = range(0, len(self), self.batch_size)
        mine = [start + row for start in starts for row in self.rows if start + row < len(self)]
        ahead, blank = self.read(mine), self.specs.blank()  # by threads, over the ends of batches
        for start in range(0, len(self), self.batch_size):
            stop = min(start + self.batch_size, len(self))
            inputs, annotations, error = {}, [], None
            try:
                for index in (start + row for row in self.rows if start + row < stop):
                    example = next(ahead)
                    inputs[index] = example.inputs
                    label = None if example.label is None else int(example.label)
                    extras = {name: example.extras[name] for name in _EXCHANGED_FIELDS if name in example.extras}
                    annotations.append([index, example.captions, label, int(example.id), example.labels, extras])
            except Exception as caught:
                error = caught
            process_agreement.raise_error_on_all(error)
            gathered = process_agreement.all_gather_objects(annotations)
            everyone = {index: rest for part in gathered for index, *rest in part}
            for index in range(start, stop):
                yield eval_examples.EvalExample(inputs.get(index, blank), *everyone[index])


class _InputlessSource:
    """A source without its images and other modalities."""

    def __init__(self, source: Source):
        self.source, self.name = source, source.name
        self.class_names, self.templates = source.class_names, source.templates

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = Record(**self.source[index])
        record.pop("image", None)
        record.pop("modalities", None)
        return record


def without_inputs(examples: eval_examples.EvalExamples) -> eval_examples.EvalExamples:
    """The same examples, shared among processes in the same way, whose images nobody decodes."""
    inputless = copy.copy(examples)
    inputless.source = _InputlessSource(examples.source)
    return inputless


def sharded_inputs(
    examples: eval_examples.EvalExamples, indices: Sequence[int], runner: batched_apply.BatchRunner
) -> Iterator[np.ndarray]:
    """Images of examples by index (or what the model sees else), in the order in which a runner takes them.

    Each process reads and decodes only the rows of its own devices; those of others are blank. All processes take part.

    Args:
      examples: a source's.
      indices: of any of them, also several times.
      runner: takes the images as rows.

    Raises:
      UserError: in every process, when one of them cannot read an image.
      ValueError: the examples are of a model that sees no images.
    """
    if not examples.specs.names:
        raise ValueError(f"{examples.source.name}: nothing says how images are prepared")
    blank, rows = next(iter(examples.specs.blank().values())), runner.rows.tolist()
    local = set(rows)
    ahead = examples.read([index for i, index in enumerate(indices) if i % runner.batch_size in local])
    for start in range(0, len(indices), runner.batch_size):
        count = min(runner.batch_size, len(indices) - start)
        images, error = {}, None
        try:
            name = examples.source.name
            images = {row: decoded_input(next(ahead), name) for row in rows if row < count}
        except Exception as caught:
            error = caught
        process_agreement.raise_error_on_all(error)
        yield from (images.get(row, blank) for row in range(count))


def make_examples(
    sources: Sequence[Source], specs: InputSpecs | transforms.ImageSpec | None, runner: batched_apply.BatchRunner
) -> Callable[[Source], eval_examples.EvalExamples]:
    """The function that decodes a source: `sources` by all processes together, any other by the process that calls it.

    Without specs there is nothing to decode, and every process reads all.
    """

    def decode(source: Source) -> eval_examples.EvalExamples:
        prepared = InputSpecs.of(specs)
        if jax.process_count() == 1 or not prepared.names or not any(source is shared for shared in sources):
            return eval_examples.EvalExamples(source, prepared)
        return ShardedExamples(source, prepared, runner.batch_size, runner.rows)

    return decode
