"""Mistakes in what a transformer's layers have otherwise than CLIP's, `block` of a tower."""

import math
from typing import Any

from mmjax.errors import UserError
from mmjax.models.fusion.config import FramesEncoderConfig
from mmjax.models.image_config import PatchesConfig
from mmjax.models.text_config import FusedTextConfig, QFormerTextConfig, TextTransformerConfig
from mmjax.nn.config import BlockConfig, CrossLayersConfig, DecoderLayersConfig, LayersConfig


def check_block(field: str, settings: LayersConfig, width: int | None) -> None:
    """Checks a tower's `block`.

    Args:
      field: of the tower, such as `model.image`.
      settings: the tower's.
      width: of its tokens; None where that is not known.

    Raises:
      UserError: naming the field.
    """
    block, name = settings.block, f"{field}.block"
    if block is None or block == BlockConfig():
        return
    looks = isinstance(settings, CrossLayersConfig | DecoderLayersConfig | QFormerTextConfig)
    if looks or getattr(settings, "cross_every", 0):
        raise UserError(f"{name}: layers that look at an image are like CLIP's; set {name}=None")
    if block.kv_heads and settings.heads % block.kv_heads:
        raise UserError(
            f"{name}.kv_heads={block.kv_heads} does not divide {field}.heads={settings.heads}; choose one that does, or"
            " 0 for as many"
        )
    for entry in ("layer_scale", "rope_offset"):
        if not 0 <= getattr(block, entry) < math.inf:
            raise UserError(f"{name}.{entry}={getattr(block, entry)} must be finite and must not be negative")
    if not 1 <= block.rope_theta < math.inf:
        raise UserError(f"{name}.rope_theta={block.rope_theta} must be finite and at least 1")
    if block.res_post_norm and getattr(settings, "norm", "pre") == "post":
        raise UserError(f"{name}.res_post_norm=True does not go with {field}.norm='post'; set {field}.norm='pre'")
    if block.rope != "none":
        _check_rope(field, settings, block, width)


def _check_rope(field: str, settings: Any, block: BlockConfig, width: int | None) -> None:
    name = f"{field}.block.rope={block.rope!r}"
    is_image = isinstance(settings, PatchesConfig)
    is_text = isinstance(settings, TextTransformerConfig | FusedTextConfig)
    if isinstance(settings, FramesEncoderConfig) or not (is_image or is_text):
        raise UserError(f"{name}: images and texts alone have rotary positions; set {field}.block.rope='none'")
    axes, heads = 2 if is_image else 1, settings.heads
    head_dim = block.head_dim or (0 if width is None else width // heads)
    if head_dim % (2 * axes):
        raise UserError(
            f"{name} turns pairs of numbers along {axes} axes, and heads of {head_dim} are no multiple of {2 * axes};"
            f" set {field}.block.head_dim or {field}.heads"
        )
