"""Bases of the models of images and texts: towers, and embeddings in one space.

Where another slot than `image` is filled, with an encoder of videos, sounds, time series or tables, that is what a
model sees: `image` in the names of methods and arguments then stands for it.

A base has what callers call (`encode_text`, `fuse`, ...), which gives each part its stream of random numbers. What a
model does itself are the abstract methods (`run_text`, `run_fusion`, `run_writer`, `project_image`, ...). Those of
models that fuse or write are in `fusion_model` and `writing_model`.
"""

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.errors import UserError
from mmjax.models import encoders, language, slots, sown_attention, submodules
from mmjax.models.encoders import Encoded
from mmjax.models.make_model import Model
from mmjax.models.slot_config import MODALITIES, SLOTS
from mmjax.nn import layers
from mmjax.utils.random_streams import ExampleStream


def l2_normalize(x: Float[Array, "... E"]) -> Float[Array, "... E"]:
    """Scales the last axis to unit length, in float32."""
    x = x.astype(jnp.float32)
    # The floor is under the root: a row of zeros (a text without any valid token) gets a finite gradient.
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


class ImageTextModel(Model, kw_only=True):
    """A model of images and texts. Its `setup` makes `image_encoder`: (images, keys) -> `Encoded`.

    Attributes:
      image: settings of the image tower; of `VisionTransformer` unless the model says otherwise. None where another
        slot is filled.
      text: settings of what reads or writes text; of `TextStack`, and `eos_id`, unless the model says otherwise.
      image_attention, text_attention: kernels of self-attention, `xla` or `cudnn`.
    """

    image: Mapping[str, Any] | None
    text: Mapping[str, Any]
    image_attention: str = "xla"
    text_attention: str = "xla"

    @property
    def modalities(self) -> tuple[str, ...]:
        """The slots that are filled, what the model sees before its text."""
        return "image", "text"

    @property
    def seen(self) -> str:
        """The slot of what the model sees, `image` or another.

        Raises:
          UserError: there is not one.
        """
        *filled, _ = self.modalities
        if len(filled) != 1:
            both = " and ".join(f"model.{name}" for name in filled) or "none"
            raise UserError(
                f"a model sees one of {', '.join(MODALITIES)} beside its text, but filled is {both}; fill one"
            )
        return filled[0]

    @property
    def contrasted(self) -> Sequence[tuple[str, str, float]]:
        """The pairs of modalities whose embeddings are contrasted, with their weights."""
        return [(self.seen, "text", 1.0)]

    @property
    def seen_settings(self) -> Mapping[str, Any]:
        """Settings of the encoder of what the model sees."""
        return getattr(self, self.seen)

    def make_image_tower(self, *, ignored: tuple[str, ...] = (), **fixed: Any) -> nn.Module:
        """The encoder of what the model sees: of `image` a vision transformer.

        Args:
          ignored: settings that are not for it.
          fixed: fields of the vision transformer that the model itself decides.
        """
        if self.seen in SLOTS:
            return slots.make_encoder(f"model.{self.seen}", self.seen, self.seen_settings, self.dtype, ignored=ignored)
        fixed = dict(dtype=self.dtype, attention_impl=self.image_attention) | fixed
        return encoders.build(encoders.VisionTransformer, "image", self.seen_settings, ignored=ignored, **fixed)

    def make_text_stack(self, *, ignored: tuple[str, ...] = (), **fixed: Any) -> language.TextStack:
        """The stack `text`; `fixed` are fields that the model itself decides, `ignored` settings for others."""
        fixed = dict(dtype=self.dtype, attention_impl=self.text_attention) | fixed
        ignored = (*submodules.TEXT_IDS, *ignored)
        return encoders.build(language.TextStack, "text", self.text, ignored=ignored, **fixed)

    def encode_image(
        self, images: Float[Array, "B ..."], keys: Key[Array, " B"] | None = None, **options: Any
    ) -> Encoded:
        """Encodes normalised images [B, H, W, 3], or arrays of another slot: the tower's tokens; `options` are its."""
        keys = layers.fold_keys(keys, ExampleStream.IMAGE)
        if self.seen in SLOTS:
            return slots.encode(self.seen_settings["kind"], self.image_encoder, images, keys, **options)
        return self.image_encoder(images, keys, **options)

    @abc.abstractmethod
    def word_attention(self, sown: sown_attention.Sown, words: int, patches: int) -> Float[Array, "B T N"]:
        """How much each image token counts for each word, for `read` and `written` in `attention_maps`.

        Args:
          sown: what the layers sowed when words and image were fused, or the words scored.
          words: T.
          patches: N, tokens of an image.
        """


class SlotsModel(ImageTextModel, kw_only=True):
    """A model in which an encoder of another modality may take the place of the image tower.

    Attributes:
      video, audio, series, table: settings of an encoder with its `kind`, see `registry.encoders`; None where the slot
        is empty.
    """

    image: Mapping[str, Any] | None = None
    video: Mapping[str, Any] | None = None
    audio: Mapping[str, Any] | None = None
    series: Mapping[str, Any] | None = None
    table: Mapping[str, Any] | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The slots that are filled, what the model sees before its text."""
        return (*(name for name in MODALITIES if getattr(self, name) is not None), "text")


class TextEncodingModel(ImageTextModel, kw_only=True):
    """A model that encodes texts without any image, too."""

    def encode_text(
        self,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"] | None = None,
        keys: Key[Array, " B"] | None = None,
    ) -> Encoded:
        """Encodes token ids without any image; padding is seen by no token."""
        return self.run_text(text, text_mask, layers.fold_keys(keys, ExampleStream.TEXT))

    @abc.abstractmethod
    def run_text(
        self, text: Int[Array, "B L"], text_mask: Bool[Array, "B L"] | None, keys: Key[Array, " B"] | None
    ) -> Encoded:
        """Tokens of the texts; `keys` are for the noise of its layers, None where there is none."""


class ContrastiveModel(TextEncodingModel, kw_only=True):
    """A model that embeds images and texts in one space.

    Parameters: `logit_scale` (log space, scalar) and, where `logit_bias_init` is given, `logit_bias`.

    Attributes:
      embed_dim: E, width of the shared space.
      logit_scale_init: of the scale itself, not of its logarithm: 1 / 0.07 for CLIP, 10 for SigLIP.
      logit_bias_init: None for no bias; -10 for SigLIP.
      embeds_all_tokens: whether other objectives read the tokens that are embedded, so that all are computed.
    """

    embed_dim: int
    logit_scale_init: float = 1 / 0.07
    logit_bias_init: float | None = None

    embeds_all_tokens: ClassVar[bool] = True

    def setup(self):
        super().setup()
        log_scale = nn.initializers.constant(math.log(self.logit_scale_init))
        self.logit_scale = self.param("logit_scale", log_scale, (), jnp.float32)
        if self.logit_bias_init is not None:
            bias = nn.initializers.constant(self.logit_bias_init)
            self.logit_bias = self.param("logit_bias", bias, (), jnp.float32)

    def embed_image(self, image: Encoded) -> Float[Array, "B *Q E"]:
        """Embeds encoded images, in Q vectors where the model has queries; rows have unit length."""
        return l2_normalize(self.project_image(image))

    def embed_text(self, text: Encoded) -> Float[Array, "B E"]:
        """Embeds encoded texts; rows have unit length."""
        return l2_normalize(self.project_text(text))

    @abc.abstractmethod
    def project_image(self, image: Encoded) -> Float[Array, "B *Q E"]:
        """Embeddings of encoded images, before they get unit length."""

    @abc.abstractmethod
    def project_text(self, text: Encoded) -> Float[Array, "B E"]:
        """Embeddings of encoded texts, before they get unit length."""

    def image_embedding(
        self, images: Float[Array, "B ..."], keys: Key[Array, " B"] | None = None
    ) -> Float[Array, "B *Q E"]:
        """Encodes and embeds normalised images."""
        return self.embed_image(self.encode_image(images, keys))

    def embedding(
        self, name: str, x: Float[Array, "B ..."], keys: Key[Array, " B"] | None = None
    ) -> Float[Array, "B *Q E"]:
        """Encodes and embeds what is in a slot but text, of which there is one here."""
        del name
        return self.image_embedding(x, keys)

    def text_embedding(
        self, text: Int[Array, "B L"], text_mask: Bool[Array, "B L"] | None = None, keys: Key[Array, " B"] | None = None
    ) -> Float[Array, "B E"]:
        """Encodes and embeds token ids."""
        return self.embed_text(self.encode_text(text, text_mask, keys))

    @abc.abstractmethod
    def image_readout(self, sown: sown_attention.Sown) -> str | Float[Array, "B N"]:
        """What the image's embedding reads of the last layer's tokens: a kind of pool, or the weights themselves.

        Args:
          sown: what the layers sowed when the image was embedded.
        """
