"""Packing of captions into rows: where the tokens of each go, and how many rows a batch of them needs.

A caption's tokens are those up to its first end-of-text id; what follows is padding that a causal tower which pools
there never reads. A group is what one device computes at a time: its rows of one microbatch.
"""

import concurrent.futures
import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int, Int32

from mmjax.data.bad_example import BadExample, one_example
from mmjax.data.loading.order import example_rng
from mmjax.data.text.tokenizer import end_of_text_position

_ROW_LENGTHS = (80, 128)
_SIGMAS = 4.0  # rows are kept for the mean number needed and this many standard deviations
_GROUPS = 200  # simulated
_SAMPLE = (1024, 8192)  # captions read to learn their lengths: at least, at most
_READERS = 16  # threads, for storage that answers slowly

# Standard deviation of the lengths of captions from the web, in CLIP's tokens; their mean is 15 to 20.
_LENGTH_DEVIATION = 10.8


def row_length(context_length: int) -> int:
    """Tokens of a row: 80 or 128, or an even number that holds the longest text where that is longer."""
    fitting = [length for length in _ROW_LENGTHS if length >= context_length]
    return fitting[0] if fitting else context_length + context_length % 2


def caption_lengths(text: Int[np.ndarray, "*B L"], eos_id: int) -> Int[np.ndarray, "*B"]:
    """Tokens of each caption up to its first end-of-text id; 1 without any, as a tower then pools the first token."""
    return np.asarray(end_of_text_position(text, eos_id) + 1)


def first_fit(
    lengths: Int[np.ndarray, "G b"], rows: int, length: int
) -> tuple[Int32[np.ndarray, "G b"], Int32[np.ndarray, "G b"]] | None:
    """First-fit decreasing: each caption, the longest first, goes into the first row with room for it.

    Args:
      lengths: of the captions of each group, at most `length`.
      rows: of a group.
      length: tokens of a row.

    Returns:
      Row and first column of each caption, or None where the rows of a group do not hold its captions.
    """
    groups, captions = lengths.shape
    group = np.repeat(np.arange(groups), captions)
    flat = lengths.reshape(-1)
    # Captions of one length stand together, within them group after group, and within these in the batch's order.
    order = np.lexsort((group, -flat))
    counts = np.stack([np.bincount(row, minlength=length + 1) for row in lengths])  # [G, length + 1]
    room = np.full((groups, rows), length)
    row, column = np.empty(flat.size, np.int32), np.empty(flat.size, np.int32)
    start = 0
    for size in np.unique(flat)[::-1].tolist():
        # Equal captions fill the rows from the first on, each with as many as it has room for.
        fitting = room // size
        before = np.cumsum(fitting, axis=1) - fitting
        taken = np.clip(counts[:, size, None] - before, 0, fitting)
        if np.any(taken.sum(axis=1) < counts[:, size]):
            return None
        taken = taken.reshape(-1)
        slots = np.repeat(np.arange(taken.size), taken)
        nth = np.arange(slots.size) - np.repeat(np.cumsum(taken) - taken, taken)
        items = order[start : start + slots.size]
        row[items] = slots % rows
        column[items] = length - room.reshape(-1)[slots] + nth * size
        room -= taken.reshape(room.shape) * size
        start += slots.size
    return row.reshape(lengths.shape), column.reshape(lengths.shape)


def rows_needed(lengths: Int[np.ndarray, "G b"], length: int) -> Int[np.ndarray, " G"]:
    """How many rows first-fit decreasing fills for the captions of each group.

    Raises:
      ValueError: a caption is longer than a row.
    """
    # Of any two rows that follow one another the captions would not fit into one.
    enough = min(lengths.shape[1], 2 * -(-int(lengths.sum(axis=1).max()) // length) + 1)
    slots = first_fit(lengths, enough, length)
    if slots is None:
        raise ValueError(f"a caption has {lengths.max()} tokens, more than the {length} of a row")
    row, _ = slots
    return row.max(axis=1) + 1


def rows_for(lengths: Int[np.ndarray, " n"], captions: int, length: int) -> int:
    """Rows that hold all but very few groups of captions: the mean number needed and four standard deviations.

    Args:
      lengths: a sample of captions' lengths. The smaller it is, the more rows are added for what it may have missed.
      captions: of a group.
      length: tokens of a row.
    """
    drawn = np.random.default_rng(0).choice(lengths, (_GROUPS, captions))
    needed = rows_needed(drawn, length)
    # The variance of a new group's sum about the mean of a sample of n is that of a group, times 1 + captions / n.
    deviation = needed.std() * math.sqrt(1.0 + captions / len(lengths))
    return min(captions, math.ceil(needed.mean() + _SIGMAS * deviation))


def expected_lengths(mean_length: float, context_length: int) -> Int[np.ndarray, " n"]:
    """Lengths of captions that are lognormal with a mean and a standard deviation of 10.8, for planning.

    Args:
      mean_length: tokens of a caption on average, the first and the last included.
      context_length: the longest caption; longer ones are cut.
    """
    variance = math.log(1.0 + (_LENGTH_DEVIATION / mean_length) ** 2)
    drawn = np.random.default_rng(1).lognormal(math.log(mean_length) - variance / 2, math.sqrt(variance), _SAMPLE[1])
    return np.clip(np.rint(drawn), 2, context_length).astype(int)


def sample_lengths(examples: Any, packer: Any) -> Int[np.ndarray, " n"]:
    """Lengths of the texts that training begins with, no image decoded.

    Args:
      examples: `TrainExamples` whose transform gives `text_arrays`.
      packer: a `TextPacker` or a `LengthGrouper`, which measures them.

    Returns:
      One length for each example that can be read; maybe none.
    """

    def caption_length(position: int) -> int | None:
        component, _, index = examples.locate(position)
        try:
            with one_example():
                record = examples.sources[component][index]
                arrays = examples.transform.text_arrays(record, example_rng(examples.seed, position, 0))
        except BadExample:  # counted when it is trained on
            return None
        return int(packer.lengths(arrays))

    # Larger batches are worth a larger sample.
    count = min(max(2 * packer.sampled_for, _SAMPLE[0]), _SAMPLE[1])
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        lengths = list(pool.map(caption_length, range(count)))
    return np.array([length for length in lengths if length is not None], int)


@dataclasses.dataclass(frozen=True)
class TextPacker:
    """Adds to a process's batch where each caption goes: `text_row` and `text_column`, int32 [B].

    They count within the caption's group; both are -1 throughout where a group's captions do not fit.

    Attributes:
      rows, length: rows of a group (0 where they are not known yet) and tokens of a row.
      captions: of a group.
      pieces: microbatches, see `mmjax.parallel.mesh`.
      eos_id: the end-of-text id.
    """

    rows: int
    length: int
    captions: int
    pieces: int
    eos_id: int

    columns: ClassVar[tuple[str, ...]] = ("text_row", "text_column")
    size_field: ClassVar[str] = "rows"
    config_field: ClassVar[str] = "data.packed_rows"
    participle: ClassVar[str] = "packed"
    remedy: ClassVar[str] = "with a larger data.packed_rows"

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        lengths = self.lengths(batch)
        # [devices, captions, pieces]: a device's rows are neighbours, and a microbatch takes every `pieces`-th of them.
        shape = (-1, self.captions, self.pieces)
        groups = lengths.reshape(shape).swapaxes(1, 2).reshape(-1, self.captions)
        slots = first_fit(groups, self.rows, self.length)
        if slots is None:
            return batch | {name: np.full(len(lengths), -1, np.int32) for name in self.columns}
        to_batch_order = lambda x: x.reshape(-1, self.pieces, self.captions).swapaxes(1, 2).reshape(-1)
        return batch | {name: to_batch_order(x) for name, x in zip(self.columns, slots, strict=True)}

    def lengths(self, batch: dict[str, np.ndarray]) -> Int[np.ndarray, "*B"]:
        """Lengths of the captions of a batch, or of one example's."""
        return caption_lengths(batch["text"], self.eos_id)

    @property
    def sampled_for(self) -> int:
        """Captions whose sum of lengths is to be foretold."""
        return self.captions

    def sized(self, lengths: Int[np.ndarray, " n"]) -> "TextPacker":
        """With rows for a sample of captions' lengths."""
        return dataclasses.replace(self, rows=rows_for(lengths, self.captions, self.length))

    def describe(self) -> str:
        """The rows in words."""
        return f"{self.rows} rows of {self.length} tokens"

    def relative_cost(self, context_length: int) -> float:
        """Cost of a group, of that of padded texts."""
        return self.share(context_length)

    def share(self, context_length: int) -> float:
        """Tokens computed for a group, of those that are computed where each text is padded."""
        return self.rows * self.length / (self.captions * context_length)
