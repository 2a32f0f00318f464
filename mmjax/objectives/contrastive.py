"""Contrastive losses over the whole batch: softmax (CLIP) and sigmoid (SigLIP).

Both read the arrays they are given as the global batch. Under `jit` on a mesh that batch is spread over the devices
and the compiler gathers what a row needs; the value is that of one device.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt

Metrics = dict[str, Any]


def positive_pairs(ids: UInt[Array, "B 2"]) -> Bool[Array, "B B"]:
    """Which image and text belong together: those whose 64-bit ids (two 32-bit words) are equal."""
    return (ids[:, None, :] == ids[None, :, :]).all(axis=-1)


def similarity(
    image: Float[Array, "B E"], text: Float[Array, "B E"], *, precision: str = "highest"
) -> Float[Array, "B B"]:
    """Inner products in float32. The default precision would be bfloat16 passes on TPU and TF32 on NVIDIA."""
    return jnp.einsum("iE,jE->ij", image.astype(jnp.float32), text.astype(jnp.float32), precision=precision)


def softmax_loss(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    logit_scale: Float[Array, ""],
    ids: UInt[Array, "B 2"] | None = None,
    *,
    precision: str = "highest",
) -> tuple[Float[Array, ""], Metrics]:
    """Symmetric InfoNCE with any number of positives.

    Each direction is the mean over rows of `-1/|P_i| sum_{p in P_i} log softmax(logits_i)_p` (SupCon's L_out,
    arXiv:2004.11362); with unique ids that is CLIP's loss (arXiv:2103.00020).

    Args:
      image, text: unit rows; row i of each is a pair.
      logit_scale: the multiplier itself, not its logarithm.
      ids: rows with equal ids are positives of one another; None when every row is its own class (no mask is built).
      precision: of the matrix product.

    Returns:
      The loss in nats and metrics: `accuracy` in [0, 1], the mean over both directions of how often the largest
      logit is a positive.
    """
    logits = logit_scale * similarity(image, text, precision=precision)
    row_lse = jax.nn.logsumexp(logits, axis=1)
    column_lse = jax.nn.logsumexp(logits, axis=0)
    if ids is None:
        # Not jnp.diag: the diagonal of a sharded matrix costs stray gathers.
        positive = logit_scale * jnp.sum(image.astype(jnp.float32) * text.astype(jnp.float32), axis=-1)
        row_positive = column_positive = positive
    else:
        pairs = positive_pairs(ids)
        count = pairs.sum(axis=1).astype(jnp.float32)
        chosen = jnp.where(pairs, logits, 0.0)
        row_positive, column_positive = chosen.sum(axis=1) / count, chosen.sum(axis=0) / count
    loss = 0.5 * (jnp.mean(row_lse - row_positive) + jnp.mean(column_lse - column_positive))
    return loss, {"accuracy": _accuracy(logits, ids)}


def sigmoid_loss(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    logit_scale: Float[Array, ""],
    logit_bias: Float[Array, ""],
    ids: UInt[Array, "B 2"] | None = None,
    *,
    precision: str = "highest",
) -> tuple[Float[Array, ""], Metrics]:
    """SigLIP's loss: `-1/B sum_ij log sigmoid(z_ij (scale x_i . y_j + bias))` (arXiv:2303.15343).

    z is +1 for pairs with equal ids and -1 otherwise. Arguments and metrics as in `softmax_loss`.
    """
    logits = logit_scale * similarity(image, text, precision=precision) + logit_bias
    pairs = jnp.eye(logits.shape[0], dtype=bool) if ids is None else positive_pairs(ids)
    loss = jnp.mean(jnp.sum(-jax.nn.log_sigmoid(jnp.where(pairs, logits, -logits)), axis=1))
    return loss, {"accuracy": _accuracy(logits, ids)}


def _accuracy(logits: Float[Array, "B B"], ids: UInt[Array, "B 2"] | None) -> Float[Array, ""]:
    """Share of rows and columns whose largest logit is a positive."""
    logits = jax.lax.stop_gradient(logits)
    index = jnp.arange(logits.shape[0])
    by_row, by_column = logits.argmax(axis=1), logits.argmax(axis=0)
    if ids is None:
        hits = (by_row == index, by_column == index)
    else:
        hits = ((ids[by_row] == ids).all(axis=-1), (ids[by_column] == ids).all(axis=-1))
    return 0.5 * (hits[0].mean() + hits[1].mean())
