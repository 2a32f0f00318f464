"""A model, and an encoder for the models of several modalities."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn

from mmjax.plugin import (
    ContrastConfig,
    ContrastiveModel,
    Encoded,
    ImageTextConfig,
    ModalityTower,
    ModalityTowerConfig,
    TextConfig,
    VisionConfig,
    encoders,
    models,
)


@dataclass(frozen=True, kw_only=True)
class BagTextConfig(TextConfig):
    """The mean of the embeddings of a text's tokens."""

    width: int = 64
    """numbers of a token"""


@dataclass(frozen=True, kw_only=True)
class BagConfig(ContrastConfig, ImageTextConfig):
    """A vision transformer and a bag of tokens."""

    kind: ClassVar[str] = "bag"
    hides_padding: ClassVar[bool] = True
    image: VisionConfig
    """the image tower"""
    text: BagTextConfig
    """the tokens' embeddings"""


@models.register("bag", config=BagConfig)
class Bag(ContrastiveModel, kw_only=True):
    """A vision transformer and a bag of tokens in one space."""

    serves: ClassVar[tuple[str, ...]] = ("embeddings",)

    def setup(self):
        self.image_encoder = self.make_image_tower()
        self.table = nn.Embed(self.text["vocab_size"], self.text["width"], dtype=self.dtype)
        self.image_head = nn.Dense(self.embed_dim, use_bias=False, dtype=jnp.float32)
        self.text_head = nn.Dense(self.embed_dim, use_bias=False, dtype=jnp.float32)
        super().setup()

    def run_text(self, text, text_mask, keys) -> Encoded:
        """Embeds token ids; the order of the tokens plays no part."""
        return Encoded(self.table(text), jnp.ones(text.shape, bool) if text_mask is None else text_mask)

    def project_image(self, image: Encoded):
        """Embeddings of encoded images [B, E]."""
        return self.image_head(image.tokens.mean(axis=1))

    def project_text(self, text: Encoded):
        """Embeddings of encoded texts [B, E]."""
        total = jnp.where(text.valid[..., None], text.tokens, 0).sum(axis=1)
        return self.text_head(total / text.valid.sum(axis=1, keepdims=True))

    def __call__(self, images, text):
        """Embeds both; the parameters are made by it."""
        return self.image_embedding(images), self.text_embedding(text)


@dataclass(frozen=True, kw_only=True)
class ConvSeriesConfig(ModalityTowerConfig):
    """A convolution over a time series, and a transformer over its steps."""

    kind: ClassVar[str] = "conv_series"
    axes: ClassVar[str] = "(steps, channels)"
    ranks: ClassVar[tuple[int, ...]] = (2,)
    window: int = 5
    """steps that the convolution sees"""


@encoders.register("conv_series", config=ConvSeriesConfig)
class ConvSeries(ModalityTower, kw_only=True):
    """A convolution over a time series, and a transformer over its steps."""

    window: int = 5

    @nn.compact
    def __call__(self, series, valid=None, keys=None, *, intermediates=False) -> Encoded:
        """Encodes series [B, T, C], of whose steps `valid` are real."""
        if valid is not None:
            series = jnp.where(valid[..., None], series, 0)
        x = nn.gelu(nn.Conv(self.width, (self.window,), dtype=self.dtype, name="conv")(series))
        return self.encode(x, valid, keys, intermediates=intermediates)


def bag_settings(vocab_size: int, context_length: int) -> Mapping[str, Any]:
    """The fields of a small `model.kind='bag'`, as `set_group` takes them."""
    image = dict(image_size=32, patch_size=8, width=64, depth=2, heads=2, mlp_dim=128, scan=False)
    text = dict(vocab_size=vocab_size, context_length=context_length)
    return dict(kind="bag", image=image, text=text, embed_dim=32)
