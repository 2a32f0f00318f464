"""Fields of the evaluation of `data.eval`."""

from dataclasses import dataclass


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
