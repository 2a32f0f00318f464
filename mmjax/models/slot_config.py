"""Fields of what fills a slot of a model, and the names of the slots."""

from dataclasses import dataclass
from typing import ClassVar, Literal

# Slots beside `image` and `text`: what a model reads of an example, by the names that records have for it.
SLOTS = ("video", "audio", "series", "table")
MODALITIES = ("image", *SLOTS)
# What examples of a modality are counted as.
UNITS = {"image": "images", "video": "videos", "audio": "sounds", "series": "series", "table": "rows"}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """An encoder of one modality, which reads an array an example, of so many `axes`, such as (steps, channels)."""

    kind: ClassVar[str]
    axes: ClassVar[str] = ""
    ranks: ClassVar[tuple[int, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class SlotConfig(EncoderConfig):
    """What fills a slot of a model: an encoder, by its `kind`, which is the slot's own name where it is left out."""


@dataclass(frozen=True, kw_only=True)
class TowerSlotConfig(SlotConfig):
    """What fills a slot of a model of towers: an encoder and the head of its embedding."""

    pool: Literal["cls", "mean", "unit_mean", "last", "map"] = "mean"
    """what the embedding is made of: cls (the first token), mean (of valid tokens), unit_mean (of the embeddings of
    valid tokens, made of unit length before: CLIP4Clip's of frames), last (token), map (attention)"""
    projection: Literal["linear", "bias", "none"] = "linear"
    """to the shared space: linear, bias (linear with bias), none (then the widths must be equal)"""
