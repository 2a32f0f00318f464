"""Fields of the layers of a transformer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"]
Remat = Literal["none", "auto", "full", "attention", "dots"]
Norm = Literal["pre", "post"]
NormType = Literal["layer_norm", "rms_norm", "gemma_rms_norm"]
# Metadata of a field that is a rate, in [0, 1), of what training does at random: where one is above 0, layers get keys.
NOISE = {"noise": True}
# Names of the statistics of batch norm: parameters that get no gradient, and that nothing trains.
STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """What a layer has otherwise than CLIP's: EVA-02's, DINOv2's, Llama's and Gemma's are settings of it."""

    norm_type: NormType = "layer_norm"
    """layer_norm, rms_norm (Llama), gemma_rms_norm (times 1 + its scale)"""
    res_post_norm: bool = False
    """norms are of what a branch adds, not of what it reads (EVA-02-E)"""
    layer_scale: float = 0.0
    """first value of the learned scales of what a branch adds (DINOv2: 1.0, OpenCLIP: 1e-4); 0 for no such scales"""
    kv_heads: int = 0
    """heads of keys and values, of which each serves several queries; 0 for as many as of queries"""
    head_dim: int = 0
    """numbers of a head; 0 for the width, divided by the heads"""
    qkv_bias: bool = True
    """queries, keys and values have biases"""
    key_bias: bool = True
    """keys have a bias, where queries and values do (EVA: no)"""
    out_bias: bool = True
    """the projection of what the heads return has a bias"""
    attention_norm: bool = False
    """a norm of what the heads return, before its projection (EVA-02)"""
    mlp_bias: bool = True
    """the layers of the MLP have biases"""
    mlp_gate: bool = False
    """the MLP is gated: SwiGLU with silu, GeGLU with gelu"""
    mlp_norm: bool = False
    """a norm of the MLP's hidden units (EVA-02)"""
    rope: Literal["none", "half", "interleaved"] = "none"
    """rotary positions: none, half (numbers i and i + K/2 of a head turn together: Llama), interleaved (EVA-02)"""
    rope_theta: float = 10_000.0
    """base of the wavelengths of rotary positions"""
    rope_grid: int = 0
    """images: patches of a side that positions are stretched to (EVA-02: 16); 0 for as many as there are"""
    rope_offset: float = 0.0
    """images: position of the first patch (Perception Encoder: 1)"""
    rope_axes: Literal["ij", "xy"] = "ij"
    """images: rows before columns (EVA-02), or xy: columns before rows (Perception Encoder)"""


def block_config(block: BlockConfig | Mapping[str, Any] | None) -> BlockConfig:
    """What a layer has, from a config's group or its fields; None for a layer like CLIP's."""
    return block if isinstance(block, BlockConfig) else BlockConfig(**(block or {}))


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
    block: BlockConfig | None = None
    """what a layer has otherwise than CLIP's, such as block.rope or block.mlp_gate; none for nothing"""


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
