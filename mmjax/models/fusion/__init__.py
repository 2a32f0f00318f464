"""Fusion of several modalities, and the model that classifies what is fused."""

from typing import Any

from mmjax import registry


def __getattr__(name: str) -> Any:
    """`KINDS` and `COMBINATIONS`, which recipes written for mmjax 0.1 import from here."""
    if name not in ("COMBINATIONS", "KINDS"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mmjax.models.fusion.config import COMBINATIONS

    return COMBINATIONS if name == "COMBINATIONS" else tuple(registry.fusions)
