"""Looking inside a model: where its attention goes in an image, and how similar each patch is to a text.

All functions are pure: a model, its parameters and inputs in, arrays out. Attention weights are what the layers sow
into `intermediates`; a call that does not ask for them computes none.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.models import albef, captioner, coca, prefix_lm, qformer, two_tower, vilt
from mmjax.models.encoders import Encoded

Pixels = Float[Array, "B H W 3"]
Sown = Mapping[str, Any]


def attention_maps(
    model: nn.Module,
    params: Any,
    pixels: Pixels,
    texts: Int[Array, "B K L"],
    texts_mask: Bool[Array, "B K L"],
    words: Int[Array, "B L"],
    words_mask: Bool[Array, "B L"],
    offered: tuple[str, ...],
) -> dict[str, Array]:
    """All that `available_maps` names, for a batch.

    Args:
      model, params: not bound.
      pixels: normalised images.
      texts, texts_mask: K texts for each image, to compare its patches with.
      words, words_mask: the text that is read with the image, or was written about it.
      offered: as `available_maps` gives it.

    Returns:
      Of `image`: see `image_attention`; of `similarity`: see `similarity`; of `read` or `written`: `words` [B, L, N],
      how much each image token counts for each word (the mean over heads in the last layer).
    """
    found: dict[str, Array] = {}
    functions = OFFERS[type(model)]
    for name in offered:
        if name == "image":
            found |= image_attention(model, params, pixels)
        elif name == "similarity":
            found |= similarity(model, params, pixels, texts, texts_mask)
        else:
            found["words"] = functions[name](model, params, pixels, words, words_mask)
    return found


def available_maps(model: nn.Module, objectives: Mapping[str, float]) -> tuple[str, ...]:
    """What can be looked at in a model that was trained with these objectives; what was not trained shows nothing.

    Returns:
      Some of `image` and `similarity`, which contrast trains, `read` (words that look at an image: fused) and `written`
      (words written about it).
    """
    trained = {name for name, weight in objectives.items() if weight}
    wanted = dict(
        image={"itc", "sigmoid", "triplet"},
        similarity={"itc", "sigmoid", "triplet"},
        read={"itm", "mlm", "mim", "vqa"},
        written={"caption"},
    )
    # One strip of words is enough: a model that writes shows what it wrote.
    names = [name for name in OFFERS.get(type(model), ()) if trained & wanted[name]]
    return tuple(name for name in names if not (name == "read" and "written" in names))


# -- the image tower -----------------------------------------------------------------------------------------------


def image_attention(model: nn.Module, params: Any, pixels: Pixels) -> dict[str, Array]:
    """The image tower's attention, as far as the image's embedding depends on it.

    Returns:
      `layers` float32 [B, depth, N, N], each layer's attention, the mean over heads; `reading` [B, N], the share that
      each of the last layer's tokens has in what is embedded; `last` [B, N], where the pooled token looked last: in the
      last layer for a class token or a mean, in the pool itself for a pool with queries of its own.
    """

    def embed(model):
        image = model.encode_image(pixels)
        model.embed_image(image)
        return image.tokens.shape[1]

    count, sown = _run(embed, model, params)
    layers = _mean_heads(_sown(sown, "image", "transformer", "layers", "attention"))[:, :, :count, :count]
    layers = layers.swapaxes(0, 1)
    queries = _QUERIES[type(model)](model, sown)
    if isinstance(queries, str):
        one = {"cls": 0, "last": count - 1}
        reading = jnp.full(count, 1 / count) if queries == "mean" else jax.nn.one_hot(one[queries], count)
        reading = jnp.broadcast_to(reading, (len(layers), count))
        last = jnp.einsum("BN,BNM->BM", reading, layers[:, -1])
    else:
        reading = last = queries
    return {"layers": layers, "reading": reading, "last": last}


def _pool_queries(model: nn.Module, sown: Sown) -> str | Float[Array, "B N"]:
    kind = model.image["pool"]
    return kind if kind != "map" else _mean_heads(_sown(sown, "image_head", "pool", "attention"))[:, 0]


def _last_looks(sown: Sown, *path: str) -> Float[Array, "B T N"]:
    """The last layer's cross-attention."""
    stack = _at(sown, *path)
    stack = stack.get("cross_layers", stack.get("layers"))
    return _mean_heads(_sown(stack.get("block0", stack), "cross_attention")[-1])


# What the image's embedding reads of the last layer's tokens: a kind of pool, or the weights themselves.
_QUERIES: dict[type, Callable[[Any, Sown], str | Float[Array, "B N"]]] = {
    two_tower.TwoTower: _pool_queries,
    coca.CoCa: lambda model, sown: _mean_heads(_sown(sown, "image_pool", "attention"))[:, 0],
    albef.ALBEF: lambda model, sown: "cls",
    qformer.QFormer: lambda model, sown: _last_looks(sown, "text", "transformer").mean(axis=1),
}


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

    whole, alone, text = nn.apply(embed, model)({"params": params})
    cosine = lambda equation, x: jnp.einsum(equation, x, text, precision="highest")
    return {"whole": cosine("BE,BKE->BK", whole), "patches": cosine("BNE,BKE->BKN", alone)}


# -- words ---------------------------------------------------------------------------------------------------------


def _read(path: tuple[str, ...]) -> Callable[..., Float[Array, "B L N"]]:
    """Words whose layers cross-attend to the image's tokens."""

    def looks(model, params, pixels, words, mask):
        return _last_looks(_fused(model, params, pixels, words, mask)[1], *path)[:, : words.shape[1]]

    return looks


def _read_jointly(model, params, pixels, words, mask):
    """Words and patches that are tokens of one stream, the words first."""
    count, sown = _fused(model, params, pixels, words, mask)
    weights = _mean_heads(_sown(sown, "image", "transformer", "layers", "attention")[-1])
    length = words.shape[1]
    return weights[:, :length, length : length + count]


def _fused(model, params, pixels, words, mask):
    def fuse(model):
        image = model.encode_image(pixels)
        model.fuse(image, model.encode_text(words, mask), words)
        return image.tokens.shape[1]

    return _run(fuse, model, params)


def _written(looks: Callable[[Any, Sown, int, int], Float[Array, "B T N"]]) -> Callable[..., Float[Array, "B L N"]]:
    """Words that were written: where the token before each of them looked, since it is what the word was read off."""

    def shifted(model, params, pixels, words, mask):
        def score(model):
            image = model.encode_image(pixels)
            model.caption_logits(image, words, mask)
            return image.tokens.shape[1]

        count, sown = _run(score, model, params)
        found = looks(model, sown, words.shape[1], count)
        return jnp.pad(found[:, :-1], ((0, 0), (1, 0), (0, 0)))

    return shifted


def _captioner_looks(model, params, pixels, words, mask):
    if model.decoder != "lstm":
        return _written(lambda model, sown, length, count: _last_looks(sown, "text", "transformer")[:, :length])(
            model, params, pixels, words, mask
        )
    found = nn.apply(lambda model: model.writer.attention(model.encode_image(pixels), words), model)({"params": params})
    return jnp.pad(found[:, :-1].astype(jnp.float32), ((0, 0), (1, 0), (0, 0)))


def _coca_looks(model, sown, length, count):
    """The decoder looks at the pooler's queries, and these at the image's tokens."""
    pooled = _mean_heads(_sown(sown, "image_pool", "attention"))[:, 1:]
    return jnp.einsum("BTQ,BQN->BTN", _last_looks(sown, "decoder")[:, :length], pooled)


def _prefix_looks(model, sown, length, count):
    """Image tokens stand before the text's."""
    weights = _mean_heads(_sown(sown, "text", "transformer", "layers", "attention")[-1])
    return weights[:, count : count + length, :count]


# What each model offers, by name; `image` and `similarity` are the same for all that have them.
OFFERS: dict[type, dict[str, Callable[..., Any]]] = {
    two_tower.TwoTower: {"image": image_attention, "similarity": similarity},
    coca.CoCa: {"image": image_attention, "similarity": similarity, "written": _written(_coca_looks)},
    albef.ALBEF: {"image": image_attention, "similarity": similarity, "read": _read(("fusion",))},
    vilt.ViLT: {"read": _read_jointly},
    qformer.QFormer: {"image": image_attention},
    captioner.Captioner: {"written": _captioner_looks},
    prefix_lm.PrefixLM: {"written": _written(_prefix_looks)},
}


# -- what was sown -------------------------------------------------------------------------------------------------


def _run(function: Callable[[Any], Any], model: nn.Module, params: Any) -> tuple[Any, Sown]:
    """A function of the bound model, with what its layers sowed."""
    out, sown = nn.apply(function, model, mutable=["intermediates"])({"params": params})
    return out, sown["intermediates"]


def _at(sown: Sown, *path: str) -> Any:
    for name in path:
        sown = sown[name]
    return sown


def _sown(sown: Sown, *path: str) -> Float[Array, "*depth B H T S"]:
    """The attention weights at a module, of its last call."""
    return _at(sown, *path, "weights")[-1]


def _mean_heads(weights: Float[Array, "*depth B H T S"]) -> Float[Array, "*depth B T S"]:
    return weights.mean(axis=-3)
