"""Fields of layers and of image towers, as most configs of Hugging Face's call them."""

from collections.abc import Mapping
from typing import Any

from mmjax.interop import huggingface
from mmjax.interop.config_format import Settings, one_size
from mmjax.interop.families.family import activation

# Our fields of layers and theirs.
SIZES = {
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
}
_IMAGE = ("image_size", "patch_size")
VIT: Settings = dict(patch_bias=True, pre_norm=False)  # what ViT's towers have, and CLIP's have not


def layers(fields: Mapping[str, Any], group: str) -> Settings:
    """Settings of layers; `group` is what their fields are called in messages."""
    settings: Settings = {ours: fields[theirs] for ours, theirs in SIZES.items()}
    settings["activation"] = activation(f"{group}.hidden_act", fields["hidden_act"])
    return settings | dict(norm_eps=float(fields["layer_norm_eps"]))


def layer_fields(part: Settings) -> dict[str, Any]:
    """The fields of layers there."""
    fields: dict[str, Any] = {theirs: part[ours] for ours, theirs in SIZES.items()}
    return fields | dict(hidden_act=huggingface.HF_ACTIVATIONS[part["activation"]], layer_norm_eps=part["norm_eps"])


def image_settings(fields: Mapping[str, Any], group: str = "vision_config", **fixed: Any) -> Settings:
    """Settings of an image tower; `fixed` is what its kind always has, `group` as in `layers`.

    Raises:
      ValueError: its images or patches are no squares.
    """
    sizes = {name: one_size(f"{group}.{name}", fields[name]) for name in _IMAGE}
    return sizes | layers(fields, group) | fixed


def image_fields(image: Settings) -> dict[str, Any]:
    """The fields of an image tower there."""
    return layer_fields(image) | {name: image[name] for name in _IMAGE}
