"""Encoders by kind, as slots of models and modalities of a classifier have them: how they are made and called."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from mmjax import plugin_calls, registry
from mmjax.errors import UserError
from mmjax.models import modality_encoders
from mmjax.models.conv.convnext import ConvNeXt
from mmjax.models.conv.resnet import ModifiedResNet
from mmjax.models.encoders import Encoded, TextTransformer, VisionTransformer, build
from mmjax.models.make_model import check_fields

# The modality that encoders of a kind read; others, such as `features`, may stand in any slot.
MODALITY_OF_KIND = {
    **{name: name for name in ("image", "text", "video", "audio", "series", "table")},
    **dict.fromkeys(("resnet", "convnext"), "image"),
    "frames": "video",
    "whisper": "audio",
}
_CONVOLUTIONAL = ("resnet", "convnext")
# Modalities whose arrays have no values that may be missing: pixels and spectrograms are prepared here.
_COMPLETE = ("image", "video", "audio")


def make_encoder(
    field: str,
    name: str,
    settings: Mapping[str, Any],
    dtype: DTypeLike = jnp.float32,
    *,
    ignored: tuple[str, ...] = (),
) -> Any:
    """Makes an encoder, a flax module.

    Args:
      field: of the config, such as `model.encoders.audio`.
      name: of the module.
      settings: the encoder's, with its `kind`.
      dtype: compute type.
      ignored: settings that are not for the encoder.

    Raises:
      UserError: settings that do not fit.
    """
    kind = registry.encoders.validate_choice(f"{field}.kind", settings.get("kind", ""))
    settings = {key: value for key, value in settings.items() if key not in ("kind", *ignored)}
    cls = registry.encoders.load(kind, where=f"{field}.kind={kind!r}")
    fixed: dict[str, Any] = {"dtype": dtype, "attention_impl": "xla"}
    if kind in _CONVOLUTIONAL:
        del fixed["attention_impl"]
    if kind in registry.encoders.added():
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            message = "is no flax module; an encoder is one, called as encoder(x, valid, keys) -> Encoded"
            raise plugin_calls.wrong(registry.encoders, kind, cls, f"{getattr(cls, '__name__', repr(cls))} {message}")
        fixed = {name: value for name, value in fixed.items() if name in cls.__dataclass_fields__}
        check_fields(registry.encoders, kind, cls, {*settings, *fixed})
    encoder = build(cls, field.removeprefix("model."), settings, name=name, **fixed)
    if isinstance(encoder, TextTransformer) and not encoder.mask_padding:
        raise UserError(
            f"{field}.mask_padding=False would attend to padding and pool it; set {field}.mask_padding=True"
        )
    return encoder


def encode(kind: str, encoder: Any, x: Float[Array, "B ..."], keys: Key[Array, " B"] | None, **options: Any) -> Encoded:
    """Tokens of what fills a slot.

    Args:
      kind: of the encoder.
      encoder: made by `make_encoder`.
      x: an array an example. NaN marks what it lacks: a cell of a table, a whole step or row of series and features.
      keys: one an example, for noise; None for none.
      options: further arguments of the encoder, such as `intermediates`.
    """
    if reads_images(encoder):
        return encoder(x, keys, **options)
    is_complete = MODALITY_OF_KIND.get(kind) in _COMPLETE or isinstance(encoder, modality_encoders.TableTransformer)
    valid = None if is_complete else real_rows(x)
    return call_encoder(kind, encoder, x, valid, keys, **options)


def reads_images(encoder: Any) -> bool:
    """Whether an encoder takes images and keys alone: no value of theirs is missing."""
    return isinstance(encoder, (VisionTransformer, ModifiedResNet, ConvNeXt))


def real_rows(x: Float[Array, "B T ..."]) -> Bool[Array, "B N"]:
    """Which rows of arrays hold no NaN; features of one vector are one row."""
    real = jnp.isfinite(x).reshape(*x.shape[:2], -1).all(axis=2)
    return real.all(axis=1, keepdims=True) if x.ndim == 2 else real


def call_encoder(kind: str, encoder: Any, x: Any, valid: Any, keys: Any, **options: Any) -> Encoded:
    """What an encoder gives.

    Raises:
      UserError: that of a plugin fails, or gives something else.
    """
    with plugin_calls.calling(registry.encoders, kind, type(encoder), "encoder(x, valid, keys) -> Encoded"):
        encoded = encoder(x, valid, keys, **options)
    if kind in registry.encoders.added():
        shapes = [getattr(part, "shape", None) for part in encoded] if isinstance(encoded, Encoded) else [None]
        if shapes[0] is None or len(shapes[0]) != 3 or shapes[1] not in (None, shapes[0][:2]):
            what = f"Encoded of {shapes[:2]}" if isinstance(encoded, Encoded) else type(encoded).__name__
            message = f"gives {what}; an encoder gives Encoded(tokens [B, N, D], valid [B, N] or None)"
            raise plugin_calls.wrong(registry.encoders, kind, type(encoder), message)
    return encoded


def learned_tokens(encoder: Any) -> int:
    """How many tokens of an encoder stand before those of its input."""
    if hasattr(encoder, "learned_tokens"):
        return len(encoder.learned_tokens())
    return int(getattr(encoder, "class_token", False)) + getattr(encoder, "registers", 0)
