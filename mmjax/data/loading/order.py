"""The order of examples: pure functions of (seed, position), with no state and no tables that grow with the data.

Everything here is exact integer arithmetic, so it gives the same answer on every host, in every version.
"""

import functools
import heapq
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = 6


def hash64(*values: int) -> int:
    """Hashes integers to 64 bits (splitmix64's finaliser, chained). Values count modulo 2**64."""
    h = 0
    for value in values:
        h = (h ^ (value & _MASK)) + _GOLDEN & _MASK
        h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        h = (h ^ (h >> 27)) * 0x94D049BB133111EB & _MASK
        h ^= h >> 31
    return h


def permute(index: int, n: int, key: int) -> int:
    """Returns the image of `index` under a pseudo-random permutation of range(n) chosen by `key`.

    A generalised Feistel network on pairs (left, right) in range(a) x range(b), with a * b barely above n, and cycle
    walking back into range(n) (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). No memory, O(1).

    Args:
      index: in [0, n).
      n: 1 to 2**62.
      key: any integer; it counts modulo 2**64.
    """
    if not 0 <= index < n <= 1 << 62:
        raise ValueError(f"need 0 <= index < n <= 2**62, got index={index}, n={n}")
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    while True:
        left, right = divmod(index, b)
        round_key = key & _MASK
        for i in range(_ROUNDS):
            round_key = round_key + _GOLDEN & _MASK
            # The halves take turns. One multiply-xorshift round per half-step is enough mixing for six of them.
            x = ((right if i % 2 == 0 else left) ^ round_key) * 0xBF58476D1CE4E5B9 & _MASK
            x = (x ^ (x >> 29)) * 0x94D049BB133111EB & _MASK
            x ^= x >> 32
            if i % 2 == 0:
                left = (left + x) % a
            else:
                right = (right + x) % b
        index = left * b + right
        if index < n:
            return index


class GlobalOrder:
    """Every epoch is one permutation of all examples.

    Args:
      length: number of examples.
    """

    def __init__(self, length: int):
        self.length = length

    def index(self, epoch_position: int, key: int) -> int:
        """The example at a position of the epoch that `key` stands for."""
        return permute(epoch_position, self.length, key)

    def window(self, epoch_position: int, key: int) -> int:
        """Number of the window that a position lies in."""
        return 0

    def substitute(self, epoch_position: int, key: int, draw: float) -> int:
        """An example to stand in for the one at `place`, by a draw from [0, 1)."""
        return int(draw * self.length)


class SourceOrder(GlobalOrder):
    """Every epoch reads the source from its first example to its last."""

    def index(self, epoch_position: int, key: int) -> int:
        return epoch_position


def hash_range(n: int, key: int) -> np.ndarray:
    """uint64 [n]: splitmix64's outputs number 0 to n - 1 from the seed `key`, all different."""
    x = np.uint64(key & _MASK) + np.uint64(_GOLDEN) * np.arange(1, n + 1, dtype=np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def integer_weights(weights: Sequence[int | float | Fraction]) -> tuple[int, ...]:
    """Scales weights to the smallest integers in the same proportion; a float counts as the decimal it prints as.

    Raises:
      ValueError: when there are none, or one is not positive and finite.
    """
    if not weights or any(not w > 0 or w == math.inf for w in weights):
        raise ValueError(f"mixture weights must be positive and finite, got {list(weights)}")
    # repr keeps 0.1 the decimal 1/10 instead of the nearest binary fraction.
    fractions = [Fraction(repr(float(w))) if isinstance(w, float) else Fraction(w) for w in weights]
    scale = math.lcm(*(f.denominator for f in fractions))
    integers = [int(f * scale) for f in fractions]
    divisor = math.gcd(*integers)
    return tuple(i // divisor for i in integers)


def mixture_position(position: int, weights: Sequence[int | float | Fraction]) -> tuple[int, int]:
    """Deals the positions 0, 1, 2, ... out to components in proportion to their weights, evenly at every scale.

    The components are the leaves of a Huffman tree. Each inner node sends its t-th element left or right so that the
    left count is always round(t * left weight / weight). Of every prefix, a component holds its share to within less
    than two elements. The elements of a component are numbered 0, 1, 2, ... without gaps.

    Args:
      position: at least 0.
      weights: positive; integers from `integer_weights` are the fast case.

    Returns:
      (component, index within the component).
    """
    if position < 0:
        raise ValueError(f"position must not be negative, got {position}")
    node, index = _tree(tuple(weights)), position
    while not isinstance(node, int):
        left_weight, weight, left, right = node
        twice = 2 * weight
        before = (2 * index * left_weight + weight) // twice  # round half up, exactly
        if (2 * (index + 1) * left_weight + weight) // twice > before:
            node, index = left, before
        else:
            node, index = right, index - before
    return node, index


class _InnerNode(NamedTuple):
    """A node of a Huffman tree; a leaf is a component's number."""

    left_weight: int
    weight: int
    left: "int | _InnerNode"
    right: "int | _InnerNode"


@functools.lru_cache(maxsize=64)
def _tree(weights: tuple[int | float | Fraction, ...]) -> int | _InnerNode:
    """The Huffman tree of components with these weights."""
    # No inner child weighs more than 2/3 of its parent, so the rounding errors form a geometric series (sum 3/2).
    heap: list[tuple[int, int, int | _InnerNode]] = [
        (weight, i, i) for i, weight in enumerate(integer_weights(weights))
    ]
    heapq.heapify(heap)
    while len(heap) > 1:
        right_weight, order, right = heapq.heappop(heap)
        left_weight, other, left = heapq.heappop(heap)
        weight = left_weight + right_weight
        heapq.heappush(heap, (weight, min(order, other), _InnerNode(left_weight, weight, left, right)))
    return heap[0][2]


class _Key(np.random.bit_generator.ISeedSequence):
    """The key of a Philox generator. Passing `key=` would make NumPy draw entropy from the system and drop it."""

    def __init__(self, words: tuple[int, int]):
        self.words = words

    def generate_state(self, n_words, dtype=np.uint32):
        return np.array(self.words, dtype=np.uint64)


def example_rng(seed: int, position: int, *extra: int) -> np.random.Generator:
    """A random generator that is a pure function of its arguments (about 10 microseconds).

    Philox is counter-based: the seed and `extra` choose the key, the position the counter block, so the streams of two
    positions are disjoint stretches of 2**128 draws.

    Args:
      seed: the run's seed.
      position: at least 0, below 2**64.
      *extra: what else tells this stream from others at the same position, such as the attempt.
    """
    counter = np.array((0, 0, position, 0), dtype=np.uint64)
    seed_sequence = _Key((hash64(seed), hash64(*extra, len(extra))))
    # NumPy takes any ISeedSequence; its stubs name SeedSequence alone.
    philox = np.random.Philox(seed_sequence, counter=counter)  # pyright: ignore[reportArgumentType]
    return np.random.Generator(philox)
