"""Contrastive losses over the whole batch: softmax (CLIP) and sigmoid (SigLIP).

The arrays are the global batch, under `jit` on a mesh spread over the devices. One value and one gradient,
computed in one of three ways (`impl`):

- `dense`: one matrix of logits, spread over the mesh by the compiler, with what autodiff keeps of it.
- `gather`, `ring`: tile by tile, see `mmjax.objectives.tiled_logits`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, UInt

from mmjax.objectives import tiled_logits, tiled_sigmoid, tiled_softmax
from mmjax.parallel import mesh as mesh_lib
from mmjax.utils.largest import largest

Metrics = dict[str, Any]
IMPLEMENTATIONS = ("dense", "gather", "ring")
# One vector an image, or Q of them of which the one most similar to a text counts (BLIP-2's queries).
Images = Float[Array, "B E"] | Float[Array, "B Q E"]


def similarity(image: Images, text: Float[Array, "B E"], *, precision: str = "highest") -> Float[Array, "B B"]:
    """Inner products in float32; of several vectors of an image, the largest.

    The default precision would be bfloat16 passes on TPU and TF32 on NVIDIA.
    """
    image, text = image.astype(jnp.float32), text.astype(jnp.float32)
    if image.ndim == 3:
        return largest(jnp.einsum("iQE,jE->iQj", image, text, precision=precision), 1)
    return jnp.einsum("iE,jE->ij", image, text, precision=precision)


def softmax_loss(
    image: Images,
    text: Float[Array, "B E"],
    logit_scale: Float[Array, ""],
    ids: UInt[Array, "B W"] | None = None,
    *,
    impl: str = "dense",
    mesh: Mesh | None = None,
    block_size: int = 1024,
    precision: str = "highest",
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Metrics]:
    """Symmetric InfoNCE with any number of positives.

    Each direction is the mean over rows of `-1/|P_i| sum_{p in P_i} log softmax(logits_i)_p` (SupCon's L_out,
    arXiv:2004.11362); with unique ids that is CLIP's loss (arXiv:2103.00020).

    Args:
      image, text: unit rows; row i of each is a pair. Of several vectors of an image the one most similar to a text
        counts (BLIP-2, arXiv:2301.12597), for `dense` only.
      logit_scale: the multiplier itself, not its logarithm.
      ids: rows with equal ids (of two words) are positives of one another, and of several ids of a row those with any
        equal one; None when every row is its own class (nothing is compared).
      impl: a name in `IMPLEMENTATIONS`.
      mesh: the devices that share the rows; None for one device. `gather` and `ring` split the rows over all axes.
      block_size: rows and columns of a tile of logits at most, for `gather` and `ring`.
      precision: of the matrix products.
      label_smoothing: share of each row's target spread evenly over all columns, for `dense` only (0.1 in BLIP-2).

    Returns:
      The loss in nats and metrics: `accuracy` in [0, 1], the mean over both directions of how often the largest
      logit is a positive (not, when a negative is as large).

    Raises:
      ValueError: an unknown `impl`, label_smoothing outside of [0, 1), and for `gather` and `ring` rows that do not
        divide over the mesh, several vectors an image or label smoothing.
    """
    image, text = image.astype(jnp.float32), text.astype(jnp.float32)
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing={label_smoothing} must be at least 0 and below 1")
    if impl != "dense":
        if label_smoothing:
            raise ValueError(f"label_smoothing={label_smoothing} needs impl='dense', not {impl!r}")
        layout = _layout(image, ids, impl, mesh, block_size, precision)
        loss, accuracy = tiled_softmax.softmax(layout, image, text, logit_scale, ids)
        return loss, {"accuracy": jax.lax.stop_gradient(accuracy)}
    image, text = spread(mesh, image, text)
    logits = logit_scale * similarity(image, text, precision=precision)
    pairs = pair_matrix(len(image), ids)
    # The log-sum-exp over the negatives is kept apart from that over the positives, see `tiled_softmax`.
    negatives = jnp.where(pairs, tiled_logits.NEG_INF, logits)
    losses = []
    for axis in (1, 0):
        if ids is None:
            # Not jnp.diag: the diagonal of a sharded matrix costs stray gathers.
            lse = logit_scale * paired_similarity(image, text)
            loss = nll = jax.nn.softplus(jax.nn.logsumexp(negatives, axis=axis) - lse)
        else:
            count = pairs.sum(axis=1).astype(jnp.float32)
            lse = jax.nn.logsumexp(jnp.where(pairs, logits, tiled_logits.NEG_INF), axis=axis)
            mean = jnp.where(pairs, logits, 0.0).sum(axis=axis) / count
            nll = jax.nn.softplus(jax.nn.logsumexp(negatives, axis=axis) - lse)
            loss = nll + lse - mean
        if label_smoothing:
            even = nll + lse - jnp.mean(logits, axis=axis)
            loss = (1.0 - label_smoothing) * loss + label_smoothing * even
        losses.append(loss)
    return 0.5 * (jnp.mean(losses[0]) + jnp.mean(losses[1])), {"accuracy": matrix_accuracy(logits, pairs)}


def sigmoid_loss(
    image: Images,
    text: Float[Array, "B E"],
    logit_scale: Float[Array, ""],
    logit_bias: Float[Array, ""],
    ids: UInt[Array, "B W"] | None = None,
    *,
    impl: str = "dense",
    mesh: Mesh | None = None,
    block_size: int = 1024,
    precision: str = "highest",
) -> tuple[Float[Array, ""], Metrics]:
    """SigLIP's loss: `-1/B sum_ij log sigmoid(z_ij (scale x_i . y_j + bias))` (arXiv:2303.15343).

    z is +1 for pairs with equal ids and -1 otherwise. Arguments, metrics and errors as in `softmax_loss`.
    """
    image, text = image.astype(jnp.float32), text.astype(jnp.float32)
    if impl != "dense":
        layout = _layout(image, ids, impl, mesh, block_size, precision)
        loss, accuracy = tiled_sigmoid.sigmoid(layout, image, text, logit_scale, logit_bias, ids)
        return loss, {"accuracy": jax.lax.stop_gradient(accuracy)}
    image, text = spread(mesh, image, text)
    logits = logit_scale * similarity(image, text, precision=precision) + logit_bias
    pairs = pair_matrix(len(image), ids)
    loss = jnp.mean(jnp.sum(jax.nn.softplus(jnp.where(pairs, -logits, logits)), axis=1))
    return loss, {"accuracy": matrix_accuracy(logits, pairs)}


def _layout(
    image: Images, ids: Any, impl: str, mesh: Mesh | None, block_size: int, precision: str
) -> tiled_logits.Layout:
    batch = len(image)
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl={impl!r} is not one of {IMPLEMENTATIONS}")
    if block_size < 1:
        raise ValueError(f"block_size={block_size} must be at least 1")
    if image.ndim == 3:
        raise ValueError(f"{image.shape[1]} vectors an image need impl='dense', not {impl!r}")
    if mesh is not None and batch % mesh.size:
        raise ValueError(f"{batch} rows do not divide over {mesh.size} devices, which impl={impl!r} needs")
    return tiled_logits.Layout(impl, mesh, block_size, precision, unique=ids is None)


def paired_similarity(image: Images, text: Float[Array, "B E"]) -> Float[Array, " B"]:
    """Similarity of the two sides of each pair."""
    if image.ndim == 3:
        return largest(jnp.sum(image * text[:, None], axis=-1), 1)
    return jnp.sum(image * text, axis=-1)


def spread(mesh: Mesh | None, *arrays: Array) -> tuple[Array, ...]:
    """Rows over all devices where they divide, so that a `tensor` device does not repeat its neighbour's logits."""
    if mesh is None or len(arrays[0]) % mesh.size:
        return arrays
    return tuple(jax.lax.with_sharding_constraint(x, mesh_lib.rows_over_all(mesh)) for x in arrays)


def pair_matrix(batch: int, ids: UInt[Array, "B W"] | None) -> Bool[Array, "B B"]:
    """Which image and text belong together: those that share a 64-bit id (two 32-bit words); pairs without ids."""
    return jnp.eye(batch, dtype=bool) if ids is None else tiled_logits.positives(ids, ids)


def matrix_accuracy(logits: Float[Array, "B B"], pairs: Bool[Array, "B B"]) -> Float[Array, ""]:
    """Share of rows and columns whose largest logit is a positive."""
    logits = jax.lax.stop_gradient(logits)
    positive, negative = jnp.where(pairs, logits, -jnp.inf), jnp.where(pairs, -jnp.inf, logits)
    rows, columns = ((positive.max(axis) > negative.max(axis)).mean() for axis in (1, 0))
    return 0.5 * (rows + columns)
