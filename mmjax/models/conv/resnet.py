"""OpenAI's modified ResNet (arXiv:2103.00020): a stem of three convolutions, and means where others take strides."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from mmjax.models.encoders import Encoded
from mmjax.nn.convolution import Conv, FixedBatchNorm, average_pool

_EXPANSION = 4  # channels of a block's result for one of its window


class _Layer(nn.Module):
    """Layers that share a compute type."""

    dtype: DTypeLike

    def convolve(self, x: Float[Array, "B H W C"], width: int, name: str, size: int = 1, stride: int = 1) -> Array:
        """A convolution without bias, and its batch norm: `convNAME`, `normNAME`."""
        x = Conv(width, size, stride, pad=size // 2, dtype=self.dtype, name=f"conv{name}")(x)
        return FixedBatchNorm(dtype=self.dtype, name=f"norm{name}")(x)


class Bottleneck(_Layer):
    """A residual block. Parameters: `conv1` to `conv3`, `norm1` to `norm3`; `conv_skip` and `norm_skip` of the first.

    Attributes:
      width: channels of the window; the result has four times as many.
      stride: side of the windows that are averaged before the last convolution.
    """

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        y = nn.relu(self.convolve(x, self.width, "1"))
        y = nn.relu(self.convolve(y, self.width, "2", size=3))
        y = self.convolve(average_pool(y, self.stride), _EXPANSION * self.width, "3")
        if self.stride > 1 or x.shape[-1] != y.shape[-1]:
            x = self.convolve(average_pool(x, self.stride), y.shape[-1], "_skip")
        return nn.relu(x + y)


class ModifiedResNet(_Layer, kw_only=True):
    """The tower: tokens are the cells of the last stage [B, H/32 * W/32, 32 * stem_width].

    Statistics of batch norm are parameters that nothing trains, in training as in evaluation.

    Parameters: `stem` (`conv1` to `conv3`, `norm1` to `norm3`), `stageN_blockM`.

    Attributes:
      image_size: pixels of a side that the positions of a head are made for; others are read, too.
      blocks: of each stage.
      stem_width: channels of the stem.
      remat: `full` to compute blocks again in the backward pass.
    """

    dtype: DTypeLike = jnp.float32
    image_size: int
    blocks: Sequence[int]
    stem_width: int = 64
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B H W 3"],
        keys: Key[Array, " B"] | None = None,
        *,
        pool_kind: str | None = None,
    ) -> Encoded:
        """Encodes normalised images; it draws nothing, and gives all tokens whatever pools them."""
        del keys, pool_kind
        x = images.astype(self.dtype)
        for index, share in enumerate((2, 2, 1)):
            name, stride = f"{index + 1}", 2 if index == 0 else 1
            x = nn.relu(self.convolve(x, self.stem_width // share, f"_stem{name}", size=3, stride=stride))
        x = average_pool(x, 2)
        block = nn.remat(Bottleneck) if self.remat == "full" else Bottleneck
        for stage, count in enumerate(self.blocks):
            for index in range(count):
                stride = 2 if stage and index == 0 else 1
                width, name = self.stem_width * 2**stage, f"stage{stage}_block{index}"
                x = block(self.dtype, width=width, stride=stride, name=name)(x)
        return Encoded(x.reshape(len(x), -1, x.shape[-1]))
