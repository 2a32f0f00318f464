"""Objectives between the examples of a batch: contrast (softmax, sigmoid, triplet), and image-text matching."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.config.schema import RunConfig
from mmjax.errors import UserError
from mmjax.models.config import ContrastConfig, QFormerConfig
from mmjax.models.encoders import Encoded
from mmjax.nn import layers
from mmjax.objectives import contrastive, matching, triplet
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import sharded_gather
from mmjax.parallel.mesh import map_microbatches
from mmjax.tasks.objective import BatchFeatures, GlobalBatch, Objective, draw_keys
from mmjax.utils.random_streams import ExampleStream

Loss = tuple[Float[Array, ""], dict[str, Any]]


def _over_pairs(loss: Callable[[GlobalBatch, Array, Array], Loss]) -> Callable[[GlobalBatch], Loss]:
    """A contrastive loss of two modalities as one of all pairs that are contrasted: the weighted sum."""

    @functools.wraps(loss)
    def total(inputs: GlobalBatch) -> Loss:
        features = inputs.features
        if len(inputs.pairs) == 1:
            ((first, second, _),) = inputs.pairs
            return loss(inputs, features[first], features[second])
        value, metrics = jnp.zeros(()), {}
        for first, second, weight in inputs.pairs:
            part, of_pair = loss(inputs, features[first], features[second])
            value = value + weight * part
            metrics |= {f"{name}_{first}_{second}": metric for name, metric in of_pair.items()}
        return value, metrics

    return total


@_over_pairs
def _softmax(inputs: GlobalBatch, image: Array, text: Array) -> Loss:
    return contrastive.softmax_loss(
        image,
        text,
        inputs.logit_scale,
        inputs.ids,
        label_smoothing=inputs.settings.loss.contrastive_smoothing,
        impl=inputs.settings.loss.impl,
        mesh=inputs.mesh,
        block_size=inputs.settings.loss.block_size,
        precision=inputs.settings.loss.precision,
    )


@_over_pairs
def _sigmoid(inputs: GlobalBatch, image: Array, text: Array) -> Loss:
    return contrastive.sigmoid_loss(
        image,
        text,
        inputs.logit_scale,
        inputs.params["logit_bias"],
        inputs.ids,
        impl=inputs.settings.loss.impl,
        mesh=inputs.mesh,
        block_size=inputs.settings.loss.block_size,
        precision=inputs.settings.loss.precision,
    )


@_over_pairs
def _triplet(inputs: GlobalBatch, image: Array, text: Array) -> Loss:
    return triplet.triplet_loss(
        image,
        text,
        inputs.ids,
        margin=inputs.settings.loss.triplet_margin,
        negatives=inputs.settings.loss.triplet_negatives,
        mesh=inputs.mesh,
        precision=inputs.settings.loss.precision,
    )


def _check_softmax(config: RunConfig) -> None:
    smoothing = config.loss.contrastive_smoothing
    _require_dense(config, f"loss.contrastive_smoothing={smoothing}" if smoothing else "")
    _check_vectors(config)


def _check_sigmoid(config: RunConfig) -> None:
    if not (isinstance(config.model, ContrastConfig) and config.model.logit_bias_init is not None):
        raise UserError("objectives.sigmoid needs model.logit_bias_init, which is None; SigLIP uses -10.0")
    _check_vectors(config)


def _check_triplet(config: RunConfig) -> None:
    _require_dense(config, "objectives.triplet")


def _check_vectors(config: RunConfig) -> None:
    is_qformer = isinstance(config.model, QFormerConfig)
    _require_dense(config, "model.kind='qformer' (several vectors an image)" if is_qformer else "")


def _require_dense(config: RunConfig, reason: str) -> None:
    """Checks that the batch is compared on one device, where there is a reason for that."""
    if reason and config.loss.impl != "dense":
        raise UserError(f"loss.impl={config.loss.impl!r} does not go with {reason}; set 'dense'")


# -- image-text matching: pairs as they are against pairs with one side exchanged for a hard negative (ALBEF) ----------

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


def _matching(inputs: GlobalBatch) -> Loss:
    """Two-way cross-entropy over pairs, pairs with another text and pairs with another image.

    The others are drawn by the contrastive similarities where the model is trained with them, else uniformly; never one
    that shares an id. Pairs are fused in microbatches; negatives are of the whole batch.
    """
    with mesh_lib.activation_mesh(inputs.mesh):
        return _matching_loss(inputs)


def _matching_loss(inputs: GlobalBatch) -> Loss:
    features, batch, settings, mesh = inputs.features, inputs.batch, inputs.settings, inputs.mesh
    scope = settings.loss.itm_negatives
    ((seen, _, _),) = inputs.pairs
    image, text = (features.get(name, jnp.zeros((len(batch["text"]), 1))) for name in (seen, "text"))
    negatives = matching.hard_negatives(
        image,
        text,
        inputs.logit_scale,
        batch["id"] if inputs.ids is None else inputs.ids,
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


_CONTRAST: dict[str, Any] = dict(scope="batch", needs=("embeddings",), features=("embeddings",), contrast=True)
SOFTMAX = Objective(_softmax, check_config=_check_softmax, **_CONTRAST)
SIGMOID = Objective(_sigmoid, check_config=_check_sigmoid, **_CONTRAST)
TRIPLET = Objective(_triplet, check_config=_check_triplet, **_CONTRAST)
MATCHING = Objective(
    _matching, scope="batch", needs=("matching",), features=("image_tokens", "text_tokens"), head="match", draws=True
)
