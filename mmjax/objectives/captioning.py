"""Captioning: the cross-entropy of each next token."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.objectives import token_loss
from mmjax.objectives.cross_entropy import cross_entropy


def caption_loss(
    logits: Float[Array, "B L V"],
    targets: Int[Array, "B L"],
    mask: Bool[Array, "B L"],
    label_smoothing: float = 0.0,
) -> token_loss.TokenLoss:
    """Teacher-forced captioning: cross-entropy of every token given those before it.

    Args:
      logits: for the token after each input; with texts [B, L + 1], inputs are `text[:, :-1]`.
      targets: that token, `text[:, 1:]`.
      mask: which are counted, `text_mask[:, 1:]`.
      label_smoothing: share of the target spread evenly over the vocabulary (0.1 in BLIP, arXiv:2201.12086).

    Returns:
      Sums per example, with `caption_accuracy`: how often the largest logit is the target.

    Raises:
      ValueError: label_smoothing outside of [0, 1).
    """
    hits = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    losses = cross_entropy(logits, targets, label_smoothing)
    return token_loss.over_tokens(losses, mask, {"caption_accuracy": hits})
