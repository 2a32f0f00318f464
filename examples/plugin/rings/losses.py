"""Objectives of both scopes: alignment and uniformity on the hypersphere (arXiv:2005.10242)."""

from dataclasses import dataclass

import jax.numpy as jnp

from mmjax.plugin import BatchFeatures, GlobalBatch, Objective, Settings, TokenLoss, objectives


def alignment(features: BatchFeatures, settings: Settings) -> TokenLoss:
    """The squared distance of an image and its text: one term an example, summed over microbatches."""
    distance = ((features.embeddings["image"] - features.embeddings["text"]) ** 2).sum(axis=-1)
    return TokenLoss(distance, jnp.ones_like(distance), {})


objectives.register("alignment")(Objective(alignment, scope="example", needs=("embeddings",)))


@dataclass(frozen=True)
class UniformityConfig:
    """How sharply near neighbours are pushed apart."""

    sharpness: float = 2.0
    """t of exp(-t d^2)"""


def uniformity(inputs: GlobalBatch):
    """The logarithm of the mean potential between the images of the global batch, and between its texts."""
    terms = []
    for name in ("image", "text"):
        x = inputs.features[name].astype(jnp.float32)
        distance = 2 - 2 * jnp.einsum("iE,jE->ij", x, x, precision="highest")
        others = ~jnp.eye(len(x), dtype=bool)
        potential = jnp.where(others, jnp.exp(-inputs.settings.fields.sharpness * distance), 0).sum() / others.sum()
        terms.append(jnp.log(potential))
    return (terms[0] + terms[1]) / 2, {"uniformity_image": terms[0], "uniformity_text": terms[1]}


objectives.register("uniformity", config=UniformityConfig)(
    Objective(uniformity, scope="batch", needs=("embeddings",), features=("embeddings",))
)
