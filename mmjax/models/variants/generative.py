"""Sizes of the models that write text, by name: plain dicts of their settings, with the model's `kind`."""

from typing import Any

from mmjax.models.variants.common import layers, vit


def _clip_vit(*sizes, **changes) -> dict[str, Any]:
    """A vision transformer as OpenAI's CLIP."""
    return vit(*sizes, norm_eps=1e-5, patch_bias=False, pre_norm=True, **changes)


def _text(vocab_size, context_length, eos_id, width, depth, heads, **changes) -> dict[str, Any]:
    shape = dict(vocab_size=vocab_size, context_length=context_length, eos_id=eos_id, width=width)
    return shape | layers(width, depth, heads) | changes


def _gpt(*sizes, **changes) -> dict[str, Any]:
    """GPT-2's decoder; with cross-attention in every layer unless `cross_every=0`."""
    settings = dict(norm="pre", activation="gelu_tanh", final_norm=True, embedding_norm=False, head="tied")
    return _text(*sizes, **(settings | changes))


def _bert(*sizes, **changes) -> dict[str, Any]:
    """BLIP's decoder: BERT's, read from left to right."""
    settings = dict(norm="post", norm_eps=1e-12, final_norm=False, embedding_norm=True, head="mlm")
    return _text(*sizes, **(settings | changes))


def _captioner(image: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    cross = dict(cross_every=1, cross_from=0)
    return dict(kind="captioner", decoder="transformer", image=image, text=text | cross)


def _answering(image: dict[str, Any], sep_id: int, *sizes: int, caption_id: int | None = None) -> dict[str, Any]:
    """BLIP's answers: a BERT that reads the question, and one of the same size that writes."""
    text, of_writer = _bert(*sizes), ("head", "eos_id")
    question = {name: value for name, value in text.items() if name not in of_writer}
    return _captioner(image, text | dict(sep_id=sep_id)) | dict(question=question, caption_id=caption_id)


def _lstm_captioner(image, vocab_size, context_length, eos_id, width) -> dict[str, Any]:
    text = dict(vocab_size=vocab_size, context_length=context_length, eos_id=eos_id, width=width)
    text |= dict(embed_width=width, layers=1, dropout=0.0)
    return dict(kind="captioner", decoder="lstm", image=image, text=text)


def _coca(embed_dim, image, text, decoder, queries=256, pool_heads=8) -> dict[str, Any]:
    return dict(
        kind="coca",
        embed_dim=embed_dim,
        image=image,
        text=text,
        decoder=decoder,
        queries=queries,
        pool_heads=pool_heads,
        logit_scale_init=1 / 0.07,
        logit_bias_init=None,
        max_logit_scale=100.0,
    )


def _prefix_lm(image, text, connector="mlp2x_gelu", feature_layer=None, prefix="full") -> dict[str, Any]:
    return dict(
        kind="prefix_lm",
        image=image,
        text=text | dict(sep_id=None),
        connector=connector,
        feature_layer=feature_layer,
        prefix=prefix,
        prefix_text=False,
    )


def _blip2(image, text, queries, width, depth, heads) -> dict[str, Any]:
    """BLIP-2's second stage: a Q-Former between an image tower and a decoder."""
    reader = dict(width=width, queries=queries, cross_every=2) | layers(width, depth, heads, norm_eps=1e-12)
    return _prefix_lm(image, text, connector="linear", prefix="causal") | dict(qformer=reader)


_GPT2 = (50257, 1024, 50256, 768, 12, 12)
_COCA_TEXT = (49408, 76, 49407)
# Vocabulary, context and end of text of `words:shapes`, whose separator is 5.
_SCENES, _SEP = (64, 20, 2), 5
_TINY, _SMALL = (32, 2, 2), (96, 2, 3)
_TINY_IMAGE, _SMALL_IMAGE = (16, 8, 32, 2, 2), (32, 8, 96, 4, 3)

# Parameter counts of those with a published one are checked in the tests.
GENERATIVE = {
    "captioner-B/16": _captioner(vit(224, 16, 768, 12, 12), _gpt(*_GPT2)),
    "blip-B/16": _captioner(vit(384, 16, 768, 12, 12, norm_eps=1e-5), _bert(30524, 512, 102, 768, 12, 12)),
    "blip-vqa-B/16": _answering(
        vit(480, 16, 768, 12, 12, norm_eps=1e-5), 102, 30524, 512, 102, 768, 12, 12, caption_id=30522
    ),
    "coca-B/32": _coca(512, _clip_vit(224, 32, 768, 12, 12), _text(*_COCA_TEXT, 512, 12, 8), layers(512, 12, 8)),
    "coca-L/14": _coca(768, _clip_vit(224, 14, 1024, 24, 16), _text(*_COCA_TEXT, 768, 12, 12), layers(768, 12, 12)),
    # LLaVA's layout over a decoder of GPT-2's size.
    "prefix_lm-L/14": _prefix_lm(
        _clip_vit(224, 14, 1024, 24, 16, activation="quick_gelu"), _gpt(*_GPT2), feature_layer=-2, prefix="causal"
    ),
    # For tests and for a laptop, on drawn scenes.
    "tiny-captioner": _captioner(vit(*_TINY_IMAGE), _gpt(*_SCENES, *_TINY)),
    "tiny-blip-vqa": _answering(vit(*_TINY_IMAGE), _SEP, *_SCENES, *_TINY),
    "tiny-blip2": _blip2(vit(*_TINY_IMAGE), _gpt(*_SCENES, *_TINY, activation="relu"), 4, *_TINY),
    "tiny-captioner-lstm": _lstm_captioner(vit(*_TINY_IMAGE), *_SCENES, 32),
    "tiny-coca": _coca(32, _clip_vit(*_TINY_IMAGE), _text(*_SCENES, *_TINY), layers(*_TINY), queries=4, pool_heads=2),
    "tiny-prefix_lm": _prefix_lm(vit(*_TINY_IMAGE), _gpt(*_SCENES, *_TINY)),
    "small-captioner": _captioner(vit(*_SMALL_IMAGE), _gpt(*_SCENES, *_SMALL)),
    "small-blip-vqa": _answering(vit(*_SMALL_IMAGE), _SEP, *_SCENES, *_SMALL),
    "small-captioner-lstm": _lstm_captioner(vit(*_SMALL_IMAGE), *_SCENES, 96),
    "small-coca": _coca(
        128, _clip_vit(*_SMALL_IMAGE), _text(*_SCENES, *_SMALL), layers(*_SMALL), queries=17, pool_heads=4
    ),
    "small-prefix_lm": _prefix_lm(vit(*_SMALL_IMAGE), _gpt(*_SCENES, *_SMALL)),
}
