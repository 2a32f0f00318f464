"""Digests of a checkpoint: of every array, the same on any mesh and any number of processes, and of what lies beside.

An array's digest is a sum over its elements, each times an odd number that follows from its index. So every process
adds what its shards hold, a single flipped bit always changes the sum, and other damage does but for one in 2**64.
"""

import concurrent.futures
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.parallel import partition, process_agreement

_CHUNK = 1 << 18  # elements that are hashed at a time on the host: they stay in its cache
_COMPILED, _COLUMNS = 1 << 20, 256  # elements, and columns, from which on compiling pays on the host
_THREADS = 4  # numpy leaves the interpreter to others while it computes
_META = "digest"  # the field of `meta` with the digest of the others
_UINTS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}


class Digests:
    """The digests of a tree's arrays, computed while the caller goes on; the arrays may be donated meanwhile.

    Args:
      tree: of arrays. Devices are given their work, and threads the arrays in the host's memory, before this returns.
    """

    def __init__(self, tree: Any):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        self._names = [partition.path_name(path) for path, _ in leaves]
        threads = concurrent.futures.ThreadPoolExecutor(_THREADS)
        self._parts = [_begin(leaf, threads) for _, leaf in leaves]
        threads.shutdown(wait=False)  # what they were given they still do
        # A collective is for the thread that calls all others.
        self._everyone = self._gather() if jax.process_count() > 1 else None

    def _gather(self) -> list[Any]:
        sums = [_add([part() for part in parts]) for parts in self._parts]
        return process_agreement.all_gather_objects(sums)

    def wait(self) -> dict[str, str]:
        """The digests by path, in hexadecimal; any thread may ask for them."""
        everyone = self._gather() if self._everyone is None else self._everyone
        sums = np.array(everyone, np.uint64).reshape(len(everyone), -1, 2).sum(axis=0)
        return {
            name: f"{int(low) & 0xFFFFFFFF:08x}{int(high) & 0xFFFFFFFF:08x}"
            for name, (low, high) in zip(self._names, sums, strict=True)
        }


def compute(tree: Any) -> dict[str, str]:
    """The digests of a tree's arrays by path, in hexadecimal; all processes call it alike."""
    return Digests(tree).wait()


def changed(tree: Any, digests: Mapping[str, str]) -> list[str]:
    """Paths of the arrays that have another digest than this; all processes call it alike."""
    return [name for name, digest in compute(tree).items() if digests.get(name, digest) != digest]


def seal(meta: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """`meta` with the digests of the arrays that it lies beside, and one of itself."""
    result = {**meta, "digests": dict(digests)}
    return {**result, _META: _of_json(result)}


def is_whole(meta: Mapping[str, Any]) -> bool:
    """Whether `meta` is as it was sealed; older code's, which never was, counts as whole."""
    if _META not in meta and "digests" not in meta:
        return True
    return meta.get(_META) == _of_json({name: value for name, value in meta.items() if name != _META})


def unsealed(meta: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, str]]:
    """`meta` as it was before it was sealed, and the digests of the arrays; empty for older code's."""
    beside = (_META, "digests", "metrics")
    return {name: value for name, value in meta.items() if name not in beside}, meta.get("digests", {})


def of_all(digests: Mapping[str, str]) -> str:
    """One digest of many."""
    return _of_json(dict(digests))


def _of_json(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _begin(array: Any, threads: concurrent.futures.Executor) -> list[Callable[[], Any]]:
    """Functions that wait for the sums of this process's shards of an array, each shard once."""
    array = jnp.asarray(array)
    waits = []
    for shard in array.addressable_shards:
        if shard.replica_id:
            continue
        of_whole = array.shape, array.dtype.itemsize, shard.index
        is_small = shard.data.size < _COMPILED or array.shape[-1] < _COLUMNS or array.dtype.itemsize == 8
        is_host = shard.device.platform == "cpu"
        if is_host and is_small:
            # jax does not reuse donated memory that an array of the host's looks at.
            waits.append(threads.submit(_add_on_host, np.asarray(shard.data), *of_whole).result)
            continue
        rows, columns = _weights(*of_whole)
        sums = _add_compiled(shard.data, rows, columns, step=1 if is_host else max(1, len(rows)))
        waits.append(functools.partial(np.asarray, sums))
    return waits


def _add(parts: list[np.ndarray]) -> tuple[int, int]:
    sums = [part.astype(np.uint64) for part in parts]
    low, high = sum(sums, np.zeros(2, np.uint64)) & np.uint64(0xFFFFFFFF)
    return int(low), int(high)


def _weights(shape: tuple[int, ...], itemsize: int, index: tuple[slice, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Odd numbers of a shard's rows [R] (all but the last axis) and columns [C], by index in the whole array."""
    ranges = [np.arange(*part.indices(size), dtype=np.uint32) for part, size in zip(index, shape, strict=True)]
    rows = np.zeros(1, np.uint32)
    for size, numbers in zip(shape[:-1], ranges[:-1], strict=True):
        rows = (rows[:, None] * np.uint32(size) + numbers).reshape(-1)
    columns = ranges[-1] if ranges else np.zeros(1, np.uint32)
    if itemsize == 8:  # as two of four bytes
        columns = (columns[:, None] * np.uint32(2) + np.arange(2, dtype=np.uint32)).reshape(-1)
    return _odd(rows), _odd(columns ^ np.uint32(0x5BD1E995))


def _odd(numbers: np.ndarray) -> np.ndarray:
    """A hash of uint32 numbers (the finalizer of MurmurHash3), odd so that no bit of a product is lost."""
    numbers = (numbers ^ (numbers >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    numbers = (numbers ^ (numbers >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return (numbers ^ (numbers >> np.uint32(16))) | np.uint32(1)


def _add_on_host(data: np.ndarray, shape: tuple[int, ...], itemsize: int, index: tuple[slice, ...]) -> np.ndarray:
    """The sums [2] of a shard's elements and of their upper halves, which alone tell two flips of the highest bit."""
    rows, columns = _weights(shape, itemsize, index)
    bits = np.ascontiguousarray(data).reshape(-1)
    bits = bits.view(_UINTS[bits.dtype.itemsize]).reshape(len(rows), len(columns))
    step = max(1, _CHUNK // max(1, len(columns)))
    upper = np.empty((min(step, len(rows)), len(columns)), np.uint32)
    low, high = np.zeros(len(columns), np.uint32), np.zeros(len(columns), np.uint32)
    for first in range(0, len(rows), step):
        part, weights = bits[first : first + step], rows[first : first + step]
        low += np.einsum("RC,R->C", part, weights, dtype=np.uint32)
        high += np.einsum("RC,R->C", np.right_shift(part, 16, out=upper[: len(part)]), weights, dtype=np.uint32)
    return np.stack([(low * columns).sum(dtype=np.uint32), (high * columns).sum(dtype=np.uint32)])


@functools.partial(jax.jit, static_argnames="step")
def _add_compiled(data: jax.Array, rows: jax.Array, columns: jax.Array, step: int) -> jax.Array:
    """`_add_on_host` where the shard lies, of so many rows at a time.

    A device takes all at once; row by row, a CPU reads the memory once for both sums.
    """
    if not data.size:
        return jnp.zeros(2, jnp.uint32)
    parts = data.reshape(len(rows) // step, step, *data.shape[-1:])
    weights = rows.reshape(-1, step, 1)

    def add(i, sums):
        bits = _as_bits(parts[i]).astype(jnp.uint32).reshape(step, len(columns))  # of eight bytes, as two of four
        pairs = zip(sums, (bits, bits >> 16), strict=True)
        return tuple(total + jnp.sum(part * weights[i], axis=0, dtype=jnp.uint32) for total, part in pairs)

    none = jnp.zeros(len(columns), jnp.uint32)
    sums = jax.lax.fori_loop(0, len(parts), add, (none, none))
    return jnp.stack([jnp.sum(part * columns, dtype=jnp.uint32) for part in sums])


def _as_bits(data: jax.Array) -> jax.Array:
    data = data.astype(jnp.uint8) if data.dtype == jnp.bool_ else data
    return jax.lax.bitcast_convert_type(data, _UINTS[data.dtype.itemsize])
