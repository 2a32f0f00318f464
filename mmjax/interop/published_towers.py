"""Towers and vocabularies as published: the settings of a file without a config that none of its shapes shows.

Nothing is guessed: a tower or a vocabulary that is not in these tables has settings that are a `MissingSetting`, which
the user must give by name. The tables hold the models of open_clip 3.3 (`open_clip.list_models()`), OpenAI, Google's
SigLIP and SigLIP 2, and those that Hugging Face's CLIPModel and SiglipModel have of them.
"""

import dataclasses
from typing import Any

from mmjax.data.text.tokenizer import LARGEST_ID


@dataclasses.dataclass(frozen=True)
class MissingSetting:
    """A setting that neither shapes nor tables have.

    Attributes:
      example: a value, as code has it.
      why: what is known of it; may be empty.
    """

    example: str
    why: str = ""


ACTIVATION = MissingSetting('"quick_gelu"')
NORM_EPS = MissingSetting("1e-5")

# Heads by width and MLP width. Width / 64 is wrong for the larger image towers, and right for text towers of 1280.
_HEADS = {
    "clip": {
        "image": {
            (384, 1536): 6,
            (512, 2048): 8,
            (768, 3072): 12,
            (896, 3584): 14,
            (1024, 4096): 16,
            (1280, 5120): 16,  # H
            (1408, 6144): 16,  # g
            (1664, 8192): 16,  # bigG
            (1792, 15360): 16,  # e
        },
        "text": {
            (256, 1024): 4,
            (384, 1536): 6,
            (512, 2048): 8,
            (640, 2560): 10,
            (768, 3072): 12,
            (1024, 4096): 16,
            (1280, 5120): 20,
        },
    },
    "siglip": {
        "image": {
            (768, 3072): 12,
            (1024, 4096): 16,
            (1152, 4304): 16,  # So400m
            (1536, 6144): 16,  # giant-opt
        },
        "text": {(768, 3072): 12, (1024, 4096): 16, (1152, 4304): 16},
    },
}
_EPS = {"clip": 1e-5, "siglip": 1e-6}

# Pixels by patch size and patches a side. So400m/14 of 27 patches has 378 pixels or, with the last ones left out, 384.
_PIXELS = {
    "clip": {
        (32, 7): 224,
        (32, 8): 256,
        (16, 14): 224,
        (16, 15): 240,
        (16, 20): 320,
        (14, 16): 224,
        (14, 20): 280,
        (14, 24): 336,
        (14, 27): 378,
    },
    "siglip": {(32, 8): 256, (16, 14): 224, (16, 16): 256, (16, 24): 384, (16, 32): 512, (14, 16): 224},
}

# Settings of a text tower by the size of its vocabulary.
_CLIP_TEXT = dict(causal=True, pool="eos", eos_id=LARGEST_ID)
_SIGLIP_TEXT = dict(causal=False, pool="last")
CLIPA_VOCABULARY = 32_000  # BERT's, the first ids
_VOCABULARIES: dict[str, dict[int, dict[str, Any]]] = {
    "clip": {
        49_408: _CLIP_TEXT,  # CLIP's own
        CLIPA_VOCABULARY: dict(causal=False, pool="last", activation="gelu"),
        250_100: _CLIP_TEXT | dict(eos_id=1),  # mT5's: MetaCLIP 2, L/14
        901_629: _CLIP_TEXT | dict(eos_id=2),  # XLM-V's: MetaCLIP 2, H/14 and bigG/14
    },
    "siglip": {
        32_000: _SIGLIP_TEXT | dict(activation="gelu"),  # as OpenCLIP runs SigLIP
        250_000: _SIGLIP_TEXT | dict(activation="gelu"),  # mT5's: SigLIP i18n
        256_000: _SIGLIP_TEXT | dict(activation="gelu_tanh"),  # Gemma's: SigLIP 2
    },
}

# And of its tokenizer, as OpenCLIP's `text_cfg` has it. An empty entry is CLIP's own.
_CANONICAL = {"clean": "canonicalize"}
_TOKENIZERS: dict[int, dict[str, Any]] = {
    32_000: dict(hf_tokenizer_name="timm/ViT-B-16-SigLIP", tokenizer_kwargs=_CANONICAL),
    50_265: dict(hf_tokenizer_name="roberta-base"),
    250_000: dict(hf_tokenizer_name="timm/ViT-B-16-SigLIP-i18n-256", tokenizer_kwargs=_CANONICAL),
    250_002: dict(hf_tokenizer_name="xlm-roberta-base"),
    250_100: dict(hf_tokenizer_name="google/mt5-base", tokenizer_kwargs=_CANONICAL),
    256_000: dict(hf_tokenizer_name="timm/ViT-B-16-SigLIP2", tokenizer_kwargs=_CANONICAL),
    901_629: dict(hf_tokenizer_name="facebook/xlm-v-base"),
}


def heads_and_norm(family: str, name: str, width: int, mlp_dim: int) -> dict[str, Any]:
    """`heads` and `norm_eps` of a tower.

    Args:
      family: `clip` or `siglip`.
      name: `image` or `text`.
      width: of the tower.
      mlp_dim: hidden width of its MLPs.
    """
    heads = _HEADS[family][name].get((width, mlp_dim))
    if heads is None:
        why = f"no published tower has width {width} and MLPs of {mlp_dim}"
        return dict(heads=MissingSetting("8", why), norm_eps=NORM_EPS)
    return dict(heads=heads, norm_eps=_EPS[family])


def image_size(family: str, patch: int, side: int) -> int | MissingSetting:
    """Pixels a side of an image tower of `side` x `side` patches."""
    pixels = f"{side} patches of {patch} are cut from {side * patch} to {(side + 1) * patch - 1} pixels"
    return _PIXELS[family].get((patch, side)) or MissingSetting(str(side * patch), pixels)


def vocabulary(family: str, size: int) -> dict[str, Any] | None:
    """`causal`, `pool`, `eos_id` and `activation` of a text tower, as its vocabulary decides them; None if unknown."""
    return _VOCABULARIES[family].get(size)


def tokenizer(family: str, size: int) -> dict[str, Any]:
    """Which tokenizer OpenCLIP's published model of a vocabulary has, and how it cleans texts; fields of `text_cfg`."""
    if (family, size) == ("clip", CLIPA_VOCABULARY):
        return dict(hf_tokenizer_name="bert-base-uncased", tokenizer_kwargs={"strip_sep_token": True})
    return _TOKENIZERS.get(size, {})


def missing_text_settings(family: str, size: int) -> dict[str, MissingSetting]:
    """The settings that the user must give where the vocabulary is not known."""
    is_clip = family == "clip"
    largest = f"{LARGEST_ID} for the largest of each text"
    return dict(
        causal=MissingSetting(str(is_clip), f"no published model has {size} ids"),
        pool=MissingSetting('"eos"' if is_clip else '"last"'),
        eos_id=MissingSetting(str(size - 1), largest),
        activation=ACTIVATION,
        norm_eps=NORM_EPS,
    )
