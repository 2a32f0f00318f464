"""Fields of a classifier of several modalities: encoders by `kind`, a fusion by `kind`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from mmjax.models.config import ModelConfig
from mmjax.models.image_config import VisionConfig
from mmjax.models.slot_config import EncoderConfig
from mmjax.models.text_config import TextTransformerConfig
from mmjax.nn.config import TowerConfig

Combination = Literal["linear", "logits", "product"]
COMBINATIONS = get_args(Combination)
Pool = Literal["mean", "cls", "map"]
FramePool = Literal["cls", "mean", "none"]
Temporal = Literal["mean", "embedding", "transformer", "residual", "none"]


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig(VisionConfig, EncoderConfig):
    """A vision transformer."""

    kind: ClassVar[str] = "image"
    axes: ClassVar[str] = "(height, width, channels)"
    ranks: ClassVar[tuple[int, ...]] = (3,)


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(TextTransformerConfig, EncoderConfig):
    """A transformer over token ids."""

    kind: ClassVar[str] = "text"
    axes: ClassVar[str] = "(tokens,)"
    ranks: ClassVar[tuple[int, ...]] = (1,)


@dataclass(frozen=True, kw_only=True)
class ModalityTowerConfig(TowerConfig, EncoderConfig):
    """A transformer over another modality."""

    norm_eps: float = 1e-6
    """epsilon of the layer norms"""
    class_token: bool = True
    """a learned token, which is always valid, before the others"""


@dataclass(frozen=True, kw_only=True)
class VideoEncoderConfig(ModalityTowerConfig):
    """ViViT with joint space-time attention (arXiv:2103.15691); VideoMAE (arXiv:2203.12602)."""

    kind: ClassVar[str] = "video"
    axes: ClassVar[str] = "(frames, height, width, channels)"
    ranks: ClassVar[tuple[int, ...]] = (4,)
    frames: int
    """of the videos that the position tables are made for"""
    image_size: int
    """pixels of a side"""
    patch_size: int
    """pixels of a side of a tubelet"""
    tubelet_frames: int = 2
    """frames of a tubelet"""
    tubelet_init: Literal["normal", "central_frame", "average"] = "normal"
    """of the tubelets' map: normal, or from an image patch's: central_frame, average"""
    positions: Literal["factorised", "joint", "sincos"] = "factorised"
    """factorised (a spatial and a temporal table, added), joint (a row a tubelet, ViViT), sincos (fixed, VideoMAE)"""
    final_norm: bool = True
    """a layer norm after the last layer (VideoMAE's classifiers: no)"""
    key_bias: bool = True
    """keys have a bias (VideoMAE: no)"""


@dataclass(frozen=True, kw_only=True)
class FramesEncoderConfig(VisionConfig, EncoderConfig):
    """An image tower for each frame of a video, and what makes one of them (CLIP4Clip, arXiv:2104.08860)."""

    kind: ClassVar[str] = "frames"
    axes: ClassVar[str] = "(frames, height, width, channels)"
    ranks: ClassVar[tuple[int, ...]] = (4,)
    frames: int
    """of the videos that the table of times is made for"""
    frame_pool: FramePool = "cls"
    """of the image tower's tokens: cls, mean; none: all of them stay"""
    temporal: Temporal = "mean"
    """over frames: mean; or a token a frame, or all of a frame's with frame_pool='none': none (as they are), embedding
    (GIT), which adds a vector of the time, transformer, layers over these and a norm, or residual, which adds layers
    over these to the tokens (CLIP4Clip)"""
    temporal_depth: int = 2
    """layers over the frames of temporal='transformer' and 'residual'; 0: tokens with their times (and the norm)"""


@dataclass(frozen=True, kw_only=True)
class AudioEncoderConfig(ModalityTowerConfig):
    """A transformer over patches of log-mel spectrograms (AST, arXiv:2104.01778)."""

    kind: ClassVar[str] = "audio"
    axes: ClassVar[str] = "(frames, mel bins)"
    ranks: ClassVar[tuple[int, ...]] = (2, 3)
    frames: int
    """of the spectrograms that the position table is made for"""
    mel_bins: int
    """of the spectrograms"""
    patch_size: tuple[int, int] = (16, 16)
    """frames and mel bins of a patch"""
    stride: tuple[int, int] | None = None
    """step from patch to patch along both; none for patches side by side; AST's is (10, 10)"""
    distillation_token: bool = False
    """a second learned token; AST pools the mean of the two"""


@dataclass(frozen=True, kw_only=True)
class WhisperEncoderConfig(ModalityTowerConfig):
    """Whisper's encoder of log-mel spectrograms (arXiv:2212.04356)."""

    kind: ClassVar[str] = "whisper"
    axes: ClassVar[str] = "(frames, mel bins)"
    ranks: ClassVar[tuple[int, ...]] = (2,)
    norm_eps: float = 1e-5
    """epsilon of the layer norms"""
    class_token: bool = False
    """a learned token, which is always valid, before the others; Whisper has none"""
    frames: int
    """of the longest spectrogram; Whisper's are of 3000, thirty seconds"""
    mel_bins: int
    """of the spectrograms: 80, and 128 from large-v3 on"""


@dataclass(frozen=True, kw_only=True)
class SeriesEncoderConfig(ModalityTowerConfig):
    """A transformer over patches of a time series."""

    kind: ClassVar[str] = "series"
    axes: ClassVar[str] = "(steps, channels)"
    ranks: ClassVar[tuple[int, ...]] = (2,)
    steps: int
    """of the series that the position table is made for"""
    patch_length: int = 1
    """steps of a patch"""


@dataclass(frozen=True, kw_only=True)
class TableEncoderConfig(ModalityTowerConfig):
    """A transformer over the columns of a table (FT-Transformer, arXiv:2106.11959)."""

    kind: ClassVar[str] = "table"
    axes: ClassVar[str] = "(columns,)"
    ranks: ClassVar[tuple[int, ...]] = (1,)
    numeric: int
    """number of numeric columns, which should be standardised"""
    categories: tuple[int, ...] = ()
    """how many categories each categorical column has"""


@dataclass(frozen=True, kw_only=True)
class FeaturesEncoderConfig(ModalityTowerConfig):
    """Precomputed features, projected; with a depth, through a transformer."""

    kind: ClassVar[str] = "features"
    axes: ClassVar[str] = "(features, width) or (width,)"
    ranks: ClassVar[tuple[int, ...]] = (1, 2)
    hidden: int = 0
    """units of a hidden layer before the projection; 0 for none"""
    context_length: int = 0
    """rows of the position table; 0 for no positions"""
    depth: int = 0
    """number of layers"""
    heads: int = 1
    """attention heads"""
    mlp_dim: int = 0
    """hidden units of the MLP"""
    class_token: bool = False
    """a learned token, which is always valid, before the others"""


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """How several modalities become one."""

    kind: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class AloneConfig(FusionConfig):
    """None: the vector of one modality, as its tower gives it."""

    kind: ClassVar[str] = "alone"
    pool: Literal["cls", "mean", "cls_mean", "map"] = "cls"
    """of its tokens: cls (the first), mean (but for learned ones), cls_mean (both: DINOv2), map (attention: SigLIP)"""
    projection: int = 0
    """numbers that the vector is projected to (CLIP); 0 for no projection"""


@dataclass(frozen=True, kw_only=True)
class PoolingConfig(FusionConfig):
    """One vector of each modality."""

    pool: Pool = "mean"
    """of a modality's tokens: mean, cls (the first), map (attention)"""
    pool_heads: int = 1
    """attention heads of the map pool"""
    norm_eps: float = 1e-6
    """epsilon of the layer norms"""


@dataclass(frozen=True, kw_only=True)
class VectorConfig(PoolingConfig):
    """A fusion of one vector a modality."""

    width: int
    """numbers of the result"""


@dataclass(frozen=True, kw_only=True)
class ConcatConfig(VectorConfig):
    """A linear map of all modalities' vectors side by side."""

    kind: ClassVar[str] = "concat"


@dataclass(frozen=True, kw_only=True)
class WeightedConfig(VectorConfig):
    """The mean of the modalities' vectors, by learned weights."""

    kind: ClassVar[str] = "weighted"


@dataclass(frozen=True, kw_only=True)
class GatedConfig(VectorConfig):
    """The mean of the modalities' vectors, by weights that follow from them."""

    kind: ClassVar[str] = "gated"


@dataclass(frozen=True, kw_only=True)
class LayeredConfig(TowerConfig, PoolingConfig):
    """A fusion with layers."""

    norm_eps: float = 1e-6
    """epsilon of the layer norms"""
    depth: int = 1
    """number of layers"""


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(LayeredConfig):
    """The modalities' vectors through self-attention."""

    kind: ClassVar[str] = "attention"


@dataclass(frozen=True, kw_only=True)
class CrossConfig(LayeredConfig):
    """The tokens of one modality look at all others'."""

    kind: ClassVar[str] = "cross"
    query: str
    """name of the modality whose tokens look"""


@dataclass(frozen=True, kw_only=True)
class JointConfig(LayeredConfig):
    """All modalities' tokens through one transformer."""

    kind: ClassVar[str] = "joint"


@dataclass(frozen=True, kw_only=True)
class BottleneckConfig(LayeredConfig):
    """Modalities that exchange what they know through a few tokens (MBT, arXiv:2107.00135)."""

    kind: ClassVar[str] = "bottleneck"
    depth: int = 2
    """number of layers"""
    fusion_layer: int = 0
    """the first of the layers that exchanges"""
    bottlenecks: int = 4
    """number of tokens"""


@dataclass(frozen=True, kw_only=True)
class LateConfig(PoolingConfig):
    """Each modality decides; the decisions are combined."""

    kind: ClassVar[str] = "late"
    combine: Combination = "linear"
    """linear, logits, product"""


@dataclass(frozen=True, kw_only=True)
class HybridConfig(LateConfig):
    """A fusion of tokens decides, too."""

    kind: ClassVar[str] = "hybrid"
    fusion: FusionConfig
    """it, of a kind that does not decide itself"""


@dataclass(frozen=True, kw_only=True)
class ImageSizeConfig:
    """The record's own image."""

    image_size: int
    """pixels of a side"""


@dataclass(frozen=True, kw_only=True)
class FusedConfig(ModelConfig):
    """A classifier of any modalities."""

    kind: ClassVar[str] = "fused"
    encoders: Mapping[str, EncoderConfig]
    """an encoder of each modality, by its name"""
    fusion: FusionConfig
    """how they become one"""
    classes: int
    """of an example; 0 with fusion.kind='alone', for a tower without a head"""
    image: ImageSizeConfig | None = None
    """where the modality `image` is the record's own image; none where it is an array like the others"""
