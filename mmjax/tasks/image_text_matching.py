"""Image-text matching: pairs as they are against pairs with one side exchanged for a hard negative (ALBEF)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from mmjax.nn import dropout
from mmjax.objectives import matching
from mmjax.parallel import sharded_gather
from mmjax.parallel.microbatch import map_microbatches
from mmjax.tasks.batch_features import Views, draw_keys
from mmjax.utils.random_streams import ExampleStream


def features(views: Views) -> dict[str, Any]:
    """What the loss needs of each example: tokens of both sides, which may then be paired anew."""
    text = views.text
    if views.model.fuse_reads_words:  # its text tokens would be exchanged for nothing
        text = text._replace(tokens=text.tokens[:, :, :0], layers=None)
    return {"image_tokens": views.image._replace(layers=None), "text_tokens": text}


def loss(
    model: Any,
    features: dict[str, Any],
    batch: dict[str, Array],
    keys: Key[Array, " B"] | None,
    logit_scale: Float[Array, ""] | None,
    settings: Any,
    mesh: Mesh | None,
    *,
    noise: bool,
    pieces: int = 1,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Two-way cross-entropy over pairs, pairs with another text and pairs with another image.

    The others are drawn by the contrastive similarities where the model has them, else uniformly; never one that shares
    the id.

    Args:
      model: bound to parameters.
      features: `image_tokens` and `text_tokens`, and the embeddings `image` and `text` where there are.
      batch: `text`, `text_mask`, `id`.
      keys: one an example, or None in evaluation.
      logit_scale: the multiplier of the similarities; None where there are none.
      settings: `loss.itm_negatives` (`global` or `local`), `loss.block_size`.
      mesh: the devices that share the batch.
      noise: whether layers draw from `keys` too.
      pieces: microbatches that are fused one after the other; negatives are of the whole batch.
    """
    rows, scope = len(batch["text"]), settings.loss.itm_negatives
    image, text = (features.get(name, jnp.zeros((rows, 1))) for name in ("image", "text"))
    negatives = matching.hard_negatives(
        image,
        text,
        jnp.ones(()) if logit_scale is None else logit_scale,
        batch["id"],
        draw_keys(keys, batch["id"], ExampleStream.DRAW_NEGATIVES),
        mesh=mesh,
        scope=scope,
        block_size=settings.loss.block_size,
        precision=settings.loss.precision,
    )
    pictures, texts = features["image_tokens"], (features["text_tokens"], batch["text"])
    other_pictures = sharded_gather.gather_rows(pictures, negatives.image_for_text, mesh=mesh, scope=scope)
    other_texts = sharded_gather.gather_rows(texts, negatives.text_for_image, mesh=mesh, scope=scope)
    columns = (pictures, other_pictures, texts, other_texts, keys if noise else None)

    def fused(columns):
        """Logits [b, 3, 2] of b rows."""
        pictures, other_pictures, texts, other_texts, noisy = columns

        def match(side):
            """0: the pairs themselves, 1: with another text, 2: with another image."""
            choose = lambda wanted: lambda own, other: jnp.where(side == wanted, other, own)
            encoded, words = jax.tree.map(choose(1), texts, other_texts)
            picture = jax.tree.map(choose(2), pictures, other_pictures)
            side_keys = dropout.fold_keys(noisy, ExampleStream.MATCHING + side)
            return model.match_logits(model.fuse(picture, encoded, words, side_keys))

        # One side after the other, computed again for the gradient: a batch of fused tokens is a lot to hold.
        return jax.lax.map(jax.checkpoint(match), jnp.arange(3)).swapaxes(0, 1)

    logits = map_microbatches(fused, columns, pieces, mesh).swapaxes(0, 1)
    return matching.itm_loss(logits.reshape(-1, 2), *matching.itm_targets(negatives.has_negative))
