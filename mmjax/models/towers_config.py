"""Fields of a model of towers of other modalities than images and texts, or of more."""

from dataclasses import dataclass
from typing import ClassVar

from mmjax.models.config import ContrastConfig, ModelConfig
from mmjax.models.image_config import ImageSlotConfig
from mmjax.models.slot_config import TowerSlotConfig
from mmjax.models.text_config import TextTowerConfig


@dataclass(frozen=True, kw_only=True)
class TowersConfig(ContrastConfig, ModelConfig):
    """Towers of any two or more modalities in one space."""

    kind: ClassVar[str] = "two_tower"
    image: ImageSlotConfig | None = None
    """the image tower"""
    text: TextTowerConfig | None = None
    """the text tower"""
    video: TowerSlotConfig | None = None
    """the tower of videos"""
    audio: TowerSlotConfig | None = None
    """the tower of sounds"""
    series: TowerSlotConfig | None = None
    """the tower of time series"""
    table: TowerSlotConfig | None = None
    """the tower of a table's columns"""
    pairs: str = ""
    """which modalities are contrasted, with their weights: 'video+text@1.0,audio+text@0.5'; '' for all pairs alike"""
