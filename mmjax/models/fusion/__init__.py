"""Fusion of several modalities, and the model that classifies what is fused."""

from mmjax.models.fusion.kinds import COMBINATIONS, KINDS

__all__ = ["COMBINATIONS", "KINDS"]
