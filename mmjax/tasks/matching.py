"""Image-text matching: pairs as they are against pairs with one side exchanged for a hard negative (ALBEF)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from mmjax.nn import dropout
from mmjax.objectives import matching
from mmjax.parallel import exchange
from mmjax.tasks.objectives import MATCHING
from mmjax.tasks.views import Views, draw_keys


def features(views: Views) -> dict[str, Any]:
    """What the loss needs of each example: tokens of both sides, which may then be paired anew."""
    return {"image_tokens": views.image, "text_tokens": views.text}


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
    """
    rows, scope = len(batch["text"]), settings.loss.itm_negatives
    image, text = (features.get(name, jnp.zeros((rows, 1))) for name in ("image", "text"))
    negatives = matching.hard_negatives(
        image,
        text,
        jnp.ones(()) if logit_scale is None else logit_scale,
        batch["id"],
        draw_keys(keys, batch["id"], MATCHING),
        mesh=mesh,
        scope=scope,
        block_size=settings.loss.block_size,
        precision=settings.loss.precision,
    )
    pictures, texts = features["image_tokens"], (features["text_tokens"], batch["text"])
    other_pictures = exchange.fetch(pictures, negatives.image_for_text, mesh=mesh, scope=scope)
    other_texts = exchange.fetch(texts, negatives.text_for_image, mesh=mesh, scope=scope)

    def match(pair):
        picture, (encoded, words), noise = pair
        return model.match_logits(model.fuse(picture, encoded, words, noise))

    sides = [(pictures, texts), (pictures, other_texts), (other_pictures, texts)]
    noisy = keys if noise else None
    pairs = [(*side, dropout.fold_keys(noisy, 8 + i)) for i, side in enumerate(sides)]
    # One after the other and computed again for the gradient: three times a batch of fused tokens is a lot to hold.
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
    logits = jax.lax.map(jax.checkpoint(match), stacked)
    labels = jnp.zeros((3, rows), jnp.int32).at[0].set(matching.MATCH)
    weights = jnp.stack([jnp.ones(rows), *[negatives.has_negative.astype(jnp.float32)] * 2])
    return matching.itm_loss(logits.reshape(-1, 2), labels.reshape(-1), weights.reshape(-1))
