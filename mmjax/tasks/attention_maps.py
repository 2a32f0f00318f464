"""Attention maps of a model: where it looks in an image, video or sound, and how similar each part is to a text.

All functions are pure: a model, its parameters and inputs in, arrays out. Attention weights are what the layers sow
into `intermediates`; a call that does not ask for them computes none. A model declares its maps (`attention_maps`) and
says where its weights are (`image_readout`, `word_attention`).
"""

from collections.abc import Callable, Set
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.models.encoders import Encoded
from mmjax.models.sown_attention import Sown, self_attention
from mmjax.tasks.tower_attention import tower_attention

Pixels = Float[Array, "B ..."]  # images [B, H, W, 3], or what the model sees in their place

# The maps by name, each with what a model must have been taught to show something, in the names of `serves`.
MAPS = {
    "image": ("embeddings",),  # the image tower's attention
    "similarity": ("embeddings",),  # of patches to texts
    "read": ("matching", "masked_words", "masked_patches", "answers"),  # words that look at an image: fused
    "written": ("captions",),  # words written about it
}


def available_maps(model: nn.Module, taught: Set[str]) -> tuple[str, ...]:
    """Names in `MAPS` of what a model shows; what was not trained shows nothing.

    Args:
      model: declares its maps in `attention_maps`.
      taught: what it was trained to do, see `Objective.taught`.
    """
    names = [name for name in model.attention_maps if not taught.isdisjoint(MAPS[name])]
    # One strip of words is enough: a model that writes shows what it wrote.
    return tuple(name for name in names if not (name == "read" and "written" in names))


def attention_maps(
    model: nn.Module,
    params: Any,
    pixels: Pixels,
    texts: Int[Array, "B K L"],
    texts_mask: Bool[Array, "B K L"],
    words: Int[Array, "B L"],
    words_mask: Bool[Array, "B L"],
    names: tuple[str, ...],
) -> dict[str, Array]:
    """The named maps of a batch.

    Args:
      model, params: not bound.
      pixels: normalised images, or what the model sees in their place.
      texts, texts_mask: K texts for each image, to compare its patches with.
      words, words_mask: the text that is read with the image, or was written about it.
      names: as `available_maps` gives them.

    Returns:
      Of `image`: see `image_attention`, and of another slot `tower_attention`; of `similarity`: see `similarity`; of
      `read` or `written`: `words` [B, L, N], how much each image token counts for each word (the mean over heads in the
      last layer).
    """
    maps: dict[str, Array] = {}
    if "image" in names:
        attend = image_attention if getattr(model, "seen", "image") == "image" else slot_attention
        maps |= attend(model, params, pixels)
    if "similarity" in names:
        maps |= similarity(model, params, pixels, texts, texts_mask)
    if "read" in names:
        maps["words"] = _read_words(model, params, pixels, words, words_mask)
    if "written" in names:
        maps["words"] = _written_words(model, params, pixels, words, words_mask)
    return maps


# -- the image tower -----------------------------------------------------------------------------------------------


def image_attention(model: nn.Module, params: Any, pixels: Pixels) -> dict[str, Array]:
    """The image tower's attention, as far as the image's embedding depends on it.

    Returns:
      `layers` float32 [B, depth, N, N], each layer's attention, the mean over heads; `reading` [B, N], the share that
      each of the last layer's tokens has in what is embedded; `last` [B, N], where the pooled token looked last: in the
      last layer for a class token or a mean, in the pool itself for a pool with queries of its own.
    """
    count, sown = _run_sowing(_embed_seen(pixels), model, params)
    layers = self_attention(sown, "image", "transformer")[:, :, :count, :count].swapaxes(0, 1)
    readout = model.image_readout(sown)
    if not isinstance(readout, str):
        return {"layers": layers, "reading": readout, "last": readout}
    reading = jnp.broadcast_to(_pooled(readout, count), (len(layers), count))
    return {"layers": layers, "reading": reading, "last": jnp.einsum("BN,BNM->BM", reading, layers[:, -1])}


def slot_attention(model: nn.Module, params: Any, arrays: Pixels) -> dict[str, Array]:
    """The attention of a tower of videos or sounds, as far as the embedding depends on it, see `tower_attention`."""
    count, sown = _run_sowing(_embed_seen(arrays), model, params)
    readout = model.image_readout(sown)
    is_last = not isinstance(readout, str)
    reading = readout if is_last else jnp.broadcast_to(_pooled(readout, count), (len(arrays), count))
    return tower_attention(sown[model.seen], model.seen_settings, reading, is_last=is_last)


def _embed_seen(arrays: Pixels) -> Callable[[Any], int]:
    """Embeds what a model sees; gives the number of its tokens."""

    def embed(model):
        image = model.encode_image(arrays)
        model.embed_image(image)
        return image.tokens.shape[1]

    return embed


def _pooled(pool: str, count: int) -> Float[Array, " N"]:
    """The share of each token in what a pool gives."""
    return jnp.full(count, 1 / count) if pool == "mean" else jax.nn.one_hot({"cls": 0, "last": count - 1}[pool], count)


# -- patches and texts ---------------------------------------------------------------------------------------------


def similarity(
    model: nn.Module, params: Any, pixels: Pixels, texts: Int[Array, "B K L"], masks: Bool[Array, "B K L"]
) -> dict[str, Array]:
    """Cosine similarity of each image token, embedded as if it were the image's only one, with texts.

    For a class-token or mean pool that is the token through the head's projection; for attention pooling, its value
    through the pool (MaskCLIP, arXiv:2112.01071).

    Returns:
      `patches` float32 [B, K, N], and `whole` [B, K], that of the image itself.
    """

    def embed(model):
        image = model.encode_image(pixels)
        batch, count, width = image.tokens.shape
        alone = model.embed_image(Encoded(image.tokens.reshape(batch * count, 1, width)))
        text = model.embed_text(model.encode_text(*(x.reshape(-1, x.shape[-1]) for x in (texts, masks))))
        return model.embed_image(image), alone.reshape(batch, count, -1), text.reshape(*texts.shape[:2], -1)

    image, alone, text = nn.apply(embed, model)({"params": params})
    cosine = lambda equation, x: jnp.einsum(equation, x, text, precision="highest")
    return {"whole": cosine("BE,BKE->BK", image), "patches": cosine("BNE,BKE->BKN", alone)}


# -- words ---------------------------------------------------------------------------------------------------------


def _read_words(model, params, pixels, words, mask) -> Float[Array, "B L N"]:
    """Where words look that are read with the image."""

    def fuse(model):
        image = model.encode_image(pixels)
        model.fuse(image, model.encode_text(words, mask), words)
        return image.tokens.shape[1]

    count, sown = _run_sowing(fuse, model, params)
    return model.word_attention(sown, words.shape[1], count)


def _written_words(model, params, pixels, words, mask) -> Float[Array, "B L N"]:
    """Where the token before each written word looked, since the word was read off it; zeros for the first one."""

    def score(model):
        image = model.encode_image(pixels)
        model.caption_logits(image, words, mask)
        return image.tokens.shape[1]

    count, sown = _run_sowing(score, model, params)
    return jnp.pad(model.word_attention(sown, words.shape[1], count)[:, :-1], ((0, 0), (1, 0), (0, 0)))


def _run_sowing(function: Callable[[Any], Any], model: nn.Module, params: Any) -> tuple[Any, Sown]:
    """A function of the bound model, with what its layers sowed."""
    out, sown = nn.apply(function, model, mutable=["intermediates"])({"params": params})
    return out, sown["intermediates"]
