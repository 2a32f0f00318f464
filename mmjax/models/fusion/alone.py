"""No fusion: the vector of one modality."""

from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Key

from mmjax.errors import validate_choice
from mmjax.models.encoders import Encoded
from mmjax.nn.layers import Dense
from mmjax.nn.pool import Pool

POOLS = {"cls": ("cls",), "mean": ("mean",), "cls_mean": ("cls", "mean"), "map": ("map",)}
# What a pool by attention takes from the tower.
OF_TOWER = ("heads", "mlp_dim", "activation", "norm_eps")


class Alone(nn.Module, kw_only=True):
    """The vector of one modality as its tower gives it. Parameters: `pool` (of `map`), `projection`.

    Attributes:
      pool: a name in `POOLS`: the `cls` token, the `mean` of the tokens but for learned ones, both side by side, or
        what attention pooling makes of the tokens (`map`).
      projection: numbers that the vector is projected to; 0 for none.
      prefix: learned tokens before those of the modality.
      heads, mlp_dim, activation, norm_eps: of the pool `map`, as the tower's.
    """

    pool: str = "cls"
    projection: int = 0
    prefix: int = 0
    heads: int = 1
    mlp_dim: int = 0
    activation: str = "gelu"
    norm_eps: float = 1e-6
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
        x = jnp.concatenate([self._pool(kind)(one.tokens, one.valid) for kind in parts], axis=-1)
        if self.projection:
            std = x.shape[-1] ** -0.5
            x = Dense(self.projection, std=std, use_bias=False, dtype=self.dtype, name="projection")(x)
        return Encoded(x[:, None])

    def _pool(self, kind: str) -> Pool:
        if kind != "map":
            return Pool(kind, prefix=self.prefix)
        return Pool(kind, self.heads, self.mlp_dim, self.activation, self.norm_eps, self.dtype, name="pool")
