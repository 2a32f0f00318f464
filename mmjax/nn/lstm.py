"""A stack of LSTM layers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from mmjax.nn.layers import dropout, fold_keys


class LSTMCarry(NamedTuple):
    """The state between two steps: cell `c` and output `h` of each layer, kept in float32."""

    c: Float[Array, "B layers D"]
    h: Float[Array, "B layers D"]


class LSTM(nn.Module):
    """Layers of flax's `OptimizedLSTMCell`, each reading the one below it: PyTorch's `nn.LSTM` with one bias a gate.

    Attributes:
      width: of every layer.
      layers: how many.
      dropout: rate on what a layer reads from the one below it, new at every step; as PyTorch has it, neither on the
        input nor on the output.
      dtype: compute type; the state and its sums stay in float32.
    """

    width: int
    layers: int = 1
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.cells = [nn.OptimizedLSTMCell(self.width, dtype=self.dtype) for _ in range(self.layers)]

    def zeros(self, batch: int) -> LSTMCarry:
        """The state that a sequence starts from by default."""
        zeros = jnp.zeros((batch, self.layers, self.width), jnp.float32)
        return LSTMCarry(zeros, zeros)

    def step(
        self, carry: LSTMCarry, x: Float[Array, "B Dx"], keys: Key[Array, " B"] | None = None
    ) -> tuple[LSTMCarry, Float[Array, "B D"]]:
        """Reads one more input of each row; `keys`, one per example and other ones each step, turn dropout on."""
        states = []
        for layer, cell in enumerate(self.cells):
            if layer:
                x = dropout(x, self.dropout, fold_keys(keys, layer))
            state, x = cell((carry.c[:, layer], carry.h[:, layer]), x.astype(self.dtype))
            states.append(state)
        c, h = (jnp.stack([state[i] for state in states], axis=1) for i in range(2))
        return LSTMCarry(c, h), x.astype(self.dtype)

    def __call__(
        self,
        x: Float[Array, "B T Dx"],
        carry: LSTMCarry | None = None,
        valid: Bool[Array, "B T"] | None = None,
        keys: Key[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B T D"], LSTMCarry]:
        """Reads sequences.

        Args:
          x: inputs.
          carry: state to start from; None = zeros.
          valid: False where a step is padding: it leaves the state alone and outputs 0. None = no step is.
          keys: one per example, for dropout.

        Returns:
          The last layer's outputs, and each row's state after its last valid step.
        """
        start = self.zeros(len(x)) if carry is None else carry

        def read(module, carry, x, valid, count):
            new, out = module.step(carry, x, fold_keys(keys, count))
            if valid is not None:
                new = jax.tree.map(lambda new, old: jnp.where(valid[:, None, None], new, old), new, carry)
                out = jnp.where(valid[:, None], out, 0)
            return new, out

        axes: dict[str, Any] = {"in_axes": (1, 1, 0), "out_axes": 1}  # flax takes trees of axes, and types none
        scan = nn.scan(read, variable_broadcast="params", split_rngs={"params": False}, **axes)
        end, out = scan(self, start, x, valid, jnp.arange(x.shape[1]))
        return out, end
