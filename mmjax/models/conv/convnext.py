"""ConvNeXt (arXiv:2201.03545) as timm has it: depthwise convolutions of 7x7 and MLPs, in four stages."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from mmjax.models.encoders import Encoded
from mmjax.nn.block import drop_path
from mmjax.nn.convolution import Conv
from mmjax.nn.layers import broadcast_parameter, fold_keys
from mmjax.nn.mlp import Mlp
from mmjax.nn.norms import layer_norm

_PATCH, _WINDOW = 4, 7
_STD = 0.02  # of the paper's initialisation


class ConvNeXtBlock(nn.Module):
    """A residual block. Parameters: `conv` (depthwise), `norm`, `mlp`, `layer_scale`.

    Attributes:
      activation, norm_eps, layer_scale: as in `ConvNeXt`.
      drop_path: rate of this block.
    """

    activation: str
    norm_eps: float
    layer_scale: float
    drop_path: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], keys: Key[Array, " B"] | None = None) -> Float[Array, "B H W C"]:
        width = x.shape[-1]
        conv = Conv(width, _WINDOW, 1, _WINDOW // 2, width, use_bias=True, std=_STD, dtype=self.dtype, name="conv")
        y = layer_norm(self.norm_eps, self.dtype, "norm")(conv(x))
        y = Mlp(4 * width, self.activation, _STD, self.dtype, name="mlp")(y)
        scale = self.param("layer_scale", nn.initializers.constant(self.layer_scale), (width,), jnp.float32)
        return x + drop_path(y * broadcast_parameter(scale, y.shape, self.dtype), self.drop_path, keys)


class ConvNeXt(nn.Module, kw_only=True):
    """The tower: tokens are the cells of the last stage [B, H/32 * W/32, widths[-1]], without the norm of its head.

    Parameters: `stem`, `stem_norm`, `stageN_norm` and `stageN_conv` before all stages but the first, `stageN_blockM`.

    Attributes:
      image_size: pixels of a side of the images that it is trained for; others are read, too.
      blocks, widths: of each stage.
      activation: of the MLPs.
      norm_eps: epsilon of the layer norms.
      layer_scale: what the scale of every residual branch starts at.
      drop_path: stochastic-depth rate of the last block, growing linearly from 0 at the first.
      remat: `full` to compute blocks again in the backward pass.
    """

    image_size: int
    blocks: Sequence[int]
    widths: Sequence[int]
    activation: str = "gelu"
    norm_eps: float = 1e-6
    layer_scale: float = 1e-6
    drop_path: float = 0.0
    remat: str = "none"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B H W 3"],
        keys: Key[Array, " B"] | None = None,
        *,
        pool_kind: str | None = None,
    ) -> Encoded:
        """Encodes normalised images; `keys` turn stochastic depth on. All tokens are given, whatever pools them."""
        del pool_kind
        x = images.astype(self.dtype)
        block = nn.remat(ConvNeXtBlock) if self.remat == "full" else ConvNeXtBlock
        rates = np.linspace(0, self.drop_path, sum(self.blocks))
        settings: dict[str, Any] = dict(
            activation=self.activation, norm_eps=self.norm_eps, layer_scale=self.layer_scale
        )
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            if stage:
                x = layer_norm(self.norm_eps, self.dtype, f"stage{stage}_norm")(x)
            size, name = (2, f"stage{stage}_conv") if stage else (_PATCH, "stem")
            x = Conv(width, size, size, use_bias=True, std=_STD, dtype=self.dtype, name=name)(x)
            if not stage:
                x = layer_norm(self.norm_eps, self.dtype, "stem_norm")(x)
            for index in range(count):
                number = sum(self.blocks[:stage]) + index
                rate = float(rates[number])
                make = block(**settings, drop_path=rate, dtype=self.dtype, name=f"stage{stage}_block{index}")
                x = make(x, fold_keys(keys, number) if rate else None)
        return Encoded(x.reshape(len(x), -1, x.shape[-1]))
