"""Triplet loss with negatives from the batch (VSE++)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt

from mmjax.objectives import contrastive, tiled_logits

NEGATIVES = ("hardest", "semi-hard", "sum")


def triplet_loss(
    image: contrastive.Images,
    text: Float[Array, "B E"],
    ids: UInt[Array, "B W"] | None = None,
    *,
    margin: float | Float[Array, ""] = 0.2,
    negatives: str = "hardest",
    mesh: Mesh | None = None,
    precision: str = "highest",
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """Hinge on how much more similar a negative is than the pair, images to texts and texts to images.

    Each direction is the mean over rows of `max(0, margin + s_ij - s_ii)`, with j the negative chosen or summed over
    all; the loss is the mean of both directions (arXiv:1707.05612 sums them). A row without a negative counts 0.

    Args:
      image, text: unit rows; row i of each is a pair. Of several vectors of an image the one most similar counts.
      ids: rows with equal ids are never negatives of one another; None when every row is its own class.
      margin: in units of cosine similarity.
      negatives: `hardest`, the most similar one (VSE++); `semi-hard`, the most similar of those less similar than the
        pair, else the least similar of all (FaceNet, arXiv:1503.03832, as TensorFlow Addons completes it); `sum`, all.
      mesh: the devices that share the rows; None for one device.
      precision: of the matrix product.

    Returns:
      The loss and metrics: `accuracy` as in `contrastive.softmax_loss`.

    Raises:
      ValueError: unknown `negatives`.
    """
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives={negatives!r} is not one of {NEGATIVES}")
    image, text = contrastive.spread(mesh, image.astype(jnp.float32), text.astype(jnp.float32))
    similarities = contrastive.similarity(image, text, precision=precision)
    pairs = contrastive.pair_matrix(len(image), ids)
    paired = contrastive.paired_similarity(image, text)
    losses = []
    for axis in (1, 0):
        positive = jnp.expand_dims(paired, axis)
        if negatives == "sum":
            hinge = jax.nn.relu(margin + similarities - positive)
            losses.append(jnp.sum(jnp.where(pairs, 0.0, hinge), axis))
            continue
        # NEG_INF, not 0, where there is no negative: similarities may all be below 0. A hinge of it is 0.
        hardest = jnp.max(jnp.where(pairs, tiled_logits.NEG_INF, similarities), axis)
        if negatives == "semi-hard":
            semi = jnp.max(jnp.where(pairs | (similarities >= positive), tiled_logits.NEG_INF, similarities), axis)
            easiest = -jnp.max(jnp.where(pairs, tiled_logits.NEG_INF, -similarities), axis)
            none = hardest == tiled_logits.NEG_INF
            hardest = jnp.where(semi > tiled_logits.NEG_INF, semi, jnp.where(none, tiled_logits.NEG_INF, easiest))
        losses.append(jax.nn.relu(margin + hardest - paired))
    loss = 0.5 * (jnp.mean(losses[0]) + jnp.mean(losses[1]))
    return loss, {"accuracy": contrastive.matrix_accuracy(similarities, pairs)}
