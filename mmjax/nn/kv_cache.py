"""The cache of a transformer: keys and values of what it has read, with room for more."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn import attention
from mmjax.parallel.gather_rows import take_rows


class LayerCache(NamedTuple):
    """One layer's part of a cache: keys and values of its self-attention and of the memory (None where it has none)."""

    self_cache: attention.KVCache
    cross_cache: attention.KVCache | None


class Cache(struct.PyTreeNode):
    """Keys and values of what a causal (or prefix) transformer has read.

    Attributes:
      layers: of every stack of layers, by name; `LayerCache` with leaves [depth, B, ...].
      valid: [B, S] bool, True where a slot holds a real token.
      index: slots used; the next token goes there, for all examples alike.
      memory_valid: [B, M] bool, of the memory that cross-attention looks at; None when all of it is real.
    """

    layers: Any
    valid: Bool[Array, "B S"]
    index: Int[Array, ""]
    memory_valid: Bool[Array, "B M"] | None = None

    def take(self, rows: Int[Array, " R"], examples: int | None = None) -> "Cache":
        """The cache of these rows, which may repeat; `examples` as in `take_rows`."""
        return self.replace(
            layers=take_rows(self.layers, rows, 1, examples),
            valid=take_rows(self.valid, rows, 0, examples),
            memory_valid=take_rows(self.memory_valid, rows, 0, examples),
        )

    def without_memory(self) -> "Cache":
        """The cache without the memory's keys and values, for when no more tokens look at it (see `segments`)."""
        strip = lambda layer: layer._replace(cross_cache=None)
        layers = jax.tree.map(strip, self.layers, is_leaf=lambda x: isinstance(x, LayerCache))
        return self.replace(layers=layers, memory_valid=None)

    @property
    def counts(self) -> Int[Array, " B"]:
        """Real tokens read so far: the position of the next one."""
        return self.valid.sum(axis=1)


def spec_of_new_tokens(
    cache: Cache, spec: attention.AttentionSpec, x: Float[Array, "B N D"]
) -> attention.AttentionSpec:
    """Attention of tokens behind those of a cache, whose `valid` becomes theirs and the cache's together."""
    real = jnp.ones(x.shape[:2], bool) if spec.valid is None else spec.valid
    valid = jax.lax.dynamic_update_slice_in_dim(cache.valid, real, cache.index, axis=1)
    return attention.AttentionSpec(causal=x.shape[1] > 1, valid=valid, offset=cache.index)


def new_cache(
    layer_caches: Any,
    spec: attention.AttentionSpec,
    memory_valid: Bool[Array, "B M"] | None,
    shape: tuple[int, int],
    length: int,
    slots: int,
) -> Cache:
    """Makes room for `slots` tokens behind the `length` first ones."""
    if slots < length:
        raise ValueError(f"slots={slots} are too few for {length} tokens")

    def grow(layer: LayerCache) -> LayerCache:
        room = ((0, 0), (0, 0), (0, slots - length), (0, 0), (0, 0))
        keys_values = (jnp.pad(x[:, :, :length], room) for x in layer.self_cache)
        return LayerCache(attention.KVCache(*keys_values), layer.cross_cache)

    real = jnp.ones(shape, bool) if spec.valid is None else spec.valid
    valid = jnp.pad(real[:, :length], ((0, 0), (0, slots - length)))
    layers = jax.tree.map(grow, layer_caches, is_leaf=lambda x: isinstance(x, LayerCache))
    return Cache(layers, valid, jnp.asarray(length, jnp.int32), memory_valid)
