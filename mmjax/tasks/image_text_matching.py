"""Image-text matching: pairs as they are against pairs with one side exchanged for a hard negative (ALBEF)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.models.encoders import Encoded
from mmjax.nn import layers
from mmjax.objectives import matching
from mmjax.parallel import activation_sharding, sharded_gather
from mmjax.parallel.mesh import map_microbatches
from mmjax.tasks.batch_features import BatchFeatures, draw_keys
from mmjax.tasks.objective import GlobalBatch, Objective
from mmjax.utils.random_streams import ExampleStream

# What is matched of each example, in the order of the logits: 0 is the pair itself.
_WITH_OTHER_TEXT, _WITH_OTHER_IMAGE = 1, 2


def text_tokens(features: BatchFeatures) -> Encoded:
    """What the loss needs of each example's text, which may then be paired anew; as long as the batch's texts are."""
    text = features.text
    if getattr(features.model, "fuse_reads_words", False):  # its text tokens would be exchanged for nothing
        text = text._replace(tokens=text.tokens[:, :, :0], layers=None)
    if not features.cut:
        return text
    pad = lambda x: jnp.pad(x, ((0, 0), (0, features.cut), *((0, 0),) * (x.ndim - 2)))
    return text._replace(tokens=pad(text.tokens), valid=pad(text.valid))


def loss(inputs: GlobalBatch) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Two-way cross-entropy over pairs, pairs with another text and pairs with another image.

    The others are drawn by the contrastive similarities where the model is trained with them, else uniformly; never one
    that shares the id. Pairs are fused in microbatches; negatives are of the whole batch.
    """
    with activation_sharding.activation_mesh(inputs.mesh):
        return _loss(inputs)


def _loss(inputs: GlobalBatch) -> tuple[Float[Array, ""], dict[str, Array]]:
    features, batch, settings, mesh = inputs.features, inputs.batch, inputs.settings, inputs.mesh
    scope = settings.loss.itm_negatives
    image, text = (features.get(name, jnp.zeros((len(batch["text"]), 1))) for name in ("image", "text"))
    negatives = matching.hard_negatives(
        image,
        text,
        inputs.logit_scale,
        batch["id"],
        draw_keys(inputs.keys, batch["id"], ExampleStream.DRAW_NEGATIVES),
        mesh=mesh,
        scope=scope,
        block_size=settings.loss.block_size,
        precision=settings.loss.precision,
    )
    images, texts = features["image_tokens"], (features["text_tokens"], batch["text"])
    other_images = sharded_gather.gather_rows(images, negatives.image_for_text, mesh=mesh, scope=scope)
    other_texts = sharded_gather.gather_rows(texts, negatives.text_for_image, mesh=mesh, scope=scope)
    examples = (images, other_images, texts, other_texts, inputs.keys if inputs.noise else None)
    logits = map_microbatches(
        functools.partial(_logits_of_pairs, inputs.model), examples, inputs.pieces, mesh
    ).swapaxes(0, 1)
    return matching.itm_loss(logits.reshape(-1, 2), *matching.itm_targets(negatives.has_negative))


def _logits_of_pairs(model: Any, examples: tuple[Any, ...]) -> Float[Array, "b 3 2"]:
    """Logits of the pairs themselves, with another text, and with another image."""
    images, other_images, texts, other_texts, keys = examples

    def match(pair):
        encoded, words = _where(pair == _WITH_OTHER_TEXT, other_texts, texts)
        image = _where(pair == _WITH_OTHER_IMAGE, other_images, images)
        pair_keys = layers.fold_keys(keys, ExampleStream.MATCHING + pair)
        return model.match_logits(model.fuse(image, encoded, words, pair_keys))

    # One pair after the other, computed again for the gradient: a batch of fused tokens is a lot to hold.
    pairs = jnp.arange(_WITH_OTHER_IMAGE + 1)
    return jax.lax.map(jax.checkpoint(match), pairs).swapaxes(0, 1)


def _where(condition: Any, tree: Any, other: Any) -> Any:
    """A tree's leaves where the condition holds, else the other's."""
    return jax.tree.map(lambda leaf, other_leaf: jnp.where(condition, leaf, other_leaf), tree, other)


MATCHING = Objective(
    loss, scope="batch", needs=("matching",), features=("image_tokens", "text_tokens"), head="match", draws=True
)
