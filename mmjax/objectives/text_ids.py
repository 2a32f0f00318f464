"""Ids of texts: equal for texts that the model reads alike."""

import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

_SEEDS = (0x9E3779B9, 0x7F4A7C15)  # of the two words


def text_ids(text: Int[Array, "B L"]) -> UInt32[Array, "B 2"]:
    """A 64-bit hash of each row of tokens, padding too, in two words.

    Every token is mixed with its position, and the sum of a row is mixed again. Texts that differ have equal hashes
    with a probability of about 2^-64.
    """
    tokens, positions = text.astype(jnp.uint32), jnp.arange(text.shape[1], dtype=jnp.uint32)
    words = [_mix(_mix(tokens ^ _mix(positions + jnp.uint32(seed))).sum(axis=1, dtype=jnp.uint32)) for seed in _SEEDS]
    return jnp.stack(words, axis=1)


def _mix(x: Array) -> Array:
    """MurmurHash3's finalizer, which is a permutation of the 32-bit numbers."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
