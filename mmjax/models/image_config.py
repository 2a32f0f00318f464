"""Fields of what reads images: the towers of `model.image`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mmjax.nn.config import NOISE, TowerConfig


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """What reads images."""

    image_size: int
    """pixels of a side"""


@dataclass(frozen=True, kw_only=True)
class PatchesConfig(ImageConfig, TowerConfig):
    """A transformer over the patches of an image (arXiv:2010.11929)."""

    patch_size: int
    """pixels of a side of a patch"""
    class_token: bool = True
    """a learned token before the patches"""
    patch_bias: bool = False
    """the patch projection has a bias (SigLIP yes, CLIP no)"""
    pre_norm: bool = True
    """a layer norm between embedding and transformer (CLIP)"""
    crop_to_patches: bool = False
    """leave out the pixels beyond the last whole patch; else a size that does not divide is a mistake"""
    patch_dropout: float = field(default=0.0, metadata=NOISE)
    """training: share of the patches that are dropped (FLIP)"""
    registers: int = 0
    """learned tokens without positions between class token and patches (DINOv2 with registers: 4)"""


@dataclass(frozen=True, kw_only=True)
class VisionConfig(PatchesConfig):
    """A vision transformer."""

    final_norm: bool = True
    """a layer norm after the last layer"""


@dataclass(frozen=True, kw_only=True)
class ImageTowerConfig(VisionConfig):
    """The image tower of two, with its head."""

    required: ClassVar[tuple[str, ...]] = ("activation", "norm_eps")  # the head reads them, too

    pool: Literal["cls", "mean", "last", "map"]
    """what the embedding is made of: cls (the class token), mean, last (token), map (attention)"""
    projection: Literal["linear", "bias", "none"]
    """to the shared space: linear, bias (linear with bias), none (then the widths must be equal)"""


@dataclass(frozen=True, kw_only=True)
class StreamConfig(ImageConfig, TowerConfig):
    """ViLT's layers, which read patches and words."""

    patch_size: int
    """pixels of a side of a patch"""
    class_token: bool = True
    """a learned token before the patches"""
    patch_bias: bool = True
    """the patch projection has a bias"""
