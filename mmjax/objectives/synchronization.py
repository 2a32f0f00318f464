"""Synchronisation of a video with its sound: a contrast between shifts of one clip in time."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.objectives import token_loss
from mmjax.objectives.cross_entropy import cross_entropy


def shifted_similarities(video: Float[Array, "B M E"], audio: Float[Array, "B N E"]) -> Float[Array, "B M K"]:
    """Similarities of a clip's windows of video with the windows of sound at each shift.

    Args:
      video: unit rows, of windows one frame apart.
      audio: unit rows of N = M + K - 1 windows, one frame apart.

    Returns:
      Of window m and shift k the product of video m and audio m + k, float32.
    """
    windows, shifts = video.shape[1], audio.shape[1] - video.shape[1] + 1
    index = jnp.arange(windows)[:, None] + jnp.arange(shifts)
    return jnp.einsum("BME,BMKE->BMK", video, audio[:, index], precision="highest")


def synchronization_loss(
    similarities: Float[Array, "B M K"], shift: Int[Array, " B"], logit_scale: float | Float[Array, ""]
) -> token_loss.TokenLoss:
    """Softmax cross-entropy over the shifts of a clip: the true one is the positive, the others are hard negatives.

    With one window that is the multi-way matching of Perfect Match (arXiv:1809.08001), with the scaled cosines of CLIP
    in place of inverse distances. Of several windows the mean of the similarities is taken at each shift, as SyncNet
    (Chung and Zisserman 2016) does of distances in evaluation: windows in which nothing happens tell no shift.

    Args:
      similarities: as `shifted_similarities` gives them.
      shift: the true one, in [0, K).
      logit_scale: of the similarities.

    Returns:
      Sums per example, with `sync_accuracy`: how often the largest logit is at most one frame from the true shift.
    """
    logits = logit_scale * similarities.astype(jnp.float32).mean(axis=1)
    near = (jnp.abs(jnp.argmax(logits, axis=-1) - shift) <= 1).astype(jnp.float32)
    return token_loss.over_tokens(cross_entropy(logits, shift), jnp.ones(shift.shape, bool), {"sync_accuracy": near})
