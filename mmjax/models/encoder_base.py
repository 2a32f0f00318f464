"""What the encoders of further modalities have in common."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from mmjax.models.encoders import Encoded, make_transformer
from mmjax.nn import attention, dropout, embed
from mmjax.nn.dense import broadcast_parameter
from mmjax.nn.norms import layer_norm
from mmjax.utils.random_streams import EncoderStream


class Tower(nn.Module, kw_only=True):
    """What the encoders share.

    Attributes:
      width: D.
      class_token: prepend a learned token, which is always valid.
      Others as in `Transformer`.
    """

    width: int
    depth: int
    heads: int
    mlp_dim: int
    activation: str = "gelu"
    norm_eps: float = 1e-6
    class_token: bool = True
    dropout: float = 0.0
    drop_path: float = 0.0
    scan: bool | str = "auto"
    remat: str = "none"
    remat_keep: int = 0
    dtype: DTypeLike = jnp.float32
    attention_impl: str = "xla"

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
            out = make_transformer(self)(
                x, spec, dropout.fold_keys(keys, EncoderStream.LAYERS), intermediates=intermediates
            )
            x, layers = out.tokens, out.layers
        x = layer_norm(self.norm_eps, self.dtype, "norm")(x)
        return Encoded(x, valid, layers=layers)


def zeroed(x: Float[Array, "B T ..."], valid: Bool[Array, "B T"] | None) -> Float[Array, "B T ..."]:
    """Zeros where not valid: in front of everything else, so that no NaN meets a product."""
    return x if valid is None else jnp.where(valid.reshape(valid.shape + (1,) * (x.ndim - 2)), x, 0)


def covered(valid: Bool[Array, "B T"], length: int, stride: int) -> Bool[Array, "B N"]:
    """Which windows hold anything valid."""
    starts = jnp.arange((valid.shape[1] - length) // stride + 1) * stride
    return valid[:, starts[:, None] + jnp.arange(length)].any(axis=-1)


def from_the_start(
    table: Float[Array, "N D"], grid: tuple[int, ...], new: tuple[int, ...], prefix: int
) -> Float[Array, "M D"]:
    """Positions for another grid whose first axis is time: its first rows when shorter, stretched when longer."""
    if new[0] < grid[0]:
        rest = len(table[prefix:]) // grid[0]
        table, grid = table[: prefix + new[0] * rest], (new[0], *grid[1:])
    return embed.resample_positions(table, grid, new, prefix=prefix)
