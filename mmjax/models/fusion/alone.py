"""No fusion: the vector of one modality."""

from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Key

from mmjax.errors import validate_choice
from mmjax.models.encoders import Encoded
from mmjax.nn.pool import Pool

POOLS = {"cls": ("cls",), "mean": ("mean",), "cls_mean": ("cls", "mean")}


class Alone(nn.Module, kw_only=True):
    """The vector of one modality as its tower gives it, without any parameter.

    Attributes:
      pool: a name in `POOLS`: the `cls` token, the `mean` of the tokens but for learned ones, or both side by side.
      prefix: learned tokens before those of the modality.
    """

    pool: str = "cls"
    prefix: int = 0
    dtype: DTypeLike = jnp.float32
    head_pool: ClassVar[str] = "mean"

    @nn.compact
    def __call__(
        self, encoded: Mapping[str, Encoded], present: Bool[Array, "B M"], keys: Key[Array, " B"] | None = None
    ) -> Encoded:
        """One token an example."""
        del present, keys
        (one,) = encoded.values()
        parts = POOLS[validate_choice("model.fusion.pool", self.pool, POOLS)]
        pools = [Pool(kind, prefix=self.prefix)(one.tokens, one.valid) for kind in parts]
        return Encoded(jnp.concatenate(pools, axis=-1)[:, None])
