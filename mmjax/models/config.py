"""Fields of the models of images and texts, by `model.kind`.

Sizes are in `models/variants/`. A field without a default is given by its size.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mmjax.models.slot_config import SlotConfig
from mmjax.nn.config import NOISE, Activation, CrossLayersConfig, DecoderLayersConfig, Norm, Remat, TowerConfig

TextHead = Literal["none", "tied", "linear", "mlm"]


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
class TextConfig:
    """What reads or writes token ids."""

    vocab_size: int
    """rows of the token table"""
    context_length: int
    """rows of the position table: the longest text"""
    eos_id: int | None = None
    """id of the end-of-text token"""


@dataclass(frozen=True, kw_only=True)
class TextTransformerConfig(TextConfig, TowerConfig):
    """A transformer over token ids, causal (CLIP) or not (SigLIP)."""

    causal: bool = True
    """a token sees itself and those before it"""
    mask_padding: bool = False
    """padding is not attended to; CLIP and SigLIP leave this off"""
    eos_id: int = 49407
    """id of the end-of-text token; -1 for the largest id of a text"""


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig(TextTransformerConfig):
    """The text tower of two, with its head."""

    required: ClassVar[tuple[str, ...]] = ("activation", "norm_eps")  # the head reads them, too

    pool: Literal["mean", "last", "eos", "map"]
    """what the embedding is made of: eos (the end of the text), last (token), mean, map (attention)"""
    projection: Literal["linear", "bias", "none"]
    """to the shared space: linear, bias (linear with bias), none (then the widths must be equal)"""


@dataclass(frozen=True, kw_only=True)
class WordsConfig(TextConfig):
    """Embeddings of token ids, and a head over the vocabulary."""

    norm: Norm = "pre"
    """pre (GPT) or post (BERT)"""
    token_types: int = 0
    """rows of the table of token types (BERT's segments); 0 for none"""
    embedding_norm: bool = False
    """a layer norm of the embedded tokens (BERT)"""
    head_bias: bool = True
    """the linear head has a bias"""
    sep_id: int | None = None
    """id of the token between a question and its answer; none where there is none"""


@dataclass(frozen=True, kw_only=True)
class FusedTextConfig(WordsConfig, TowerConfig):
    """Text of a model whose image and text see each other; the model decides who sees whom, and the head."""

    final_norm: bool = True
    """a layer norm after the last layer (GPT)"""
    cross_from: int = 0
    """the first layer that may look at the image"""
    cross_mlp: bool = False
    """an MLP after cross-attention, too"""


@dataclass(frozen=True, kw_only=True)
class CoCaTextConfig(WordsConfig, TowerConfig):
    """CoCa's text tower, which sees no image."""

    cross_every: int = 0
    """0: its decoder looks at the image"""
    cross_from: int = 0
    """not read at `cross_every` 0"""
    cross_mlp: bool = False
    """not read at `cross_every` 0"""


@dataclass(frozen=True, kw_only=True)
class QFormerTextConfig(WordsConfig, TowerConfig):
    """BERT, which reads queries and text."""

    final_norm: bool = True
    """a layer norm after the last layer (GPT)"""
    cross_every: int = 0
    """every k-th layer from `cross_from` on looks at the image (BLIP-2: 2)"""
    cross_from: int = 0
    """the first layer that looks at the image"""


@dataclass(frozen=True, kw_only=True)
class PrefixTextConfig(FusedTextConfig):
    """A decoder that reads image tokens and then text."""

    head: TextHead = "none"
    """over the vocabulary: tied (the token table, as GPT-2), linear, mlm (BERT's), none"""


@dataclass(frozen=True, kw_only=True)
class DecoderTextConfig(PrefixTextConfig):
    """A decoder that looks at the image."""

    causal: bool = True
    """a token sees itself and those before it"""
    cross_every: int = 0
    """every k-th layer from `cross_from` on looks at the image"""
    key_bias: bool = True
    """keys have a bias (Whisper's decoder: no)"""


@dataclass(frozen=True, kw_only=True)
class LSTMTextConfig(TextConfig):
    """The LSTM of Show, Attend and Tell (arXiv:1502.03044)."""

    width: int
    """of the LSTM and of the attention"""
    embed_width: int
    """of the word embedding"""
    layers: int = 1
    """of the LSTM"""
    dropout: float = field(default=0.0, metadata=NOISE)
    """training: rate on embeddings, between layers and before the logits"""
    sep_id: int | None = None
    """id of the token between a question and its answer; none where there is none"""


@dataclass(frozen=True, kw_only=True)
class StreamTextConfig(WordsConfig):
    """ViLT's words, which have no layers of their own."""

    activation: Activation = "gelu"
    """of the head for masked words"""
    norm_eps: float = 1e-5
    """epsilon of the layer norms"""
    dropout: float = field(default=0.0, metadata=NOISE)
    """training: rate on the embeddings"""
    drop_path: float = field(default=0.0, metadata=NOISE)
    """not read: words have no layers"""
    scan: bool | Literal["auto"] = "auto"
    """not read: words have no layers"""
    remat: Remat = "none"
    """not read: words have no layers"""
    remat_keep: int = 0
    """not read: words have no layers"""
    cross_from: int = 0
    """not read: words have no layers"""
    cross_mlp: bool = False
    """not read: words have no layers"""


@dataclass(frozen=True, kw_only=True)
class StreamConfig(ImageConfig, TowerConfig):
    """ViLT's layers, which read patches and words."""

    patch_size: int
    """pixels of a side of a patch"""
    class_token: bool = True
    """a learned token before the patches"""
    patch_bias: bool = True
    """the patch projection has a bias"""


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
class TwoTowerConfig(ContrastConfig, ImageTextConfig):
    """CLIP and SigLIP."""

    kind: ClassVar[str] = "two_tower"
    image: ImageTowerConfig
    """the image tower"""
    text: TextTowerConfig
    """the text tower"""


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig(SlotsConfig, ImageTextConfig):
    """A vision transformer and a transformer that writes."""

    kind: ClassVar[str] = "captioner"
    text: DecoderTextConfig
    """the decoder"""
    decoder: Literal["transformer"] = "transformer"
    """what writes: transformer, lstm"""


@dataclass(frozen=True, kw_only=True)
class LSTMCaptionerConfig(SlotsConfig, ImageTextConfig):
    """A vision transformer and an LSTM that writes."""

    kind: ClassVar[str] = "captioner"
    text: LSTMTextConfig
    """the decoder"""
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
    """of the attentional pooler, at least 2"""
    pool_heads: int = 8
    """attention heads of the pooler"""


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
class QFormerConfig(FusionHeadsConfig, ContrastConfig, SlotsConfig, ImageTextConfig):
    """BLIP-2's Q-Former (arXiv:2301.12597)."""

    kind: ClassVar[str] = "qformer"
    text: QFormerTextConfig
    """the layers that read queries and text"""
    queries: int = 32
    """learned tokens that look at the image"""
    caption: bool = False
    """a head for captions"""
    caption_id: int | None = None
    """token in place of a text's first one when it is a caption (BLIP-2's [DEC]); none to leave it"""


@dataclass(frozen=True, kw_only=True)
class PrefixLMConfig(SlotsConfig, ImageTextConfig):
    """LLaVA (arXiv:2304.08485) and PaliGemma (arXiv:2407.07726)."""

    kind: ClassVar[str] = "prefix_lm"
    text: PrefixTextConfig
    """the decoder"""
    connector: Literal["linear", "mlp2x_gelu"] = "mlp2x_gelu"
    """from the image's width to the decoder's: linear, mlp2x_gelu"""
    feature_layer: int | None = None
    """which block's output is taken, without the final norm: -2 is the last but one; none: the last, with it"""
    prefix: Literal["full", "causal"] = "full"
    """whom image tokens see: full (all of them), causal (those before)"""
    prefix_text: bool = False
    """the text up to its first `sep_id`, a question, belongs to a full prefix"""
