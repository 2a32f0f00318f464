"""Fields of what reads images: the towers of `model.image`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mmjax.models.slot_config import EncoderConfig
from mmjax.nn.config import NOISE, Activation, TowerConfig


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
    position_antialias: bool = True
    """positions for images of another size are resampled with antialiasing (transformers' ViT and DINOv2: no)"""


@dataclass(frozen=True, kw_only=True)
class VisionConfig(PatchesConfig):
    """A vision transformer."""

    final_norm: bool = True
    """a layer norm after the last layer"""


@dataclass(frozen=True, kw_only=True)
class ImageSlotConfig(ImageConfig):
    """What reads images in a model of towers, by its `kind`: a vision transformer where that is left out."""


@dataclass(frozen=True, kw_only=True)
class ImageTowerConfig(VisionConfig, ImageSlotConfig):
    """A vision transformer among towers, with its head."""

    required: ClassVar[tuple[str, ...]] = ("activation", "norm_eps")  # the head reads them, too

    pool: Literal["cls", "mean", "last", "map"]
    """what the embedding is made of: cls (the class token), mean (of the patches), last (token), map (attention)"""
    projection: Literal["linear", "bias", "none"]
    """to the shared space: linear, bias (linear with bias), none (then the widths must be equal)"""
    pool_norm: bool = False
    """a norm after the pool (CLIPA, which has final_norm=False; timm's fc_norm)"""
    pool_heads: int | None = None
    """attention heads of a map pool; none for as many as the layers have (Perception Encoder: 8)"""
    pool_mlp_dim: int | None = None
    """hidden units of the MLP of a map pool; none for as many as the layers have"""


@dataclass(frozen=True, kw_only=True)
class StreamConfig(ImageConfig, TowerConfig):
    """ViLT's layers, which read patches and words."""

    patch_size: int
    """pixels of a side of a patch"""
    class_token: bool = True
    """a learned token before the patches"""
    patch_bias: bool = True
    """the patch projection has a bias"""


# -- convolutional towers ----------------------------------------------------------------------------------------------

CONV_STAGES = 4
# Fields of a tower that describe its head; all others are the encoder's own.
CONV_HEAD_FIELDS = ("pool", "pool_norm", "pool_heads", "projection")
# Pixels of a side that a token of the last stage stands for.
CONV_STRIDE = 32


@dataclass(frozen=True, kw_only=True)
class ConvEncoderConfig(ImageConfig, EncoderConfig):
    """A convolutional tower of images, whose tokens are the cells of its last stage, 32 pixels a side each."""

    axes: ClassVar[str] = "(height, width, channels)"
    ranks: ClassVar[tuple[int, ...]] = (3,)
    remat: Literal["none", "full"] = "none"
    """what is kept of a block for the backward pass: none (all of it), full (its input alone)"""

    @property
    def width(self) -> int:
        """Numbers of a token."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ResnetEncoderConfig(ConvEncoderConfig):
    """OpenAI's modified ResNet (arXiv:2103.00020), whose batch norm has fixed statistics."""

    kind: ClassVar[str] = "resnet"
    blocks: tuple[int, ...]
    """of each of the four stages: (3, 4, 6, 3) for RN50"""
    stem_width: int = 64
    """channels of the stem; the last stage has 32 times as many"""

    @property
    def width(self) -> int:
        """Numbers of a token."""
        return 32 * self.stem_width


@dataclass(frozen=True, kw_only=True)
class ConvnextEncoderConfig(ConvEncoderConfig):
    """ConvNeXt (arXiv:2201.03545)."""

    kind: ClassVar[str] = "convnext"
    blocks: tuple[int, ...]
    """of each of the four stages: (3, 3, 9, 3) for tiny"""
    widths: tuple[int, ...]
    """channels of each of the four stages: (96, 192, 384, 768) for tiny"""
    activation: Activation = "gelu"
    """of the blocks' MLPs"""
    norm_eps: float = 1e-6
    """epsilon of the layer norms; 1e-5 in xxlarge"""
    layer_scale: float = 1e-6
    """what the scale of every residual branch starts at"""
    drop_path: float = field(default=0.0, metadata=NOISE)
    """training: stochastic-depth rate of the last block, growing linearly from 0 at the first"""

    @property
    def width(self) -> int:
        """Numbers of a token."""
        return self.widths[-1]


@dataclass(frozen=True, kw_only=True)
class ConvTowerConfig(ImageSlotConfig):
    """A convolutional tower among towers, with its head."""

    pool: Literal["attention", "mean"] = "mean"
    """what the embedding is made of: attention (their mean looks at all tokens; OpenAI's ResNets), mean"""
    pool_norm: bool = False
    """a layer norm of what is pooled (ConvNeXt)"""
    pool_heads: int = 1
    """attention heads of pool='attention'"""
    projection: Literal["linear", "bias", "mlp", "none"] = "linear"
    """to the shared space: linear, bias (linear with bias), mlp, none (then the widths must be equal)"""
