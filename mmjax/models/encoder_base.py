"""Bases of the encoders: their output, the fields of their transformers, learned tokens and positions."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.nn import attention, dropout, embed, transformer
from mmjax.nn.dense import broadcast_parameter
from mmjax.nn.norms import layer_norm
from mmjax.utils.random_streams import EncoderStream

# Fields of a tower that `Transformer` has by the same name.
_TRANSFORMER_FIELDS = (
    "depth",
    "heads",
    "mlp_dim",
    "activation",
    "norm_eps",
    "scan",
    "remat",
    "remat_keep",
    "dropout",
    "drop_path",
    "dtype",
    "attention_impl",
)


class Encoded(NamedTuple):
    """What every encoder returns.

    Attributes:
      tokens: [B, N, D] after the final norm, where there is one.
      valid: [B, N] bool, True where the token is real; None when all are.
      eos: [B] position of the end-of-text token; None where there is none.
      layers: [depth, B, N, D] each block's output, when intermediates were asked for; else None.
    """

    tokens: Float[Array, "B N D"]
    valid: Bool[Array, "B N"] | None = None
    eos: Int[Array, " B"] | None = None
    layers: Float[Array, "depth B N D"] | None = None


class TransformerTower(nn.Module, kw_only=True):
    """The fields of a module that has a transformer.

    Attributes:
      width: D.
      depth, heads, mlp_dim, activation, norm_eps, dropout, drop_path, scan, remat, remat_keep, dtype, attention_impl:
        see `Transformer`.
    """

    width: int
    depth: int
    heads: int
    mlp_dim: int
    activation: str = "gelu"
    norm_eps: float = 1e-5
    dropout: float = 0.0
    drop_path: float = 0.0
    scan: bool | str = "auto"
    remat: str = "none"
    remat_keep: int = 0
    dtype: DTypeLike = jnp.float32
    attention_impl: str = "xla"

    def make_transformer(self, name: str = "transformer", **changes) -> transformer.Transformer:
        """A transformer with the tower's fields of the same names, but for `changes`."""
        settings = {field: getattr(self, field) for field in _TRANSFORMER_FIELDS}
        return transformer.Transformer(**(settings | changes), name=name)


class ModalityTower(TransformerTower, kw_only=True):
    """An encoder of a further modality.

    Attributes:
      class_token: prepend a learned token, which is always valid.
      Others as in `TransformerTower`.
    """

    norm_eps: float = 1e-6
    class_token: bool = True

    def learned(self, name: str, *shape: int) -> Float[Array, "..."]:
        """A learned array of positions or of a token: [*shape, D]."""
        return self.param(name, nn.initializers.normal(self.width**-0.5), (*shape, self.width), jnp.float32)

    def learned_tokens(self) -> tuple[str, ...]:
        """Names of the tokens that stand before those of the input."""
        return ("class_token",) if self.class_token else ()

    def encode(
        self,
        x: Float[Array, "B N D"],
        valid: Bool[Array, "B N"] | None,
        keys: Key[Array, " B"] | None,
        positions: Float[Array, "M D"] | None = None,
        *,
        intermediates: bool = False,
    ) -> Encoded:
        """Learned tokens in front, then the transformer (none at depth 0) and the final norm.

        Args:
          x: embedded tokens.
          valid: which of them are real; None when all are.
          keys: per-example keys, or None.
          positions: the position table, whose first rows belong to the learned tokens; None for none.
          intermediates: whether to return each layer's output.
        """
        names = self.learned_tokens()
        if names:
            first = jnp.stack([self.learned(name) for name in names])
            if positions is not None:
                first = first + positions[: len(names)]
            first = broadcast_parameter(first, (len(x), *first.shape), self.dtype)
            x = jnp.concatenate([first, x], axis=1)
            valid = None if valid is None else jnp.pad(valid, ((0, 0), (len(names), 0)), constant_values=True)
        layers = None
        if self.depth:
            spec = attention.AttentionSpec(valid=valid)
            out = self.make_transformer()(
                x, spec, dropout.fold_keys(keys, EncoderStream.LAYERS), intermediates=intermediates
            )
            x, layers = out.tokens, out.layers
        x = layer_norm(self.norm_eps, self.dtype, "norm")(x)
        return Encoded(x, valid, layers=layers)


def zero_invalid(x: Float[Array, "B T ..."], valid: Bool[Array, "B T"] | None) -> Float[Array, "B T ..."]:
    """Zeros where not valid: in front of everything else, so that no NaN meets a product."""
    return x if valid is None else jnp.where(valid.reshape(valid.shape + (1,) * (x.ndim - 2)), x, 0)


def windows_with_valid(valid: Bool[Array, "B T"], length: int, stride: int) -> Bool[Array, "B N"]:
    """Which windows hold anything valid."""
    starts = jnp.arange((valid.shape[1] - length) // stride + 1) * stride
    return valid[:, starts[:, None] + jnp.arange(length)].any(axis=-1)


def resample_time_positions(
    table: Float[Array, "N D"], grid: tuple[int, ...], new: tuple[int, ...], prefix: int
) -> Float[Array, "M D"]:
    """Positions for another grid whose first axis is time: its first rows when shorter, stretched when longer."""
    if new[0] < grid[0]:
        rest = len(table[prefix:]) // grid[0]
        table, grid = table[: prefix + new[0] * rest], (new[0], *grid[1:])
    return embed.resample_positions(table, grid, new, prefix=prefix)
