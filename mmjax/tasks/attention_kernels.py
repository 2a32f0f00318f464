"""Kernels that the towers' self-attention runs on."""

from collections.abc import Mapping
from typing import Any

from mmjax.config.schema import RunConfig
from mmjax.errors import UserError
from mmjax.models.config import ImageTextConfig, ModelConfig
from mmjax.models.image_config import PatchesConfig, StreamConfig
from mmjax.nn import attention_kernels, tpu_tiles
from mmjax.nn.config import block_config

_NAMES = {"cudnn": "cuDNN's kernel", "pallas": "mmjax's kernel for TPUs", "xla": "XLA's kernel"}


def choose_kernel(config: RunConfig, tower: str, device: Any, dtype: Any, shards: int = 1) -> str:
    """The attention kernel of a tower, `cudnn`, `pallas` or `xla`.

    Args:
      config: the run's config.
      tower: `image` or `text`.
      device: one of those that will run it.
      dtype: compute type.
      shards: devices of the mesh's axis `tensor`, which share the heads.

    Raises:
      UserError: `attention` asks for a fused one where it does not apply.
    """
    wanted, settings = config.attention, getattr(config.model, tower)
    heads = settings.heads // shards if settings.heads % shards == 0 else settings.heads
    kernel, obstacle = attention_kernels.choose_implementation(wanted, device, dtype, heads, _head_dim(settings))
    if wanted in ("cudnn", "pallas") and obstacle:
        raise UserError(f"attention={wanted!r}: for model.{tower} it {obstacle}; set attention='auto'")
    if kernel == "pallas" and not _suits_tpus(config.model, tower, heads, device.device_kind):
        return "xla"
    return kernel


def image_tokens(settings: PatchesConfig | StreamConfig) -> int:
    """Tokens of an image in a tower with such settings."""
    registers = settings.registers if isinstance(settings, PatchesConfig) else 0
    return (settings.image_size // settings.patch_size) ** 2 + int(settings.class_token) + registers


def _head_dim(settings: Any) -> int:
    """Numbers of a head of a tower."""
    return block_config(settings.block).head_dim or settings.width // settings.heads


def describe(kernels: Mapping[str, str]) -> str:
    """Which kernel each tower's attention runs on."""
    if len(set(kernels.values())) <= 1:
        return _NAMES[next(iter(kernels.values()), "xla")]
    return ", ".join(f"{tower} {_NAMES[kernel]}" for tower, kernel in kernels.items())


def _suits_tpus(model: ModelConfig, tower: str, heads: int, device_kind: str) -> bool:
    """Whether a tower is for the TPU's kernel: many tokens, of which none stands for nothing, and room on the chip."""
    if tower != "image" or not isinstance(model, ImageTextConfig):
        return False
    if not isinstance(model.image, PatchesConfig):  # ViLT's, which reads texts, with padding, beside the patches
        return False
    tokens = image_tokens(model.image)
    needed = tpu_tiles.bytes_needed(tokens, heads, _head_dim(model.image))
    return tokens in tpu_tiles.TOKENS and needed <= tpu_tiles.on_chip_memory(device_kind)
