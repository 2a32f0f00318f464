"""Heads of models that fuse: BERT's pooler, matched or not, one answer of a list."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from mmjax.errors import UserError
from mmjax.nn.layers import Dense, dense_float32
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.norms import layer_norm

_STD = 0.02  # BERT's initialisation


class Pooler(nn.Module):
    """The first token through a dense layer and tanh, as BERT and ViLT have it. Parameters: `dense`."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        width = tokens.shape[-1]
        return jnp.tanh(Dense(width, std=_STD, dtype=self.dtype, name="dense")(tokens[:, 0]))


class MatchHead(nn.Module):
    """Whether image and text belong together: two logits, of which index 1 says yes. Parameters: `dense`."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... 2"]:
        return dense_float32(2, std=_STD, dtype=self.dtype, name="dense")(x)


class AnswerHead(nn.Module):
    """One answer of a list, as ViLT chooses it: dense to twice the width, norm, gelu, dense.

    Parameters: `fc1`, `norm`, `fc2`.

    Attributes:
      answers: A.
    """

    answers: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B A"]:
        x = Dense(2 * x.shape[-1], std=_STD, dtype=self.dtype, name="fc1")(x)
        x = ACTIVATIONS["gelu"](layer_norm(1e-5, self.dtype, "norm")(x))
        return dense_float32(self.answers, std=_STD, dtype=self.dtype, name="fc2")(x)


def check_head(setting: str, value: bool | int) -> None:
    """Checks that a model was made with a head.

    Args:
      setting: of the model, which asks for the head.
      value: what it is set to.

    Raises:
      UserError: the model has no such head.
    """
    if not value:
        wanted = "the number of answers" if setting == "answers" else True
        raise UserError(f"model.{setting}={value}: the model has no such head; set it to {wanted}")
