"""Objectives that compare the embeddings of a whole batch: softmax, sigmoid and triplet losses."""

from typing import Any

from jaxtyping import Array, Float

from mmjax.objectives import contrastive, triplet
from mmjax.tasks.objective import GlobalBatch, Objective

Loss = tuple[Float[Array, ""], dict[str, Any]]


def _softmax(inputs: GlobalBatch) -> Loss:
    return contrastive.softmax_loss(
        inputs.features["image"],
        inputs.features["text"],
        inputs.logit_scale,
        inputs.ids,
        label_smoothing=inputs.settings.loss.contrastive_smoothing,
        impl=inputs.settings.loss.impl,
        mesh=inputs.mesh,
        block_size=inputs.settings.loss.block_size,
        precision=inputs.settings.loss.precision,
    )


def _sigmoid(inputs: GlobalBatch) -> Loss:
    return contrastive.sigmoid_loss(
        inputs.features["image"],
        inputs.features["text"],
        inputs.logit_scale,
        inputs.params["logit_bias"],
        inputs.ids,
        impl=inputs.settings.loss.impl,
        mesh=inputs.mesh,
        block_size=inputs.settings.loss.block_size,
        precision=inputs.settings.loss.precision,
    )


def _triplet(inputs: GlobalBatch) -> Loss:
    return triplet.triplet_loss(
        inputs.features["image"],
        inputs.features["text"],
        inputs.ids,
        margin=inputs.settings.loss.triplet_margin,
        negatives=inputs.settings.loss.triplet_negatives,
        mesh=inputs.mesh,
        precision=inputs.settings.loss.precision,
    )


_CONTRAST: dict[str, Any] = dict(scope="batch", needs=("embeddings",), features=("embeddings",), contrast=True)
SOFTMAX = Objective(_softmax, **_CONTRAST)
SIGMOID = Objective(_sigmoid, **_CONTRAST)
TRIPLET = Objective(_triplet, **_CONTRAST)
