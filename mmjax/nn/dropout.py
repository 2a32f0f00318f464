"""Dropout of values, branches, patches and modalities, with one random key an example.

Every function takes one key per example. An example therefore meets the same noise however the batch is split into
microbatches or laid out over devices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def fold_keys(keys: Key[Array, " B"] | None, data: int | Array) -> Key[Array, " B"] | None:
    """Derives another independent set of per-example keys; None stays None (evaluation)."""
    return None if keys is None else jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def dropout(
    x: Float[Array, "B ..."],
    rate: float,
    keys: Key[Array, " B"] | None,
    chosen: Int[Array, " B"] | None = None,
    length: int = 0,
) -> Float[Array, "B ..."]:
    """Zeroes each element with probability `rate` and rescales the rest; the identity when `keys` is None.

    Args:
      x: activations.
      rate: share that is zeroed.
      keys: one an example.
      chosen: the token, of `length`, that `x` [B, 1, D] holds of each example: its noise is what it would be among all.
      length: tokens of an example.
    """
    if keys is None or rate == 0.0:
        return x
    if chosen is None:
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    else:
        draw = lambda key, token: jax.random.bernoulli(key, 1.0 - rate, (length, *x.shape[2:]))[token][None]
        keep = jax.vmap(draw)(keys, chosen)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def drop_path(
    x: Float[Array, "B ..."], rate: float | Float[Array, ""], keys: Key[Array, " B"] | None
) -> Float[Array, "B ..."]:
    """Stochastic depth: zeroes a whole residual branch of an example with probability `rate` (arXiv:1603.09382)."""
    if keys is None:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate))(keys)
    keep = keep.reshape((-1,) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def drop_patches(tokens: Float[Array, "B N D"], rate: float, keys: Key[Array, " B"] | None) -> Float[Array, "B M D"]:
    """Keeps a random subset of `round(N * (1 - rate))` tokens of each example, in order (FLIP, arXiv:2212.00794)."""
    if keys is None or rate == 0.0:
        return tokens
    length = tokens.shape[1]
    kept = max(1, round(length * (1.0 - rate)))
    noise = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys)
    index = jnp.sort(jnp.argsort(noise, axis=1)[:, :kept], axis=1)
    return jnp.take_along_axis(tokens, index[..., None], axis=1)


def modality_dropout(present: Bool[Array, "B M"], rate: float, keys: Key[Array, " B"] | None) -> Bool[Array, "B M"]:
    """Hides each present modality with probability `rate`, never an example's last one.

    Where all would go, one of them stays, each as likely as the others. The identity when `keys` is
    None.
    """
    if keys is None or rate == 0.0:
        return present

    def hide(key, present):
        which, how = jax.random.split(key)
        kept = present & jax.random.bernoulli(how, 1.0 - rate, present.shape)
        lucky = jnp.argmax(jnp.where(present, jax.random.uniform(which, present.shape), -1.0))
        return jnp.where(kept.any(), kept, present & (jnp.arange(len(present)) == lucky))

    return jax.vmap(hide)(keys, present)
