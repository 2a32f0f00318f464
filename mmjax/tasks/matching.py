"""Image-text matching: pairs as they are against pairs with one side exchanged for a hard negative (ALBEF)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from mmjax.models.encoders import Encoded
from mmjax.nn import dropout
from mmjax.objectives import matching
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
    rows = len(batch["text"])
    image, text = (features.get(name, jnp.zeros((rows, 1))) for name in ("image", "text"))
    other_image, other_text, usable = matching.hard_negatives(
        jax.lax.stop_gradient(image),
        jax.lax.stop_gradient(text),
        jnp.ones(()) if logit_scale is None else jax.lax.stop_gradient(logit_scale),
        batch["id"],
        draw_keys(keys, batch["id"], MATCHING),
        mesh=mesh,
        scope=settings.loss.itm_negatives,
        block_size=settings.loss.block_size,
    )
    pictures, texts = features["image_tokens"], (features["text_tokens"], batch["text"])
    other_pictures, other_texts = matching.fetch((pictures, other_image), (texts, other_text), mesh=mesh)

    def match(pair):
        picture, (encoded, words), noise = pair
        return model.match_logits(model.fuse(Encoded(*picture), Encoded(*encoded), words, noise))

    sides = [(pictures, texts), (pictures, other_texts), (other_pictures, texts)]
    pairs = [
        (*side, None if keys is None or not noise else dropout.fold_keys(keys, 8 + i)) for i, side in enumerate(sides)
    ]
    # One after the other and computed again for the gradient: three times a batch of fused tokens is a lot to hold.
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
    logits = jax.lax.map(jax.checkpoint(match), stacked).reshape(-1, 2)
    labels = jnp.concatenate([jnp.ones(rows, jnp.int32), jnp.zeros(2 * rows, jnp.int32)])
    weights = jnp.concatenate([jnp.ones(rows), usable.reshape(-1).astype(jnp.float32)])
    return matching.itm_loss(logits, labels, weights)
