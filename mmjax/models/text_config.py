"""Fields of what reads or writes texts: `model.text` of the kinds of models."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mmjax.nn.config import NOISE, Activation, Norm, Remat, TowerConfig

TextHead = Literal["none", "tied", "linear", "mlm"]
Positions = Literal["first", "after_pad"]


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
class EmbeddedTextConfig(TextConfig):
    """Embeddings of token ids, and the norm of the layers that read them."""

    norm: Norm = "pre"
    """pre (GPT) or post (BERT)"""
    token_types: int = 0
    """rows of the table of token types (BERT's segments); 0 for none"""
    embedding_norm: bool = False
    """a layer norm of the embedded tokens (BERT)"""


@dataclass(frozen=True, kw_only=True)
class TextTransformerConfig(EmbeddedTextConfig, TowerConfig):
    """A transformer over token ids: causal (CLIP) or not (SigLIP), or BERT's and RoBERTa's."""

    causal: bool = True
    """a token sees itself and those before it"""
    mask_padding: bool = False
    """padding is not attended to; CLIP and SigLIP leave this off"""
    eos_id: int = 49407
    """id of the end-of-text token; -1 for the largest id of a text"""
    pad_id: int | None = None
    """id of the tokens that `mask_padding` masks, wherever they stand; none: those behind a text"""
    positions: Positions = "first"
    """first rows of the table, or after_pad (RoBERTa): those after `pad_id`, counted without padding"""
    final_norm: bool = True
    """a layer norm after the last layer (GPT, CLIP)"""


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig(TextTransformerConfig):
    """The text tower of two, with its head."""

    required: ClassVar[tuple[str, ...]] = ("activation", "norm_eps")  # the head reads them, too

    pool: Literal["mean", "last", "eos", "map", "cls"]
    """what the embedding is made of: eos (the end of the text), last or cls (first token), mean, map (attention)"""
    pooler: bool = False
    """a dense layer and tanh after the first token (BERT)"""
    projection: Literal["linear", "bias", "mlp", "none"]
    """to the shared space: linear, bias (linear with bias), mlp (two layers), none (then the widths must be equal)"""


@dataclass(frozen=True, kw_only=True)
class WordsConfig(EmbeddedTextConfig):
    """Embeddings of token ids, and a head over the vocabulary."""

    head_bias: bool = True
    """the linear head has a bias"""
    sep_id: int | None = None
    """id of the token between a question and its answer; none where there is none"""


@dataclass(frozen=True, kw_only=True)
class BLIPTextConfig(WordsConfig, TowerConfig):
    """BLIP's text, every layer of which looks at the image; also its layers that read questions."""

    final_norm: bool = True
    """a layer norm after the last layer (GPT)"""


@dataclass(frozen=True, kw_only=True)
class FusedTextConfig(BLIPTextConfig):
    """Text of a model whose image and text see each other; the model decides who sees whom, and the head."""

    cross_from: int = 0
    """the first layer that may look at the image"""
    cross_mlp: bool = False
    """an MLP after cross-attention, too"""


@dataclass(frozen=True, kw_only=True)
class CoCaTextConfig(WordsConfig, TowerConfig):
    """CoCa's text tower, which sees no image."""

    pad_id: int | None = None
    """id of padding, by which `class_token_mask` 'shifted' goes"""

    cross_every: int = 0
    """0: its decoder looks at the image"""
    cross_from: int = 0
    """not read at `cross_every` 0"""
    cross_mlp: bool = False
    """not read at `cross_every` 0"""


@dataclass(frozen=True, kw_only=True)
class QFormerTextConfig(BLIPTextConfig):
    """BERT, which reads queries and text."""

    cross_every: int = 0
    """every k-th layer from `cross_from` on looks at the image (BLIP-2: 2)"""
    cross_from: int = 0
    """the first layer that looks at the image"""


@dataclass(frozen=True, kw_only=True)
class PrefixTextConfig(FusedTextConfig):
    """A decoder that reads image tokens and then text."""

    head: TextHead = "none"
    """over the vocabulary: tied (the token table, as GPT-2), linear, mlm (BERT's), none"""
    learned_positions: bool = True
    """a table of positions (Llama and Gemma, which have rotary ones: no)"""
    embed_scale: bool = False
    """embedded tokens are multiplied by the root of the width (Gemma)"""


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
