"""The order of examples that lie together in shards: by windows of shards, so that few are read at a time."""

import hashlib

import numpy as np

from mmjax.data.loading.order import hash64, hash_range, permute


class WindowedOrder:
    """Every epoch permutes the shards, then the examples within each window of consecutive shards.

    Few shards are read at a time, for storage that is slow at jumping about. State is one number per shard.

    Args:
      shard_lengths: int64 [S], examples of each shard; indices count through them in order.
      window: shards whose examples are mixed.
    """

    def __init__(self, shard_lengths: np.ndarray, window: int):
        self.lengths = np.asarray(shard_lengths, np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.length = int(self.lengths.sum())
        self.size = window
        self._latest: tuple[tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]], ...] = ()  # epochs by key

    def index(self, epoch_position: int, key: int) -> int:
        """The example at a position of the epoch that `key` stands for."""
        shards, ends, window_ends = self._epoch(key)
        window, first, count = self._bounds(epoch_position, window_ends)
        epoch_position = first + permute(epoch_position - first, count, hash64(key, window))
        rank = int(np.searchsorted(ends, epoch_position, side="right"))
        shard = shards[rank]
        return int(self.starts[shard] + self.lengths[shard] - (ends[rank] - epoch_position))

    def window(self, epoch_position: int, key: int) -> int:
        """Number of the window that a position lies in."""
        return self._bounds(epoch_position, self._epoch(key)[2])[0]

    def shards(self, window: int, key: int) -> list[int]:
        """The shards of a window; none behind the last window."""
        return self._epoch(key)[0][window * self.size : (window + 1) * self.size].tolist()

    def digest(self) -> str:
        """A short hash of the shards' lengths and the window."""
        return hashlib.blake2b(self.lengths.tobytes() + bytes(str(self.size), "ascii"), digest_size=8).hexdigest()

    def substitute(self, epoch_position: int, key: int, draw: float) -> int:
        """An example of the same window to stand in for the one at `place`, by a draw from [0, 1)."""
        _, first, count = self._bounds(epoch_position, self._epoch(key)[2])
        return self.index(first + int(draw * count), key)

    def _bounds(self, epoch_position: int, window_ends: np.ndarray) -> tuple[int, int, int]:
        window = int(np.searchsorted(window_ends, epoch_position, side="right"))
        first = int(window_ends[window - 1]) if window else 0
        return window, first, int(window_ends[window]) - first

    def _epoch(self, key: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Order of the shards, where each ends in the epoch, and where each window ends."""
        for known, epoch in self._latest:
            if known == key:
                return epoch
        shards = np.argsort(hash_range(len(self.lengths), key), kind="stable")
        ends = np.cumsum(self.lengths[shards])
        epoch = shards, ends, np.append(ends[self.size - 1 : -1 : self.size], ends[-1])
        # This epoch and the one before, which prefetching may still be in. Replaced whole: several threads read it.
        self._latest = ((key, epoch), *self._latest[:1])
        return epoch
