"""Fields of the models of images and texts, by `model.kind`.

Sizes are in `models/variants/`. A field without a default is given by its size.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from mmjax.models.image_config import ImageConfig, ImageSlotConfig, PatchesConfig, StreamConfig, VisionConfig
from mmjax.models.slot_config import SlotConfig
from mmjax.models.text_config import (
    BLIPTextConfig,
    CoCaTextConfig,
    DecoderTextConfig,
    FusedTextConfig,
    LSTMTextConfig,
    PrefixTextConfig,
    QFormerTextConfig,
    StreamTextConfig,
    TextConfig,
    TextTowerConfig,
)
from mmjax.nn.config import CrossLayersConfig, DecoderLayersConfig, TowerConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model; `model.kind` says which, two towers where it is left out."""

    kind: ClassVar[str]

    init: str = "openai"
    """whose rule fresh parameters are drawn by; see mmjax/models/initialisation.py"""
    max_logit_scale: float | None = None
    """of the scale of the logits after every update; none for no limit"""
    modality_dropout: float = 0.0
    """training: share of the examples from which a modality is hidden; of model.kind='fused'"""


@dataclass(frozen=True, kw_only=True)
class ImageTextConfig(ModelConfig):
    """A model of texts and images, or of another modality in place of images; its kind says which towers.

    `hides_padding`: no output depends on the padding behind a text, nor on how much there is.
    """

    hides_padding: ClassVar[bool] = False

    image: ImageConfig | None
    """the image tower"""
    text: TextConfig
    """the text tower"""


@dataclass(frozen=True, kw_only=True)
class SlotsConfig:
    """Slots of a model that reads one of them beside text."""

    hides_padding: ClassVar[bool] = True

    image: VisionConfig | None = None
    """the image tower; none where another slot is filled"""
    video: SlotConfig | None = None
    """an encoder of videos in its place"""
    audio: SlotConfig | None = None
    """an encoder of sounds in its place"""
    series: SlotConfig | None = None
    """an encoder of time series in its place"""
    table: SlotConfig | None = None
    """an encoder of a table's columns in its place"""


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """An embedding of images and texts in one space."""

    embed_dim: int
    """width of the shared space"""
    logit_scale_init: float = 1 / 0.07
    """of the scale of the logits itself, not of its logarithm: 1 / 0.07 for CLIP, 10 for SigLIP"""
    logit_bias_init: float | None = None
    """none for no bias; -10 for SigLIP"""


@dataclass(frozen=True, kw_only=True)
class FusionHeadsConfig:
    """Heads of what has seen image and text."""

    match: bool = False
    """a head for image-text matching"""
    answers: int = 0
    """of the head for questions; 0 for none"""


@dataclass(frozen=True, kw_only=True)
class CaptionStartConfig:
    """How captions begin."""

    caption_id: int | None = None
    """token in place of a text's first one when it is a caption (BLIP's [DEC]); none to leave it"""


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig(ContrastConfig, ImageTextConfig):
    """CLIP and SigLIP."""

    kind: ClassVar[str] = "two_tower"
    image: ImageSlotConfig
    """the image tower"""
    text: TextTowerConfig
    """the text tower"""


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig(CaptionStartConfig, SlotsConfig, ImageTextConfig):
    """A vision transformer and a transformer that writes."""

    kind: ClassVar[str] = "captioner"
    text: DecoderTextConfig
    """the decoder"""
    question: BLIPTextConfig | None = None
    """layers that read a question with the image, for a decoder that looks at what they give; none: at the image"""
    decoder: Literal["transformer"] = "transformer"
    """what writes: transformer, lstm"""


@dataclass(frozen=True, kw_only=True)
class LSTMCaptionerConfig(CaptionStartConfig, SlotsConfig, ImageTextConfig):
    """A vision transformer and an LSTM that writes."""

    kind: ClassVar[str] = "captioner"
    text: LSTMTextConfig
    """the decoder"""
    question: BLIPTextConfig | None = None
    """of a transformer alone; none"""
    decoder: Literal["lstm"]
    """what writes: transformer, lstm"""


@dataclass(frozen=True, kw_only=True)
class CoCaConfig(ContrastConfig, SlotsConfig, ImageTextConfig):
    """CoCa (arXiv:2205.01917)."""

    kind: ClassVar[str] = "coca"
    image: PatchesConfig | None = None
    """the image tower; none where another slot is filled"""
    text: CoCaTextConfig
    """the text tower"""
    decoder: DecoderLayersConfig
    """the layers on top of the text tower, which look at the image"""
    queries: int = 256
    """of the attentional pooler, at least 2; 0: no pooler, the class token is embedded and the decoder sees patches"""
    pool_heads: int = 8
    """attention heads of the pooler"""
    class_token_mask: Literal["exact", "shifted"] = "exact"
    """whom a text's class token sees: exact (the text, itself), shifted (one place late, as OpenCLIP's weights)"""


@dataclass(frozen=True, kw_only=True)
class ALBEFConfig(FusionHeadsConfig, ContrastConfig, SlotsConfig, ImageTextConfig):
    """ALBEF (arXiv:2107.07651)."""

    kind: ClassVar[str] = "albef"
    text: FusedTextConfig
    """the layers of the text that see no image"""
    fusion: CrossLayersConfig
    """those that do"""
    mlm: bool = False
    """a head for masked words"""


@dataclass(frozen=True, kw_only=True)
class ViLTConfig(FusionHeadsConfig, ImageTextConfig):
    """ViLT (arXiv:2102.03334)."""

    kind: ClassVar[str] = "vilt"
    hides_padding: ClassVar[bool] = True
    image: StreamConfig
    """the layers, which read patches and words"""
    text: StreamTextConfig
    """the words' embeddings"""
    pooler: bool = True
    """a dense layer before the heads"""
    mlm: bool = False
    """a head for masked words"""
    mim: bool = False
    """a head for the pixels of masked patches"""


@dataclass(frozen=True, kw_only=True)
class QFormerConfig(CaptionStartConfig, FusionHeadsConfig, ContrastConfig, SlotsConfig, ImageTextConfig):
    """BLIP-2's Q-Former (arXiv:2301.12597)."""

    kind: ClassVar[str] = "qformer"
    text: QFormerTextConfig
    """the layers that read queries and text"""
    queries: int = 32
    """learned tokens that look at the image"""
    caption: bool = False
    """a head for captions"""


@dataclass(frozen=True, kw_only=True)
class BLIPConfig(CaptionStartConfig, FusionHeadsConfig, ContrastConfig, SlotsConfig, ImageTextConfig):
    """BLIP's mixture of encoder and decoder (arXiv:2201.12086)."""

    kind: ClassVar[str] = "blip"
    text: BLIPTextConfig
    """the layers that read a text, read it with an image, and write"""
    caption: bool = False
    """a head for captions"""
    match_id: int | None = None
    """token in place of a text's first one when it is matched (BLIP's [ENC]); none to leave it"""


@dataclass(frozen=True, kw_only=True)
class QueriesConfig(TowerConfig):
    """BERT's layers over learned queries that look at an image: BLIP-2's Q-Former without its texts."""

    queries: int = 32
    """learned tokens that look at the image"""
    cross_every: int = 2
    """every k-th layer, the first one among them, looks at the image (BLIP-2: 2)"""


@dataclass(frozen=True, kw_only=True)
class PrefixLMConfig(SlotsConfig, ImageTextConfig):
    """LLaVA (arXiv:2304.08485), PaliGemma (arXiv:2407.07726), BLIP-2 (arXiv:2301.12597); GIT (arXiv:2205.14100)."""

    kind: ClassVar[str] = "prefix_lm"
    text: PrefixTextConfig
    """the decoder"""
    qformer: QueriesConfig | None = None
    """queries that look at the image and stand for it in front of the decoder's text (BLIP-2); none: its own tokens"""
    connector: Literal["linear", "mlp2x_gelu", "linear_norm"] = "mlp2x_gelu"
    """from the image's width to the decoder's: linear, mlp2x_gelu, linear_norm (a layer norm after it, GIT)"""
    feature_layer: int | None = None
    """which block's output is taken, without the final norm: -2 is the last but one; none: the last, with it"""
    prefix: Literal["full", "causal"] = "full"
    """whom image tokens see: full (all of them), causal (those before)"""
    prefix_text: bool = False
    """the text up to its first `sep_id`, a question, belongs to a full prefix"""
    image_id: int | None = None
    """id of the token whose place in a text the image takes (LLaVA's <image>); none: the image stands first"""


@dataclass(frozen=True, kw_only=True)
class SeparatorConfig(ModelConfig):
    """Sound of Pixels (arXiv:1804.03160): a U-Net of mixed sounds, and an encoder of what is seen."""

    kind: ClassVar[str] = "separator"
    image: VisionConfig | None = None
    """the image tower; none where `video` is filled"""
    video: SlotConfig | None = None
    """an encoder of videos in its place"""
    channels: tuple[int, ...]
    """of the U-Net's levels, the finest first; each halves frames and bins"""
    features: int = 32
    """maps of the mixture that pictures weigh (K)"""
    upsample: Literal["bilinear", "subpixel"] = "bilinear"
    """bilinear, before a convolution, as published; subpixel: a linear map to four cells, a tenth of the work"""
    pictures: bool = True
    """false: one learned vector in place of pictures, to compare with"""
