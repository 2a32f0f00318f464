"""Sizes of models that fuse by attention, by name: plain dicts of their settings, with the model's `kind`."""

from typing import Any

from mmjax.errors import validate_choice
from mmjax.models.variants.common import layers, vit

# Width, depth and heads.
_BERTS = {
    "tiny": (32, 2, 2),
    "small": (96, 4, 3),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}


def bert(size: str, **changes: Any) -> dict[str, Any]:
    """Settings of `TextStack` that make it BERT (arXiv:1810.04805), without a head.

    The uncased English one has 109,482,240 parameters in size `base`, with `heads.Pooler`.

    Args:
      size: `base` or `large`; `tiny` and `small` for tests and a laptop.
      changes: of any of the settings; `head="mlm"` predicts masked words.

    Raises:
      UserError: the size is not in the table.
    """
    width, depth, heads = _BERTS[validate_choice("size", size, _BERTS)]
    settings = dict(
        vocab_size=30522,
        context_length=512,
        width=width,
        **layers(width, depth, heads, norm_eps=1e-12),
        causal=False,
        norm="post",
        token_types=2,
        embedding_norm=True,
        final_norm=False,
    )
    return settings | changes


def _stream(*sizes: int, **changes: Any) -> dict[str, Any]:
    """ViLT's layers: of a vision transformer, what `vilt.Stream` has settings for."""
    others = ("pre_norm", "crop_to_patches", "patch_dropout")
    return {key: value for key, value in vit(*sizes, **changes).items() if key not in others}


def _text(size: str, **changes: Any) -> dict[str, Any]:
    """BERT as part of a model, which itself decides what sees what."""
    return {key: value for key, value in bert(size, **changes).items() if key != "causal"}


def _words(**changes: Any) -> dict[str, Any]:
    """BERT's embeddings alone, for ViLT."""
    settings = dict(token_types=2, embedding_norm=True, activation="gelu", norm_eps=1e-12, dropout=0.0)
    return settings | changes


_CONTRAST = dict(logit_scale_init=1 / 0.07, logit_bias_init=None, max_logit_scale=100.0)


def _albef(embed_dim: int, image: dict[str, Any], text: dict[str, Any], fusion_depth: int) -> dict[str, Any]:
    shared = (
        "heads",
        "mlp_dim",
        "activation",
        "norm_eps",
        "dropout",
        "drop_path",
        "scan",
        "remat",
        "remat_keep",
        "norm",
    )
    fusion = dict(depth=fusion_depth) | {name: text[name] for name in shared}
    heads = dict(match=True, mlm=True, answers=0)
    return dict(kind="albef", embed_dim=embed_dim, image=image, text=text, fusion=fusion, **heads, **_CONTRAST)


def _vilt(image: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    return dict(kind="vilt", image=image, text=text, pooler=True, match=True, mlm=True, mim=False, answers=0)


def _qformer(
    embed_dim: int, image: dict[str, Any], text: dict[str, Any], queries: int, caption_id: int | None = None
) -> dict[str, Any]:
    heads = dict(match=True, caption=True, answers=0, caption_id=caption_id)
    text = text | dict(token_types=0, cross_every=2, cross_from=0)
    return dict(kind="qformer", embed_dim=embed_dim, image=image, text=text, queries=queries, **heads, **_CONTRAST)


def _blip(
    embed_dim: int,
    image: dict[str, Any],
    text: dict[str, Any],
    caption_id: int | None = None,
    match_id: int | None = None,
) -> dict[str, Any]:
    heads = dict(match=True, caption=True, answers=0, caption_id=caption_id, match_id=match_id)
    return dict(kind="blip", embed_dim=embed_dim, image=image, text=text | dict(token_types=0), **heads, **_CONTRAST)


_ENGLISH = dict(vocab_size=30522, eos_id=102)
# Of `words:shapes`, in texts of 24 tokens.
_SCENES = dict(vocab_size=64, context_length=24, eos_id=2)
_TINY, _SMALL, _BASE = (16, 8, 32, 2, 2), (32, 8, 96, 4, 3), (768, 12, 12)

# Parameter counts of the base sizes are checked in the tests.
FUSION = {
    "albef-B": _albef(256, vit(256, 16, *_BASE), _text("base", depth=6, **_ENGLISH), 6),
    "vilt-B/32": _vilt(_stream(384, 32, *_BASE, norm_eps=1e-12), _words(context_length=40, **_ENGLISH)),
    # BLIP-2's first stage: EVA's ViT-g and BERT with one more word, [DEC], which begins captions.
    "qformer-B": _qformer(
        256,
        vit(224, 14, 1408, 39, 16, mlp_dim=6144),
        _text("base", vocab_size=30523, eos_id=102),
        queries=32,
        caption_id=30522,
    ),
    # BERT with two more words: [DEC] begins captions, [ENC] texts that are matched.
    "blip-med-B/16": _blip(
        256,
        vit(224, 16, *_BASE, norm_eps=1e-5),
        _text("base", vocab_size=30524, eos_id=102),
        caption_id=30522,
        match_id=30523,
    ),
    # For tests and for a laptop, on drawn scenes.
    "tiny-albef": _albef(32, vit(*_TINY), _text("tiny", depth=1, **_SCENES), 1),
    "tiny-vilt": _vilt(_stream(*_TINY), _words(**_SCENES)),
    "tiny-qformer": _qformer(32, vit(*_TINY), _text("tiny", **_SCENES), queries=4),
    "tiny-blip": _blip(32, vit(*_TINY), _text("tiny", **_SCENES)),
    "small-albef": _albef(128, vit(*_SMALL), _text("small", depth=2, **_SCENES), 2),
    "small-vilt": _vilt(_stream(*_SMALL), _words(**_SCENES)),
    "small-qformer": _qformer(128, vit(*_SMALL), _text("small", **_SCENES), queries=8),
    "small-blip": _blip(128, vit(*_SMALL), _text("small", **_SCENES)),
}
