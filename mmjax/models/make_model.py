"""Models by kind: what `model.kind` in a config may be."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from jax.typing import DTypeLike

from mmjax import registry


def model_class(kind: str) -> type[nn.Module]:
    """The class of a kind of model, a name in `registry.models`."""
    return registry.models.load(kind, where=f"model.kind={kind!r}")


def make_model(settings: Mapping[str, Any], dtype: DTypeLike, kernels: Mapping[str, str]) -> nn.Module:
    """Makes a model.

    Args:
      settings: `kind` (two towers where it is left out) and the settings of its class.
      dtype: compute type.
      kernels: of the towers `image` and `text`, where it has them: `xla` or `cudnn`.
    """
    settings = dict(settings)
    cls = model_class(settings.pop("kind", "two_tower"))
    attention = {f"{tower}_attention": kernel for tower, kernel in kernels.items()}
    return cls(**settings, dtype=dtype, **attention)
