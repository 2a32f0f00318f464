"""Models by kind: what `model.kind` in a config may be."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mmjax import registry


class Model(nn.Module, kw_only=True):
    """What `model.kind` may name.

    Attributes:
      dtype: compute type; embeddings and logits are float32.
      serves: what objectives may need of the model: `embeddings`, `matching`, `masked_words`, `masked_patches`,
        `captions`, `answers`, `classes`.
      attention_maps: what the model can show of its attention, of the names in `mmjax.tasks.attention_maps`.
    """

    dtype: DTypeLike = jnp.float32

    serves: ClassVar[tuple[str, ...]] = ()
    attention_maps: ClassVar[tuple[str, ...]] = ()


def model_class(kind: str) -> type[Model]:
    """The class of a kind of model, a name in `registry.models`."""
    return registry.models.load(kind, where=f"model.kind={kind!r}")


def make_model(settings: Mapping[str, Any], dtype: DTypeLike, kernels: Mapping[str, str]) -> Model:
    """Makes a model.

    Args:
      settings: `kind` (two towers where it is left out) and the settings of its class.
      dtype: compute type.
      kernels: of the towers `image` and `text`, where it has them: `xla` or `cudnn`.
    """
    settings = dict(settings)
    cls = model_class(settings.pop("kind", "two_tower"))
    attention: dict[str, Any] = {f"{tower}_attention": kernel for tower, kernel in kernels.items()}
    return cls(**settings, dtype=dtype, **attention)
