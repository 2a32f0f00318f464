"""Model sizes by name: each a plain dict of `TwoTower`'s settings that a config may change field by field."""

import copy
from typing import Any

from mmjax.errors import validate_choice
from mmjax.models.variants.common import layers, vit
from mmjax.models.variants.fusion_models import FUSION
from mmjax.models.variants.generative import GENERATIVE


def _image(image_size, patch_size, width, depth, heads, mlp_dim=None, **changes) -> dict[str, Any]:
    settings = dict(
        mlp_dim=mlp_dim or 4 * width,
        norm_eps=1e-5,
        patch_bias=False,
        pre_norm=True,
        pool="cls",
        projection="linear",
    )
    return vit(image_size, patch_size, width, depth, heads, **(settings | changes))


def _resnet(image_size: int, blocks: tuple[int, ...], stem_width: int) -> dict[str, Any]:
    """OpenAI's modified ResNet: a head of 64 numbers, like all of OpenAI's."""
    settings = dict(kind="resnet", image_size=image_size, blocks=blocks, stem_width=stem_width, remat="none")
    return settings | dict(pool="attention", pool_norm=False, pool_heads=stem_width // 2, projection="bias")


def _convnext(size: str, image_size: int, projection: str = "linear", **changes: Any) -> dict[str, Any]:
    """timm's ConvNeXt with OpenCLIP's head."""
    settings = dict(kind="convnext", image_size=image_size, activation="gelu", norm_eps=1e-6, layer_scale=1e-6)
    settings |= dict(drop_path=0.0, remat="none", pool="mean", pool_norm=True, pool_heads=1, projection=projection)
    return settings | CONVNEXTS[size] | changes


def _text(width, depth, heads, mlp_dim=None, **changes) -> dict[str, Any]:
    settings = dict(
        vocab_size=49408,
        context_length=77,
        width=width,
        **layers(width, depth, heads, mlp_dim=mlp_dim or 4 * width),
        causal=True,
        mask_padding=False,
        eos_id=49407,
        pool="eos",
        projection="linear",
    )
    return settings | changes


def _clip(embed_dim: int, image: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    return dict(
        embed_dim=embed_dim,
        image=image,
        text=text,
        logit_scale_init=1 / 0.07,
        logit_bias_init=None,
        max_logit_scale=100.0,  # of the scale after every update; None for no limit
    )


def _siglip(
    patch_size: int,
    width: int,
    depth: int,
    heads: int,
    mlp_dim: int | None = None,
    *,
    image_size: int = 224,
    context_length: int = 64,
) -> dict[str, Any]:
    """SigLIP: no class token, attention pooling, a bidirectional text tower as large as the image tower."""
    shared = dict(activation="gelu_tanh", norm_eps=1e-6)
    image = _image(
        image_size,
        patch_size,
        width,
        depth,
        heads,
        mlp_dim,
        class_token=False,
        patch_bias=True,
        pre_norm=False,
        pool="map",
        projection="none",
        **shared,
    )
    text = _text(
        width,
        depth,
        heads,
        mlp_dim,
        vocab_size=32000,
        context_length=context_length,
        causal=False,
        eos_id=1,
        pool="last",
        projection="bias",
        **shared,
    )
    return dict(
        embed_dim=width, image=image, text=text, logit_scale_init=10.0, logit_bias_init=-10.0, max_logit_scale=None
    )


# ConvNeXt's sizes by the names that timm has for them.
CONVNEXTS: dict[str, dict[str, Any]] = {
    "convnext_tiny": dict(blocks=(3, 3, 9, 3), widths=(96, 192, 384, 768)),
    "convnext_small": dict(blocks=(3, 3, 27, 3), widths=(96, 192, 384, 768)),
    "convnext_base": dict(blocks=(3, 3, 27, 3), widths=(128, 256, 512, 1024)),
    "convnext_large": dict(blocks=(3, 3, 27, 3), widths=(192, 384, 768, 1536)),
    "convnext_xlarge": dict(blocks=(3, 3, 27, 3), widths=(256, 512, 1024, 2048)),
    "convnext_xxlarge": dict(blocks=(3, 4, 30, 3), widths=(384, 768, 1536, 3072), norm_eps=1e-5),
    # Of timm's own tests.
    "test_convnext": dict(blocks=(1, 2, 4, 2), widths=(24, 32, 48, 64), activation="gelu_tanh", norm_eps=1e-5),
}

# Sizes as published: OpenAI's and OpenCLIP's ViTs, SigLIP's; parameter counts are checked in the tests.
VARIANTS = {
    "B/32": _clip(512, _image(224, 32, 768, 12, 12), _text(512, 12, 8)),
    "B/16": _clip(512, _image(224, 16, 768, 12, 12), _text(512, 12, 8)),
    "L/14": _clip(768, _image(224, 14, 1024, 24, 16), _text(768, 12, 12)),
    "L/14@336": _clip(768, _image(336, 14, 1024, 24, 16), _text(768, 12, 12)),
    "H/14": _clip(1024, _image(224, 14, 1280, 32, 16), _text(1024, 24, 16)),
    "RN50": _clip(1024, _resnet(224, (3, 4, 6, 3), 64), _text(512, 12, 8)),
    "RN101": _clip(512, _resnet(224, (3, 4, 23, 3), 64), _text(512, 12, 8)),
    "RN50x4": _clip(640, _resnet(288, (4, 6, 10, 6), 80), _text(640, 12, 10)),
    "RN50x16": _clip(768, _resnet(384, (6, 8, 18, 8), 96), _text(768, 12, 12)),
    "RN50x64": _clip(1024, _resnet(448, (3, 15, 36, 10), 128), _text(1024, 12, 16)),
    "convnext_base_w": _clip(640, _convnext("convnext_base", 256, drop_path=0.1), _text(640, 12, 10)),
    "convnext_large_d": _clip(768, _convnext("convnext_large", 256, "mlp", drop_path=0.1), _text(768, 16, 12)),
    "convnext_xxlarge": _clip(1024, _convnext("convnext_xxlarge", 256, drop_path=0.1), _text(1024, 24, 16)),
    "siglip-B/16": _siglip(16, 768, 12, 12),
    # Published for 256 pixels and more; and for 224 pixels with texts of 16 tokens.
    "siglip-L/16": _siglip(16, 1024, 24, 16, image_size=256),
    "siglip-So400m/14": _siglip(14, 1152, 27, 16, 4304, context_length=16),
    # For tests and for a laptop.
    "tiny": _clip(32, _image(16, 8, 32, 2, 2), _text(32, 2, 2, context_length=32)),
    "tiny-siglip": _siglip(8, 32, 2, 2, image_size=16, context_length=32),
    "tiny-resnet": _clip(32, _resnet(32, (1, 2, 1, 1), 4), _text(32, 2, 2, context_length=32)),
    "tiny-convnext": _clip(32, _convnext("test_convnext", 32), _text(32, 2, 2, context_length=32)),
    "small": _clip(128, _image(32, 8, 96, 4, 3), _text(96, 2, 3, context_length=20)),
}


# Width, depth, heads, hidden units and whether they are gated, of DINOv2's towers.
_DINOV2 = {
    "S/14": (384, 12, 6, 1536, False),
    "B/14": (768, 12, 12, 3072, False),
    "L/14": (1024, 24, 16, 4096, False),
    "g/14": (1536, 40, 24, 4096, True),
    "tiny": (32, 2, 2, 128, False),
}


def dinov2(size: str, image_size: int) -> dict[str, Any]:
    """An image tower of DINOv2 (arXiv:2304.07193) whose class token, as it is, is the embedding.

    Args:
      size: a key of the table: S/14, B/14, L/14, g/14, or tiny.
      image_size: pixels of a side, a multiple of 14; DINOv2's own tables of positions are for 518.

    Raises:
      UserError: the size is not in the table.
    """
    width, depth, heads, mlp_dim, gated = _DINOV2[validate_choice("tower", size, _DINOV2)]
    settings = dict(norm_eps=1e-6, patch_bias=True, pre_norm=False, projection="none")
    settings |= dict(activation="silu" if gated else "gelu", block=dict(layer_scale=1.0, mlp_gate=gated))
    settings["position_antialias"] = False  # as transformers, whose files these are started from
    return _image(image_size, 14, width, depth, heads, mlp_dim, **settings)


def all_variants() -> dict[str, dict[str, Any]]:
    """The settings of every size of every kind of model, by name."""
    return VARIANTS | GENERATIVE | FUSION


def variant(name: str) -> dict[str, Any]:
    """Returns a copy of a size's settings.

    Raises:
      UserError: the name is not in the table.
    """
    known = all_variants()
    return copy.deepcopy(known[validate_choice("variant", name, known)])


def _encoder(width: int, depth: int, heads: int, **settings) -> dict[str, Any]:
    return dict(width=width, depth=depth, heads=heads, mlp_dim=4 * width) | settings


def _tower(variant: str, tower: str) -> dict[str, Any]:
    """A tower of `VARIANTS` without its head."""
    return {key: value for key, value in VARIANTS[variant][tower].items() if key not in ("pool", "projection")}


_TINY, _SMALL, _BASE = (32, 2, 2), (96, 4, 3), (768, 12, 12)
# Encoders of one modality by kind and size. What only the data can tell is left to the config: the steps of a series,
# the columns of a table.
ENCODERS: dict[str, dict[str, dict[str, Any]]] = {
    "image": {"tiny": _tower("tiny", "image"), "small": _tower("small", "image"), "base": _tower("B/16", "image")},
    "text": {"tiny": _tower("tiny", "text"), "small": _tower("small", "text"), "base": _tower("B/16", "text")},
    "video": {
        "tiny": _encoder(*_TINY, frames=4, image_size=16, patch_size=8),
        "small": _encoder(*_SMALL, frames=8, image_size=32, patch_size=8),
        # ViViT-B/16x2.
        "base": _encoder(*_BASE, frames=32, image_size=224, patch_size=16, activation="gelu_tanh", positions="joint"),
    },
    # An image tower for each frame; the rows of the table of times are those of the video.
    "frames": {
        "tiny": _tower("tiny", "image") | dict(frames=4),
        "small": _tower("small", "image") | dict(frames=8),
        "base": _tower("B/16", "image") | dict(frames=8),
    },
    "audio": {
        "tiny": _encoder(*_TINY, frames=32, mel_bins=16, patch_size=(8, 8)),
        "small": _encoder(*_SMALL, frames=96, mel_bins=64, patch_size=(16, 16)),
        # AST: ten seconds at 100 frames a second.
        "base": _encoder(
            *_BASE,
            frames=1024,
            mel_bins=128,
            patch_size=(16, 16),
            stride=(10, 10),
            distillation_token=True,
            norm_eps=1e-12,
        ),
    },
    "whisper": {
        "tiny": _encoder(*_TINY, frames=32, mel_bins=16),
        "small": _encoder(*_SMALL, frames=200, mel_bins=64),
        # Whisper's base is narrower; this is its small.
        "base": _encoder(*_BASE, frames=3000, mel_bins=80),
    },
    "series": {"tiny": _encoder(*_TINY), "small": _encoder(*_SMALL), "base": _encoder(*_BASE)},
    "table": {"tiny": _encoder(*_TINY), "small": _encoder(*_SMALL), "base": _encoder(*_BASE)},
    "features": {"tiny": dict(width=32), "small": dict(width=96), "base": dict(width=768)},
}


def encoder(kind: str, size: str) -> dict[str, Any]:
    """Returns a copy of an encoder's settings, as `fusion.classifier.make_encoder` takes them, but for its `kind`.

    Raises:
      UserError: the kind or the size is not in the table.
    """
    sizes = ENCODERS[validate_choice("kind", kind, ENCODERS)]
    return copy.deepcopy(sizes[validate_choice("size", size, sizes)])
