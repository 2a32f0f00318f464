"""Separation of sounds by masks of spectrograms (Sound of Pixels, arXiv:1804.03160): masks and their loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.objectives.token_loss import TokenLoss

_SILENCE = 1e-10  # is added to a mixture's magnitudes
_WEIGHTS = (1e-3, 10.0)


def mask_targets(
    target: Float[Array, "B T F"], mixture: Float[Array, "B T F"], kind: str = "binary"
) -> Float[Array, "B T F"]:
    """The masks of sounds in mixtures, by their magnitudes.

    Args:
      target: magnitudes of the sounds, as loud as they are in the mixtures.
      mixture: magnitudes of the mixtures.
      kind: `binary`, 1 where the sound has more than half of the mixture's magnitude; `ratio`, its share, at most 1.
        Sounds that cancel out have larger ones; Sound of Pixels clips those at 5, which no mask reaches.
    """
    mixture = mixture + _SILENCE
    if kind == "binary":
        return (target > 0.5 * mixture).astype(jnp.float32)
    return jnp.minimum(target / mixture, 1.0)


def mask_loss(
    logits: Float[Array, "B T F"],
    target: Float[Array, "B T F"],
    mixture: Float[Array, "B T F"],
    *,
    kind: str = "binary",
    loss: str = "bce",
    weighted: bool = True,
) -> TokenLoss:
    """The mean over an example's cells of the loss of a mask.

    Args:
      logits: of the mask.
      target, mixture: see `mask_targets`.
      kind: of the mask, see `mask_targets`.
      loss: `bce`, cross-entropy in nats, or `l1`, the absolute difference.
      weighted: cells count by log(1 + the mixture's magnitude), clipped to [1e-3, 10]; the weights are not normalised.
    """
    masks, logits = mask_targets(target, mixture, kind), logits.astype(jnp.float32)
    if loss == "bce":
        values = -masks * jax.nn.log_sigmoid(logits) - (1 - masks) * jax.nn.log_sigmoid(-logits)
    else:
        values = jnp.abs(jax.nn.sigmoid(logits) - masks)
    if weighted:
        values = values * jnp.clip(jnp.log1p(mixture + _SILENCE), *_WEIGHTS)
    total = values.mean(axis=(1, 2))
    return TokenLoss(total, jnp.ones_like(total), {})
