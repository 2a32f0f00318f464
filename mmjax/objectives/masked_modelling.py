"""Masked modelling: of tokens (BERT's MLM) and of image patches (MAE's pixel regression)."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32, Key

from mmjax.objectives import token_loss
from mmjax.objectives.cross_entropy import cross_entropy


def mask_tokens(
    text: Int32[Array, "B L"],
    text_mask: Bool[Array, "B L"],
    keys: Key[Array, " B"],
    *,
    vocab_size: int,
    mask_id: int,
    special_ids: Sequence[int],
    rate: float = 0.15,
) -> tuple[Int32[Array, "B L"], Bool[Array, "B L"]]:
    """Chooses tokens to predict; 80 % of them become the mask token, 10 % a random one, 10 % stay (arXiv:1810.04805).

    Each token that is neither special nor padding is chosen with probability `rate`; where that chooses none of a
    text, one drawn uniformly is.

    Args:
      text: token ids.
      text_mask: True where there is text.
      keys: one per example, used for nothing else.
      vocab_size: random tokens come from [0, vocab_size).
      mask_id: what most chosen tokens become.
      special_ids: never chosen and never put in (bos, eos, pad, sep ...); `mask_id` is always one of them.
      rate: in (0, 1].

    Returns:
      The model's inputs, and which tokens are to be predicted.

    Raises:
      ValueError: a rate or an id out of range, or a vocabulary without an ordinary token.
    """
    special = sorted({int(mask_id), *(int(i) for i in special_ids)})
    if not 0.0 < rate <= 1.0:
        raise ValueError(f"rate={rate} must be above 0 and at most 1")
    if special[0] < 0 or special[-1] >= vocab_size:
        raise ValueError(f"special ids {special} must lie in [0, vocab_size={vocab_size})")
    if len(special) == vocab_size:
        raise ValueError(f"all {vocab_size} ids are special; no random token can be drawn")
    free = text_mask & ~jnp.isin(text, jnp.array(special, text.dtype))

    def choose(key, text, free):
        which, how, other = jax.random.split(key, 3)
        # The least of the uniform numbers is chosen whatever it is: then no text goes without.
        u = jnp.where(free, jax.random.uniform(which, text.shape), 2.0)
        chosen = free & ((u < rate) | (u == u.min()))
        token = jax.random.randint(other, text.shape, 0, vocab_size - len(special), text.dtype)
        for i in special:  # ascending, so that each moves the tokens from its own place on by one
            token += token >= i
        v = jax.random.uniform(how, text.shape)
        return jnp.where(chosen & (v < 0.8), mask_id, jnp.where(chosen & (v >= 0.9), token, text)), chosen

    return jax.vmap(choose)(keys, text, free)


def mlm_loss(
    logits: Float[Array, "B L V"], targets: Int[Array, "B L"], mask: Bool[Array, "B L"]
) -> token_loss.TokenLoss:
    """Cross-entropy of the masked tokens.

    Args:
      logits: of each place.
      targets: the text as it was.
      mask: which were masked, from `mask_tokens`.

    Returns:
      Sums per example, with `mlm_accuracy`: how often the largest logit is the token.
    """
    hits = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    return token_loss.over_tokens(cross_entropy(logits, targets), mask, {"mlm_accuracy": hits})


def mask_patches(keys: Key[Array, " B"], count: int, ratio: float) -> Bool[Array, "B N"]:
    """Masks exactly `round(count * ratio)` of an image's patches, any of them alike (MAE, arXiv:2111.06377).

    Args:
      keys: one per example, used for nothing else.
      count: patches of an image, N.
      ratio: share to mask, 0.75 in MAE.

    Raises:
      ValueError: a ratio that masks none, or leaves none.
    """
    masked = round(count * ratio)
    if not 0 < masked < count:
        raise ValueError(f"ratio={ratio} masks {masked} of {count} patches; at least one must be masked and one left")
    noise = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys)
    return jnp.argsort(jnp.argsort(noise, axis=1), axis=1) < masked


def patch_targets(images: Float[Array, "B H W C"], patch_size: int, normalize: bool = True) -> Float[Array, "B N P"]:
    """The pixels of each patch, rows of patches first, and within a patch rows, columns, channels.

    Args:
      images: as the model sees them.
      patch_size: side in pixels.
      normalize: each patch to mean 0 and variance 1, as MAE's better variant (unbiased variance, epsilon 1e-6).

    Raises:
      ValueError: patches that do not tile the image.
    """
    batch, height, width, channels = images.shape
    if height % patch_size or width % patch_size:
        raise ValueError(f"patches of {patch_size} pixels do not tile an image of {height} x {width}")
    rows, columns = height // patch_size, width // patch_size
    x = images.astype(jnp.float32).reshape(batch, rows, patch_size, columns, patch_size, channels)
    x = x.swapaxes(2, 3).reshape(batch, rows * columns, -1)
    if not normalize:
        return x
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True, ddof=1) + 1e-6)


def masked_patch_loss(
    prediction: Float[Array, "B N P"],
    images: Float[Array, "B H W C"],
    mask: Bool[Array, "B N"],
    *,
    normalize: bool = True,
) -> token_loss.TokenLoss:
    """Mean squared error over the pixels of a patch, of the masked patches (MAE, arXiv:2111.06377).

    Args:
      prediction: of every patch's pixels, in the order of `patch_targets`.
      images: as the model sees them.
      mask: True where the patch was hidden.
      normalize: see `patch_targets`.

    Returns:
      Sums per example; the count is that of masked patches.

    Raises:
      ValueError: a prediction of other patches than square ones that tile the image.
    """
    height, width, channels = images.shape[1:]
    count, pixels = prediction.shape[1:]
    side = max(1, math.isqrt(pixels // channels))
    if side * side * channels != pixels or count * side * side != height * width:
        raise ValueError(
            f"a prediction of {count} patches of {pixels} numbers does not fit images of shape {images.shape[1:]}"
        )
    targets = patch_targets(images, side, normalize)
    return token_loss.over_tokens(jnp.mean((prediction.astype(jnp.float32) - targets) ** 2, axis=-1), mask, {})
