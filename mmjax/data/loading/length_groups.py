"""Groups of texts of like lengths: how many rows of how many tokens, and which texts of a batch are in which.

A share is what one device computes at a time: its texts of one microbatch. They are sorted by length, the longest
first; the first group takes the first of them, and so on, and each group is computed at a length of its own.
"""

import dataclasses
import re
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Int
from scipy import stats

from mmjax.errors import UserError

Groups = tuple[tuple[int, int], ...]  # (rows, tokens) of each, the longest first

_GROUPS = 4  # at most: each is a copy of the layers in the program
_MULTIPLE = 8  # of the tokens that layers run, those beside the text included
_OVERFLOW = 0.001  # of all batches, those that the groups above one length may be too few for
_TAIL = 32  # longest texts of a sample, which tell how frequent still longer ones are


def text_lengths(text_mask: Bool[np.ndarray, "*B L"]) -> Int[np.ndarray, "*B"]:
    """Tokens of each text up to its last real one; at least 1."""
    lengths = text_mask.shape[-1] - np.argmax(text_mask[..., ::-1], axis=-1)
    return np.where(text_mask.any(axis=-1), lengths, 1)


def choose_groups(
    lengths: Int[np.ndarray, " n"], rows: int, context_length: int, *, extra: int, overhead: int, shares: int
) -> Groups:
    """The cheapest groups among those that hold all but very few batches.

    How many texts of a share are longer than a group's tokens is taken to be beta-binomial, with their frequency in the
    sample: in one batch of 1,000 at most they are more than the longer groups have rows.

    Args:
      lengths: a sample of texts' lengths.
      rows: of a share.
      context_length: the longest text.
      extra: tokens that the layers run with each text, such as an image's; negative where they leave some out.
      overhead: tokens that cost as much as one group more, whatever is in it.
      shares: of a batch.
    """
    candidates = np.arange(context_length - 1, max(0, -extra), -1)
    tokens = np.array([context_length, *candidates[(candidates + extra) % _MULTIPLE == 0]])
    # Rows that groups of more than so many tokens must have; all texts have more than none.
    needed = [*np.maximum.accumulate(_rows_longer(lengths, tokens, rows, _OVERFLOW / shares)), rows]
    # The cheapest path: a step from i to j is a group of tokens[i], of the texts that are longer than tokens[j]. It may
    # begin wherever no longer group is needed.
    cost = np.full((len(needed),) * 2, np.inf)
    for i, size in enumerate(tokens + extra):
        rows_between = np.array(needed[i + 1 :]) - needed[i]
        cost[i, i + 1 :] = rows_between * size + overhead * (rows_between > 0)
    total, origins, ends = np.where(np.array(needed) == 0, 0.0, np.inf), [], []
    for _ in range(_GROUPS):
        paths = total[:, None] + cost
        origins.append(paths.argmin(axis=0))
        total = paths.min(axis=0)
        ends.append(total[-1])
    end, groups = len(tokens), []
    for origin in reversed(origins[: int(np.argmin(ends)) + 1]):
        start = origin[end]
        groups.append((int(needed[end] - needed[start]), int(tokens[start])))
        end = start
    return tuple(group for group in reversed(groups) if group[0])


def _rows_longer(
    lengths: Int[np.ndarray, " n"], tokens: Int[np.ndarray, " c"], rows: int, overflow: float
) -> Int[np.ndarray, " c"]:
    """Rows among which all texts longer than `tokens` are but with the probability `overflow`; none at the first."""
    ordered, count = np.sort(lengths), len(lengths)
    longer = count - np.searchsorted(ordered, tokens, side="right").astype(float)
    # Beyond the sample's longest texts a Pareto tail (Hill's estimate), which falls more slowly than lengths' own.
    tail = min(_TAIL, count - 1)
    if tail > 0:
        begin = ordered[-tail - 1]
        decline = np.log(ordered[-tail:] / begin).mean()
        if decline > 0:
            longer = np.where(tokens >= begin, np.maximum(longer, tail * (tokens / begin) ** (-1 / decline)), longer)
    longer[0] = 0.0
    tiny = 1e-9  # the distribution's parameters are above 0
    frequent, others = longer[:, None] + tiny, (count - longer)[:, None] + tiny
    at_most = np.cumsum(stats.betabinom.pmf(np.arange(rows + 1), rows, frequent, others), axis=1)
    return np.minimum((at_most < 1.0 - overflow).sum(axis=1), rows)


def parse_groups(text: str, context_length: int) -> Groups:
    """Groups from text such as `8x77,24x33`: rows x tokens.

    Raises:
      UserError: it is no such text, or its tokens do not fall from the context length or less.
    """
    field = f"data.length_groups={text!r}"
    groups: Groups = ()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d*)x([1-9]\d*)\s*", part)
        if match is None:
            raise UserError(f"{field} is not understood; give rows x tokens of each group, such as '8x77,24x33'")
        groups += ((int(match[1]), int(match[2])),)
    lengths = [context_length + 1, *(tokens for _, tokens in groups)]
    if any(shorter >= longer for longer, shorter in zip(lengths, lengths[1:], strict=False)):
        raise UserError(f"{field}: tokens must fall from group to group, and texts have {context_length} at most")
    return groups


@dataclasses.dataclass(frozen=True)
class LengthGrouper:
    """Adds to a process's batch the order of its texts: `text_order`, int32 [B].

    It holds the rows of each share, counted within it, the longest text first; -1 throughout where a share's texts do
    not fit into the groups.

    Attributes:
      groups: of a share; () where they are not known yet.
      captions: texts of a share.
      pieces: microbatches, see `mmjax.parallel.mesh.map_microbatches`.
      context_length, extra, overhead: see `choose_groups`.
      shares: of a batch.
    """

    groups: Groups
    captions: int
    pieces: int
    context_length: int
    extra: int
    overhead: int
    shares: int

    columns: ClassVar[tuple[str, ...]] = ("text_order",)
    size_field: ClassVar[str] = "groups"
    config_field: ClassVar[str] = "data.length_groups"
    participle: ClassVar[str] = "grouped"
    remedy: ClassVar[str] = "with data.length_groups of more rows for long texts"

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        # [devices, captions, pieces]: a device's rows are neighbours, and a microbatch takes every `pieces`-th of them.
        lengths = self.lengths(batch).reshape(-1, self.captions, self.pieces)
        order = np.argsort(-lengths, axis=1, kind="stable")
        room = np.repeat([tokens for _, tokens in self.groups], [rows for rows, _ in self.groups])
        if np.any(np.take_along_axis(lengths, order, axis=1) > room[:, None]):
            order = np.full_like(order, -1)
        return batch | {"text_order": order.reshape(-1).astype(np.int32)}

    @staticmethod
    def lengths(batch: dict[str, np.ndarray]) -> Int[np.ndarray, "*B"]:
        """Lengths of the texts of a batch, or of one example's."""
        return text_lengths(batch["text_mask"])

    @property
    def sampled_for(self) -> int:
        """Texts whose lengths are to be foretold: the longest of a batch count."""
        return self.captions * self.shares

    def sized(self, lengths: Int[np.ndarray, " n"]) -> "LengthGrouper":
        """With groups for a sample of texts' lengths."""
        groups = choose_groups(
            lengths,
            self.captions,
            self.context_length,
            extra=self.extra,
            overhead=self.overhead,
            shares=self.shares,
        )
        return dataclasses.replace(self, groups=groups)

    def share(self, context_length: int) -> float:
        """Tokens computed for a share, of those that are computed where each text is padded."""
        return self._tokens() / (self.captions * (context_length + self.extra))

    def relative_cost(self, context_length: int) -> float:
        """Cost of a share, of that of padded texts, which are one group."""
        padded = self.captions * (context_length + self.extra) + self.overhead
        return (self._tokens() + len(self.groups) * self.overhead) / padded

    def _tokens(self) -> int:
        return sum(rows * (tokens + self.extra) for rows, tokens in self.groups)

    def describe(self) -> str:
        """The groups in words."""
        return ", ".join(f"{rows} rows of {tokens} tokens" for rows, tokens in self.groups)
