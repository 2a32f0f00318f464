"""Fields of the layers of a transformer."""

from dataclasses import dataclass, field
from typing import Literal

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
Remat = Literal["none", "auto", "full", "attention", "dots"]
Norm = Literal["pre", "post"]
# Metadata of a field that is a rate, in [0, 1), of what training does at random: where one is above 0, layers get keys.
NOISE = {"noise": True}


@dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """Layers of a transformer, which are as wide as what they belong to."""

    depth: int
    """number of layers"""
    heads: int
    """attention heads"""
    mlp_dim: int
    """hidden units of the MLP"""
    activation: Activation = "gelu"
    """gelu (OpenCLIP), gelu_tanh (big_vision, Hugging Face's SigLIP), quick_gelu (OpenAI's CLIP), relu, silu"""
    norm_eps: float = 1e-5
    """epsilon of the layer norms"""
    dropout: float = field(default=0.0, metadata=NOISE)
    """training: rate on all residual branches"""
    drop_path: float = field(default=0.0, metadata=NOISE)
    """training: stochastic-depth rate of the last layer, growing linearly from 0 at the first"""
    scan: bool | Literal["auto"] = "auto"
    """one compiled layer is looped over the stack; 'auto': where that is faster, see docs/scaling.md"""
    remat: Remat = "none"
    """what is kept for the backward pass: none (all), dots, attention, full (nothing); 'auto' as memory allows"""
    remat_keep: int = 0
    """how many of the last layers keep everything all the same"""


@dataclass(frozen=True, kw_only=True)
class TowerConfig(LayersConfig):
    """Layers with a width."""

    width: int
    """numbers of a token"""


@dataclass(frozen=True, kw_only=True)
class CrossLayersConfig(LayersConfig):
    """ALBEF's layers that look at the image; they are as wide as the text's."""

    norm: Norm = "pre"
    """pre (GPT) or post (BERT)"""
    qk_norm: bool = False
    """norms of queries and keys"""
    cross_mlp: bool = False
    """an MLP after cross-attention, too"""


@dataclass(frozen=True, kw_only=True)
class DecoderLayersConfig(LayersConfig):
    """CoCa's decoder; it is as wide as the text tower."""

    qk_norm: bool = False
    """norms of queries and keys"""
