"""Fields of the mesh of devices."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How devices are laid out, and which of them holds which part of an array."""

    data: int = -1
    """devices along this axis; -1 takes what is left"""
    fsdp: int = 1
    """devices along this axis, which share parameters and optimizer state; -1 takes what is left"""
    tensor: int = 1
    """devices along this axis, which share attention heads and hidden units; -1 takes what is left"""
    slices: int = 0
    """groups of devices with slower links between them, crossed by `data` alone; 0 = the TPU slices"""
    sharding: Literal["replicated", "fsdp", "fsdp+tensor"] = "fsdp+tensor"
    """preset: replicated, fsdp, fsdp+tensor"""
    shard_optimizer: bool = False
    """divide the optimizer's moments over `data` too, and leave the parameters whole (ZeRO-1, arXiv:1910.02054)"""
    rules: tuple[tuple[str, tuple[str | tuple[str, ...] | None, ...]], ...] = ()
    """(path regex, axes of the array's last dimensions), before the preset's"""
