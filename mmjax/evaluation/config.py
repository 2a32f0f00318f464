"""Fields of the evaluation of `data.eval`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """When a run is evaluated, and what the evaluation reads of a record."""

    every: int = 1000
    """steps; 0 = only at the end"""
    batch_size: int = 256
    """rows encoded at a time over all devices, and rows of the held-out loss"""
    image_key: str = ""
    """as data.image_key, for data.eval"""
    caption_keys: str = ""
    """as data.caption_keys, for data.eval"""
    meteor: bool = False
    """METEOR of written captions: needs pip install 'mmjax[metrics]' and Java"""


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How text is written in evaluation."""

    method: Literal["greedy", "beam", "sample"] = "greedy"
    """how text is written in evaluation: 'greedy', 'beam', 'sample'"""
    max_tokens: int = 0
    """at most; 0 = as many as a text has, or as there are positions after the longest question"""
    min_tokens: int = 0
    """at least"""
    beams: int = 4
    """hypotheses of beam search"""
    length_penalty: float = 1.0
    """beam: score = log-probability / length ** this"""
    temperature: float = 1.0
    """sample: what the logits are divided by"""
    top_k: int = 0
    """sample: among so many tokens; 0 = all"""
    top_p: float = 1.0
    """sample: among the likeliest that have this probability together"""
