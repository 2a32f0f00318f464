"""Fields of the objectives: their weights, and how their losses are computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class ObjectiveWeights:
    """Weights: CLIP {itc: 1}, SigLIP {sigmoid: 1}, CoCa {itc: 1, caption: 2}, ALBEF {itc: 1, itm: 1, mlm: 1}."""

    itc: float = 0.0
    """softmax contrast of images and texts"""
    sigmoid: float = 0.0
    """SigLIP's"""
    triplet: float = 0.0
    """hinge on the hardest negatives (VSE++)"""
    itm: float = 0.0
    """image-text matching on hard negatives"""
    mlm: float = 0.0
    """masked words, given the image"""
    mim: float = 0.0
    """masked patches, given the text"""
    caption: float = 0.0
    """each next token of the text, given the image"""
    vqa: float = 0.0
    """the answer to a question, among a list"""
    classify: float = 0.0
    """the class of an example of several modalities"""
    sync: float = 0.0
    """the shift in time between a video and its sound"""
    separate: float = 0.0
    """the mask of the sound that belongs to pictures, in a mixture"""
    added: Mapping[str, float] = field(default_factory=dict)
    """weights of the objectives of plugins, by name; in a config they are objectives.NAME"""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """How the losses are computed."""

    impl: Literal["dense", "gather", "ring"] = "dense"
    """dense, gather, ring: the same value and gradients; see docs/scaling.md"""
    block_size: int = 1024
    """gather, ring: rows and columns of the tiles of logits, of which one is alive at a time"""
    precision: Literal["default", "high", "highest"] = "highest"
    """of its matrix products"""
    label_smoothing: float = 0.0
    """caption, classify: share of the target spread over all tokens or classes"""
    contrastive_smoothing: float = 0.0
    """itc, 'dense' only: share of the target spread over all rows (BLIP-2: 0.1)"""
    triplet_margin: float = 0.2
    """how much nearer than a negative the positive is to be"""
    triplet_negatives: Literal["hardest", "semi-hard", "sum"] = "hardest"
    """'hardest', 'semi-hard', 'sum'"""
    itm_negatives: Literal["global", "local"] = "global"
    """drawn among the whole batch, or among a device's own rows: 'local'"""
    mlm_rate: float = 0.15
    """share of a text's tokens that are masked"""
    mim_ratio: float = 0.5
    """share of an image's patches that are masked"""
    sync_shifts: int = 15
    """sync: video frames by which the sound is shifted, each way"""
    sync_windows: int = 1
    """sync: windows of a clip, one frame apart, over which the similarities at a shift are averaged"""
    mask_target: Literal["binary", "ratio"] = "binary"
    """separate: 'binary' (more than half of the mixture's magnitude), 'ratio' (its share, at most 1)"""
    mask_loss: Literal["bce", "l1"] = "bce"
    """separate: 'bce' (cross-entropy), 'l1'"""
    mask_weighted: bool = True
    """separate: cells count by log(1 + the mixture's magnitude), from 0.001 to 10"""
    added: Mapping[str, Any] = field(default_factory=dict)
    """fields of the objectives of plugins, by name; in a config they are loss.NAME"""
