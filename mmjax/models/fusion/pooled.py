"""Fusion of one vector a modality: concatenated, weighted, gated, or attending to each other; and what all kinds share.

A fusion is called as `fusion(encoded, present, keys)`: `encoded` holds each modality's tokens by name, in any order,
and `present` [B, M] says which modalities each example has, in sorted order of name. What an absent modality holds, NaN
too, changes neither values nor gradients.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from mmjax.errors import validate_choice
from mmjax.models import encoders
from mmjax.models.encoders import Encoded
from mmjax.nn import attention
from mmjax.nn.layers import Dense, add_parameter, broadcast_parameter
from mmjax.nn.norms import layer_norm
from mmjax.nn.pool import Pool

# How a modality's tokens become one vector.
POOLS = ("mean", "cls", "map")


class Modality(NamedTuple):
    """One modality's tokens, zero where they are not valid, and which of them are."""

    tokens: Float[Array, "B N D"]
    valid: Bool[Array, "B N"]


def prepare(
    encoded: Mapping[str, Encoded], present: Bool[Array, "B M"]
) -> tuple[dict[str, Modality], Bool[Array, "B M"]]:
    """Zeros in place of all that is absent.

    Args:
      encoded: tokens by modality.
      present: which modalities each example has, in sorted order of name.

    Returns:
      The modalities in that order, tokens zero and not `valid` where absent; and which are there: a modality without
      any valid token is not.

    Raises:
      ValueError: `present` has another number of modalities.
    """
    names = sorted(encoded)
    if present.shape[1] != len(names):
        raise ValueError(f"present has {present.shape[1]} columns for the modalities {', '.join(names)}")
    modalities, available = {}, []
    for index, name in enumerate(names):
        tokens, valid = encoded[name].tokens, encoded[name].valid
        mine = jnp.broadcast_to(present[:, index, None], tokens.shape[:2])
        valid = mine if valid is None else valid & mine
        modalities[name] = Modality(jnp.where(valid[..., None], tokens, 0), valid)
        available.append(valid.any(axis=1))
    return modalities, jnp.stack(available, axis=1)


def present_softmax(scores: Float[Array, "*B M"], present: Bool[Array, "B M"]) -> Float[Array, "B M"]:
    """Weights of what is present, softmax(scores + log present) in float32: they sum to 1, or to 0 where nothing is."""
    scores = jnp.where(present, scores.astype(jnp.float32), -1e30)
    return jnp.where(present, jax.nn.softmax(scores, axis=-1), 0.0)


class Pooling(nn.Module, kw_only=True):
    """Makes one vector of each modality's tokens.

    Parameters: `norm_NAME`; with `pool="map"`, `pool_NAME`.

    Attributes:
      pool: `mean` over the valid tokens, `cls` (the first one) or `map`, see `Pool`.
      pool_heads: of the `map` pool.
      norm_eps: layer-norm epsilon.
    """

    pool: str = "mean"
    pool_heads: int = 1
    norm_eps: float = 1e-6
    dtype: DTypeLike = jnp.float32

    def vectors(self, modalities: Mapping[str, Modality]) -> dict[str, Float[Array, "B D"]]:
        """Each modality's tokens pooled, then its layer norm."""
        kind = validate_choice("model.fusion.pool", self.pool, POOLS)
        made = {}
        for name, (tokens, valid) in modalities.items():
            pool = Pool(kind, heads=self.pool_heads, dtype=self.dtype, name=f"pool_{name}")
            made[name] = layer_norm(self.norm_eps, self.dtype, f"norm_{name}")(pool(tokens, valid))
        return made


class Fusion(Pooling, kw_only=True):
    """What fusions share that make tokens of tokens.

    Attributes:
      width: D of the result.
      head_pool: how a head pools the result.
    """

    width: int
    head_pool: ClassVar[str] = "mean"

    def __call__(
        self, encoded: Mapping[str, Encoded], present: Bool[Array, "B M"], keys: Key[Array, " B"] | None = None
    ) -> Encoded:
        """Tokens of what is present."""
        raise NotImplementedError

    def projected(self, name: str, x: Float[Array, "B *N F"]) -> Float[Array, "B *N D"]:
        """A modality's own linear map to width D; parameters `projection_NAME`."""
        std = x.shape[-1] ** -0.5
        return Dense(self.width, std=std, dtype=self.dtype, name=f"projection_{name}")(x)

    def learned(self, name: str, *shape: int) -> Float[Array, "..."]:
        """A learned array: [*shape, D]."""
        return self.param(name, nn.initializers.normal(self.width**-0.5), (*shape, self.width), jnp.float32)


class Concat(Fusion, kw_only=True):
    """One linear map of all modalities' vectors side by side; what is absent has a learned vector.

    Parameters: `norm_NAME`, `absent_NAME`, `projection`.
    """

    @nn.compact
    def __call__(
        self, encoded: Mapping[str, Encoded], present: Bool[Array, "B M"], keys: Key[Array, " B"] | None = None
    ) -> Encoded:
        """One token an example."""
        del keys
        modalities, available = prepare(encoded, present)
        parts = []
        for index, (name, vector) in enumerate(self.vectors(modalities).items()):
            # As large as what a layer norm gives.
            absent = self.param(f"absent_{name}", nn.initializers.normal(1.0), vector.shape[-1:], jnp.float32)
            parts.append(
                jnp.where(available[:, index, None], vector, broadcast_parameter(absent, vector.shape, self.dtype))
            )
        x = jnp.concatenate(parts, axis=-1)
        dense = Dense(self.width, std=x.shape[-1] ** -0.5, dtype=self.dtype, name="projection")
        return Encoded(dense(x)[:, None])


class Weighted(Fusion, kw_only=True):
    """The mean of the modalities' vectors, each with a learned weight: softmax over what is present.

    Parameters: `norm_NAME`, `projection_NAME`, `weights` [M].
    """

    @nn.compact
    def __call__(
        self, encoded: Mapping[str, Encoded], present: Bool[Array, "B M"], keys: Key[Array, " B"] | None = None
    ) -> Encoded:
        """One token an example."""
        del keys
        modalities, available = prepare(encoded, present)
        vectors = [self.projected(name, x) for name, x in self.vectors(modalities).items()]
        x = jnp.stack(vectors, axis=1)
        weights = present_softmax(self._scores(x, available), available).astype(self.dtype)
        return Encoded(jnp.einsum("BM,BMD->BD", weights, x)[:, None])

    def _scores(self, x: Float[Array, "B M D"], available: Bool[Array, "B M"]) -> Float[Array, "*B M"]:
        return self.param("weights", nn.initializers.zeros, available.shape[1:], jnp.float32)


class Gated(Weighted, kw_only=True):
    """The mean of the modalities' vectors with weights that follow from all of them.

    torchmultimodal's `AttentionFusionModule` is of this kind. Parameters: `norm_NAME`, `projection_NAME`, `gate`.
    """

    def _scores(self, x, available):
        seen = jnp.where(available[..., None], x, 0).reshape(len(x), -1)
        std = seen.shape[-1] ** -0.5
        return Dense(available.shape[1], std=std, dtype=self.dtype, name="gate")(seen)


class Layered(Fusion, encoders.TransformerTower, kw_only=True):
    """A fusion that has transformer layers."""

    depth: int = 1

    def normed(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        """The norm after the last layer."""
        return layer_norm(self.norm_eps, self.dtype, "norm")(x)


class Attention(Layered, kw_only=True):
    """The modalities' vectors as tokens, each with its type embedding, through self-attention.

    Parameters: `norm_NAME`, `projection_NAME`, `type_embedding` [M, D], `transformer`, `norm`.
    """

    @nn.compact
    def __call__(
        self, encoded: Mapping[str, Encoded], present: Bool[Array, "B M"], keys: Key[Array, " B"] | None = None
    ) -> Encoded:
        """One token a modality, valid where it is present."""
        modalities, available = prepare(encoded, present)
        x = jnp.stack([self.projected(name, x) for name, x in self.vectors(modalities).items()], axis=1)
        x = add_parameter(x, self.learned("type_embedding", len(modalities)))
        x = self.make_transformer()(x, attention.AttentionSpec(valid=available), keys).tokens
        return Encoded(self.normed(x), available)
