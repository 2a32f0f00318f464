"""Sound of Pixels (arXiv:1804.03160): which part of a mixture of sounds belongs to what is seen."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from mmjax.errors import UserError, validate_choice
from mmjax.models import encoders, slots
from mmjax.models.make_model import Model
from mmjax.models.slot_config import MODALITIES, SLOTS
from mmjax.nn import layers
from mmjax.nn.convolution import Conv
from mmjax.nn.norms import layer_norm
from mmjax.utils.largest import largest
from mmjax.utils.random_streams import ExampleStream

_NORM_EPS = 1e-6
_SILENCE = 1e-5  # of magnitudes, below which nothing is told apart
_WIDTH = 768  # of an encoder of a plugin's that has no such field, for its head's initialisation
_SLOPE = 0.2  # of the leaky ReLU, as in pix2pix
_SEEN = {name: getattr(ExampleStream, name.upper()) for name in ("image", *SLOTS)}


class UNet(nn.Module):
    """A U-Net over spectrograms; each level halves both axes.

    Down: convolutions of 4 x 4 with stride 2, layer norms over the channels (pix2pix has batch norms), leaky ReLUs. Up,
    from the last level to the input's resolution, by what `upsample` says, with skip connections.

    Parameters: `down_L`, `down_norm_L`, `up_L`, `up_norm_L` of each level; the first level has no `up_norm`.

    Attributes:
      channels: of the levels, the finest first.
      features: channels of the result.
      upsample: `bilinear`, before a convolution of 3 x 3, as published; `subpixel`, a linear map to four cells, which
        costs a tenth.
      dtype: compute type.
    """

    channels: Sequence[int]
    features: int
    upsample: str = "bilinear"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T F C"]) -> Float[Array, "B T F K"]:
        """Features of each cell.

        Raises:
          UserError: the axes cannot be halved as often as there are levels.
        """
        validate_choice("model.upsample", self.upsample, ("bilinear", "subpixel"))
        unit = 1 << len(self.channels)
        if x.shape[1] % unit or x.shape[2] % unit:
            raise UserError(
                f"model.channels has {len(self.channels)} levels, which halve {x.shape[1]} frames and {x.shape[2]} bins"
                f" as often; make data.separation's multiples of {unit}, or have fewer levels"
            )
        norm = lambda name: layer_norm(_NORM_EPS, self.dtype, name)
        skips = []
        for level, width in enumerate(self.channels):
            x = Conv(width, 4, 2, 1, use_bias=True, dtype=self.dtype, name=f"down_{level}")(x)
            x = nn.leaky_relu(norm(f"down_norm_{level}")(x), _SLOPE)
            skips.append(x)
        for level in reversed(range(len(self.channels))):
            x = self._up(x, level)
            if level:
                x = nn.relu(norm(f"up_norm_{level}")(x))
                x = jnp.concatenate([x, skips[level - 1]], axis=-1)
        return x

    def _up(self, x: Float[Array, "B t f C"], level: int) -> Float[Array, "B T F D"]:
        """Twice as many cells along both axes."""
        width, name = self.channels[level - 1] if level else self.features, f"up_{level}"
        batch, times, bins, _ = x.shape
        if self.upsample == "subpixel":
            x = Conv(4 * width, 1, use_bias=True, dtype=self.dtype, name=name)(x)
            x = x.reshape(batch, times, bins, 2, 2, width).transpose(0, 1, 3, 2, 4, 5)
            return x.reshape(batch, 2 * times, 2 * bins, width)
        x = jax.image.resize(x, (batch, 2 * times, 2 * bins, x.shape[-1]), "bilinear")
        return Conv(width, 3, 1, 1, use_bias=True, dtype=self.dtype, name=name)(x)


class Separator(Model, kw_only=True):
    """A separator: a U-Net makes K maps of the mixture, pictures the K weights by which they are added to a mask.

    Parameters: the encoder of what is seen, by the slot's name with `_encoder`; `to_weights`, from its tokens' maximum
    to K numbers; `sound`, the U-Net; `scale` [K] and `bias` of the sum; without pictures `weights` [K] instead.

    Attributes:
      image, video: settings of the encoder of what is seen, of which one is filled.
      channels, upsample: of the U-Net.
      features: K.
      pictures: whether they are looked at; else one learned vector stands for all.
      image_attention: kernel of the image tower's self-attention, `xla` or `cudnn`.
    """

    image: Mapping[str, Any] | None = None
    video: Mapping[str, Any] | None = None
    channels: Sequence[int]
    features: int = 32
    upsample: str = "bilinear"
    pictures: bool = True
    image_attention: str = "xla"

    serves: ClassVar[tuple[str, ...]] = ("separation",)

    def setup(self):
        if self.pictures:
            self.seen_encoder = self._make_encoder()
            # So that pictures differ in their weights from the first step on: their maxima are much alike.
            std = 4 * getattr(self, self.seen).get("width", _WIDTH) ** -0.5
            self.to_weights = layers.dense_float32(self.features, std=std, dtype=self.dtype)
        else:
            self.weights = self.param("weights", nn.initializers.zeros, (self.features,), jnp.float32)
        self.sound = UNet(self.channels, self.features, self.upsample, self.dtype)
        self.scale = self.param("scale", nn.initializers.ones, (self.features,), jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, (), jnp.float32)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The slots that are filled."""
        return tuple(name for name in MODALITIES if getattr(self, name, None) is not None)

    @property
    def seen(self) -> str:
        """The slot of what is seen."""
        return self.modalities[0]

    def _make_encoder(self) -> nn.Module:
        settings = getattr(self, self.seen)
        if self.seen in SLOTS:
            return slots.make_encoder(f"model.{self.seen}", f"{self.seen}_encoder", settings, self.dtype)
        fixed: dict[str, Any] = dict(dtype=self.dtype, attention_impl=self.image_attention)
        return encoders.build(encoders.VisionTransformer, "image", settings, name="image_encoder", **fixed)

    def picture_weights(self, pictures: Float[Array, "B ..."], keys: Key[Array, " B"] | None = None):
        """The weights of the maps, [B, K] in (0, 1), by normalised pictures."""
        if not self.pictures:
            return jnp.broadcast_to(nn.sigmoid(self.weights), (len(pictures), self.features))
        keys = layers.fold_keys(keys, _SEEN[self.seen])
        if self.seen in SLOTS:
            encoded = slots.encode(getattr(self, self.seen)["kind"], self.seen_encoder, pictures, keys)
        else:
            encoded = self.seen_encoder(pictures, keys)
        tokens = encoded.tokens
        if encoded.valid is not None:
            tokens = jnp.where(encoded.valid[..., None], tokens, -jnp.inf)
        return nn.sigmoid(self.to_weights(largest(tokens, 1)))

    def mask_logits(
        self,
        pictures: Float[Array, "B ..."],
        mixture: Float[Array, "B T F"],
        keys: Key[Array, " B"] | None = None,
    ) -> Float[Array, "B T F"]:
        """Logits of the mask of what belongs to the pictures, float32.

        Args:
          pictures: normalised, see `seen`.
          mixture: magnitudes, of any loudness: their logarithms are standardised, with each bin's position beside them.
          keys: per-example keys, for noise.
        """
        levels = jnp.log(mixture + _SILENCE)
        mean = levels.mean(axis=(1, 2), keepdims=True)
        deviation = jnp.sqrt(jnp.square(levels - mean).mean(axis=(1, 2), keepdims=True) + _NORM_EPS)
        heights = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, mixture.shape[2]), mixture.shape)
        maps = self.sound(jnp.stack([(levels - mean) / deviation, heights], axis=-1).astype(self.dtype))
        weights = self.picture_weights(pictures, keys) * self.scale
        return jnp.einsum("BTFK,BK->BTF", maps, weights, preferred_element_type=jnp.float32) + self.bias

    def __call__(self, pictures: Float[Array, "B ..."], mixture: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
        """As `mask_logits`, to make all parameters."""
        return self.mask_logits(pictures, mixture)
