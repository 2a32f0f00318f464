"""Layouts of a parameter's numbers in other libraries: pure reshapes, transposes and joins, both ways.

Shapes in the docstrings: theirs <-> ours. D is a width, F any number of inputs or outputs, H x K heads x head width.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

Arrays = list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A pair of functions, inverses of each other.

    Attributes:
      to_ours: (their arrays, our shapes) -> our arrays.
      to_theirs: our arrays -> their arrays.
    """

    to_ours: Callable[[Arrays, Sequence[tuple[int, ...]]], Arrays]
    to_theirs: Callable[[Arrays], Arrays]


def _one(to_ours, to_theirs) -> Layout:
    """A layout of one array on each side."""
    return Layout(lambda xs, shapes: [to_ours(xs[0]).reshape(shapes[0])], lambda xs: [to_theirs(xs[0])])


def _stacked(axis: int, to_ours, to_theirs) -> Layout:
    """Several arrays there, one here with another axis."""

    def join(xs, shapes):
        (shape,) = shapes
        part = shape[:axis] + shape[axis + 1 :]
        return [np.stack([to_ours(x).reshape(part) for x in xs], axis=axis)]

    return Layout(join, lambda xs: [to_theirs(part) for part in np.moveaxis(xs[0], axis, 0)])


def _same(x):
    return x


def _transposed(x):
    return x.T


def _rows(x):
    """[D, ...] -> [..., D]: a PyTorch weight of a kernel with one input axis."""
    return x.reshape(x.shape[0], -1).T


def _columns(x):
    """[..., D] -> [D, ...]: a PyTorch weight of a kernel with one output axis."""
    return x.reshape(-1, x.shape[-1]).T


# The same numbers in the same order; also scalars that are stored as [1].
COPY = _one(_same, _same)
# [1] <-> []
SCALAR_1 = _one(_same, lambda x: x.reshape(1))
# A temperature, by which logits are divided <-> the logarithm of what they are multiplied with
TEMPERATURE = _one(lambda x: -np.log(x), lambda x: np.exp(-x))
# [1, N, D] <-> [N, D]
BATCH_OF_ONE = _one(_same, lambda x: x[None])
# [N, D] <-> [1, N, D]
FIRST_OF_ONE = _one(_same, lambda x: x[0])
# [1, N, D] <-> [1 + N, D] with zeros for the position of a token that has none there
PATCH_POSITIONS = _one(lambda x: np.concatenate([np.zeros_like(x[0, :1]), x[0]]), lambda x: x[None, 1:])
# [2 + N, D], of which two rows are padding's and nobody's (OPT's positions) <-> [N, D]
BEHIND_TWO = _one(lambda x: x[2:], lambda x: np.concatenate([np.zeros_like(x[:1]).repeat(2, axis=0), x]))
# [1, 1, D] <-> [D]
TOKEN = _one(_same, lambda x: x[None, None])
# [F] <-> [..., K]
FLAT = _one(_same, lambda x: x.reshape(-1))
# Convolution over any number of axes [D, C, P, P] <-> [P, P, C, D]
CONVOLUTION = _one(
    lambda x: x.transpose(*range(2, x.ndim), 1, 0), lambda x: x.transpose(x.ndim - 1, x.ndim - 2, *range(x.ndim - 2))
)
# Convolution over mel bins and frames [D, C, F, T] <-> over frames and mel bins [T, F, C, D]
CONVOLUTION_OF_SPECTROGRAMS = _one(np.transpose, np.transpose)
# nn.Linear [F, D] <-> [D, ...], one input axis: [D, F], [D, H, K], [D, 3, H, K]
LINEAR = _one(_transposed, _rows)
# GPT-2's maps [D, F] <-> [D, ...], one input axis; [F, D] <-> [..., D], one output axis
MATRIX = _one(_same, lambda x: x.reshape(x.shape[0], -1))
MATRIX_OUT = _one(_same, lambda x: x.reshape(-1, x.shape[-1]))
# nn.Linear [D, F] <-> [..., D], one output axis: [H, K, D]
LINEAR_OUT = _one(_transposed, _columns)
# q, k and v: three nn.Linear [D, D] <-> [D, 3, H, K]; three [D] <-> [3, H, K]
QKV_LINEAR = _stacked(1, _transposed, _rows)
QKV_BIAS = _stacked(0, _same, lambda x: x.reshape(-1))
# q, k and v (or k and v): [D, H, K] each <-> [D, 3, H, K]; [H, K] each <-> [3, H, K]
QKV_HEADS = _stacked(1, _same, _same)
QKV_HEADS_BIAS = _stacked(0, _same, _same)


def spectrogram_positions(bins: int, frames: int, prefix: int) -> Layout:
    """Positions of patches with frames running fastest, [1, N, D] <-> with mel bins running fastest, [N, D].

    Args:
      bins, frames: patches along either axis.
      prefix: rows of learned tokens, which stand first in both.
    """

    def turned(x, *grid):
        patches = x[prefix:].reshape(*grid, -1).swapaxes(0, 1)
        return np.concatenate([x[:prefix], patches.reshape(len(x) - prefix, -1)])

    return _one(lambda x: turned(x[0], bins, frames), lambda x: turned(x, frames, bins)[None])


# One score [1, D] <-> logits of no and of yes [D, 2], that of no 0; [1] <-> [2]
SCORE = _one(lambda x: np.stack([np.zeros_like(x[0]), x[0]], axis=1), lambda x: (x[:, 1] - x[:, 0])[None])
SCORE_BIAS = _one(lambda x: np.stack([np.zeros_like(x[0]), x[0]]), lambda x: (x[1] - x[0])[None])


def constant(value: float) -> Layout:
    """A parameter of ours that they do not have, which is this number."""
    return Layout(lambda xs, shapes: [np.full(shape, value, np.float32) for shape in shapes], lambda xs: [])


def _split_weight(xs, shapes):
    q, kv = shapes
    width = q[0]
    return [xs[0][:width].T.reshape(q), xs[0][width:].T.reshape(kv)]


# A gate and what it is for, in one nn.Linear [2 F, D] <-> two [D, F]; [2 F] <-> two [F]
HALVES = Layout(
    lambda xs, shapes: [half.T for half in np.split(xs[0], 2)], lambda xs: [np.concatenate([x.T for x in xs])]
)
HALVES_BIAS = Layout(lambda xs, shapes: list(np.split(xs[0], 2)), lambda xs: [np.concatenate(xs)])


def _split_bias(xs, shapes):
    q, kv = shapes
    width = int(np.prod(q))
    return [xs[0][:width].reshape(q), xs[0][width:].reshape(kv)]


# nn.MultiheadAttention's in_proj [3 D, D] <-> q [D, H, K] and kv [D, 2, H, K]; [3 D] <-> [H, K] and [2, H, K]
IN_PROJ = Layout(_split_weight, lambda xs: [np.concatenate([_rows(x) for x in xs])])
IN_PROJ_BIAS = Layout(_split_bias, lambda xs: [np.concatenate([x.reshape(-1) for x in xs])])
