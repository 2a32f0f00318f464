"""A classifier of any modalities: an encoder each, a fusion, a head; any of them may be missing."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from mmjax.errors import UserError
from mmjax.models import modality_encoders, slots
from mmjax.models.encoders import Encoded, TextTransformer
from mmjax.models.fusion import kinds
from mmjax.models.fusion.alone import OF_TOWER
from mmjax.models.image_text import l2_normalize
from mmjax.models.make_model import Model
from mmjax.nn import layers
from mmjax.nn.layers import dense_float32
from mmjax.nn.pool import Pool
from mmjax.utils.random_streams import ClassifierStream

# Learned tokens of an encoder, as its settings count them.
_LEARNED = ("class_token", "distillation_token", "registers")


class FusedClassifier(Model, kw_only=True):
    """Encoders, a fusion, and a linear head, unless the fusion decides itself.

    Parameters: `encoder_NAME` of each modality, `fusion`, `head`. Beside attention weights it sows how many tokens a
    modality has, `tokens_NAME`.

    Attributes:
      encoders: by name of the modality, settings of its encoder with their `kind`, see `registry.encoders`.
      fusion: settings of the fusion with their `kind`, see `registry.fusions`.
      classes: C; 0 for a model without a head, which gives what one would read.
      image: `{"image_size": pixels}` where the modality `image` is the record's own image; None where it is an array
        like the others.
    """

    encoders: Mapping[str, Mapping[str, Any]]
    fusion: Mapping[str, Any]
    classes: int
    image: Mapping[str, Any] | None = None

    serves: ClassVar[tuple[str, ...]] = ("classes",)

    @nn.compact
    def __call__(
        self,
        modalities: Mapping[str, Float[Array, "B ..."]],
        present: Bool[Array, "B M"],
        keys: Key[Array, " B"] | None = None,
        *,
        pooled: bool = False,
    ) -> Float[Array, "B _"]:
        """Classifies examples.

        Args:
          modalities: an array each, by name. NaN marks what an array lacks: a cell of a table, a whole step, frame or
            row of everything else but images; token ids of a text are whole numbers.
          present: which modalities each example has, in sorted order of name. What an absent one's array holds does
            not matter, and an array that lacks everything is absent.
          keys: per-example keys, for noise.
          pooled: give what the head reads.

        Returns:
          Logits of the classes; log-probabilities where the fusion decides.

        Raises:
          ValueError: other modalities than `encoders` has, or a fusion that decides has no head.
          UserError: settings that do not fit.
        """
        names = sorted(self.encoders)
        if sorted(modalities) != names:
            raise ValueError(f"modalities {', '.join(sorted(modalities))} for encoders of {', '.join(names)}")
        encoded, available = {}, []
        for index, name in enumerate(names):
            noise = layers.fold_keys(layers.fold_keys(keys, ClassifierStream.ENCODERS), index)
            encoded[name], lacks = self._encode(name, modalities[name], present[:, index], noise)
            available.append(present[:, index] & ~lacks)
            self.sow("intermediates", f"tokens_{name}", encoded[name].tokens.shape[1])
        learned = sum(int(settings.get(part, 0)) for settings in self.encoders.values() for part in _LEARNED)
        of_tower: dict[str, Any] = {}
        if self.fusion["kind"] == "alone":
            (settings,) = self.encoders.values()
            of_tower = {"prefix": learned} | {name: settings[name] for name in OF_TOWER if name in settings}
        fuse = kinds.make_fusion({**self.fusion, **of_tower}, self.classes, dtype=self.dtype)
        counted, noise = jnp.stack(available, axis=1), layers.fold_keys(keys, ClassifierStream.FUSION)
        fused = kinds.call_fusion(self.fusion["kind"], fuse, encoded, counted, noise)
        if isinstance(fuse, kinds.Late):
            if pooled:
                raise ValueError("a fusion that decides pools nothing")
            return fused
        x = Pool(fuse.head_pool)(fused.tokens, fused.valid)
        if pooled or not self.classes:
            return x
        head = dense_float32(self.classes, std=x.shape[-1] ** -0.5, dtype=self.dtype, name="head")
        return head(x)

    def embedding(
        self, name: str, x: Float[Array, "B ..."], keys: Key[Array, " B"] | None = None
    ) -> Float[Array, "B D"]:
        """What a head reads, or would read, of a model of one modality; rows have unit length."""
        return l2_normalize(self({name: x}, jnp.ones((len(x), 1), bool), keys, pooled=True))

    def _encode(self, name, x, present, keys) -> tuple[Encoded, Bool[Array, " B"]]:
        """One modality's tokens, and which examples' arrays lack everything."""
        x = jnp.where(present.reshape(-1, *(1,) * (x.ndim - 1)), x, 0)
        encoder = make_encoder(name, self.encoders[name], self.image, dtype=self.dtype)
        if slots.reads_images(encoder):
            return encoder(x, keys), jnp.zeros(len(x), bool)
        if isinstance(encoder, TextTransformer):
            real = x >= 0  # NaN is not
            return encoder(jnp.where(real, x, 0).astype(jnp.int32), real, keys), ~real.any(axis=1)
        if isinstance(encoder, modality_encoders.TableTransformer):
            encoded = encoder(x, None, keys)
        else:
            encoded = slots.call_encoder(self.encoders[name]["kind"], encoder, x, slots.real_rows(x), keys)
        if encoded.valid is None:
            return encoded, jnp.zeros(len(x), bool)
        return encoded, ~encoded.valid[:, slots.learned_tokens(encoder) :].any(axis=1)


def make_encoder(
    name: str, settings: Mapping[str, Any], image: Mapping[str, Any] | None = None, *, dtype: DTypeLike = jnp.float32
) -> nn.Module:
    """Makes the encoder of a modality.

    Args:
      name: of the modality.
      settings: the encoder's, with its `kind`.
      image: see `FusedClassifier`.
      dtype: compute type.

    Raises:
      UserError: settings that do not fit.
    """
    field = f"model.encoders.{name}"
    if name == "image" and image is not None and settings.get("image_size") != image["image_size"]:
        raise UserError(
            f"model.image.image_size={image['image_size']}, but {field}.image_size={settings.get('image_size')}; set"
            " both alike"
        )
    return slots.make_encoder(field, f"encoder_{name}", settings, dtype)
