"""The one Transformer: ViT's, CLIP's and SigLIP's towers are settings of it."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from mmjax.nn import attention, dropout
from mmjax.parallel.activations import place

ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),  # OpenCLIP: exact, by erf
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),  # big_vision, Hugging Face SigLIP
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # OpenAI's CLIP
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}

# What is kept from the forward pass for the backward pass; the rest is computed again.
REMAT_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def layer_norm(epsilon: float, dtype: DTypeLike, name: str | None = None) -> nn.LayerNorm:
    """Layer norm with float32 statistics and the two-pass variance PyTorch uses."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


class Mlp(nn.Module):
    """Two dense layers. Parameters: `fc1` kernel [D, F], `fc2` kernel [F, D], with biases."""

    hidden: int
    activation: str
    out_std: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        width = x.shape[-1]
        x = attention.dense_general(self.hidden, std=(2 * width) ** -0.5, dtype=self.dtype, name="fc1")(x)
        # Each `tensor` device has its own hidden units.
        x = ACTIVATIONS[self.activation](place(x, *[None] * (x.ndim - 2), "tensor"))
        return attention.dense_general(width, std=self.out_std, dtype=self.dtype, name="fc2")(x)


class Block(nn.Module):
    """Pre-norm residual block: `x + attention(norm1(x))`, then `x + mlp(norm2(x))`."""

    heads: int
    mlp_dim: int
    activation: str
    norm_eps: float
    out_std: float
    dropout: float
    drop_path: float
    dtype: DTypeLike
    attention_impl: str

    @nn.compact
    def __call__(self, x, layer, spec, keys):
        """One layer in the form `nn.scan` wants: carry and per-layer input first.

        Args:
          x: [B, N, D].
          layer: (index, depth fraction in [0, 1]) of this layer; the drop-path rate grows linearly with depth.
          spec: who attends to whom.
          keys: [B] per-example keys, or None.
        """
        index, depth_fraction = layer
        keys = dropout.fold_keys(keys, index)
        noise = [dropout.fold_keys(keys, branch) for branch in range(4)]

        def residual(x, branch, element_keys, path_keys):
            branch = dropout.dropout(branch, self.dropout, element_keys)
            return x + (
                dropout.drop_path(branch, self.drop_path * depth_fraction, path_keys) if self.drop_path else branch
            )

        x = place(x)
        y = layer_norm(self.norm_eps, self.dtype, "norm1")(x)
        y = attention.SelfAttention(self.heads, self.out_std, self.dtype, self.attention_impl, name="attention")(
            y, spec
        )
        x = residual(x, place(y), noise[0], noise[1])
        y = layer_norm(self.norm_eps, self.dtype, "norm2")(x)
        y = Mlp(self.mlp_dim, self.activation, self.out_std, self.dtype, name="mlp")(y)
        x = residual(x, place(y), noise[2], noise[3])
        return x, x


class Transformer(nn.Module):
    """A stack of pre-norm blocks.

    Layer parameters are stored stacked, [depth, ...], scanned or not: checkpoints, sharding rules and weight files do
    not depend on `scan`. Unrolled layers (`scan=False`) compile slower and run a little faster.

    Attributes:
      depth, heads, mlp_dim: number of layers, attention heads, hidden units of the MLP.
      activation: a name in `ACTIVATIONS`.
      norm_eps: layer-norm epsilon.
      scan: whether one compiled layer is looped over the stack.
      remat: a name in `REMAT_POLICIES`.
      dropout: rate on both residual branches.
      drop_path: stochastic-depth rate of the last layer, growing linearly from 0 at the first.
      dtype: compute type; parameters stay float32.
      attention_impl: kernel, `xla` or `cudnn`; for the latter an odd number of tokens is filled up to an even one.
    """

    depth: int
    heads: int
    mlp_dim: int
    activation: str = "gelu"
    norm_eps: float = 1e-5
    scan: bool = True
    remat: str = "none"
    dropout: float = 0.0
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    attention_impl: str = "xla"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        spec: attention.AttentionSpec,
        keys: Key[Array, " B"] | None = None,
        *,
        intermediates: bool = False,
    ) -> tuple[Float[Array, "B N D"], Float[Array, "depth B N D"] | None]:
        """Returns the last layer's tokens and, on request, every layer's (else None)."""
        length = x.shape[1]
        x, spec = _filled(x, spec, attention.filled_length(length, self.attention_impl))
        block = Block
        if self.remat != "none":
            # Inside a loop the compiler cannot merge the two computations, so the barrier is only needed unrolled.
            block = nn.remat(Block, policy=REMAT_POLICIES[self.remat], prevent_cse=not self.scan)

        def body(block, x, layer, spec, keys):
            x, out = block(x, layer, spec, keys)
            return x, out if intermediates else None

        layers = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=self.depth,
            unroll=1 if self.scan else self.depth,
        )
        # OpenAI CLIP's initialisation: residual branches shrink with depth.
        out_std = x.shape[-1] ** -0.5 * (2 * self.depth) ** -0.5
        module = block(
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm_eps=self.norm_eps,
            out_std=out_std,
            dropout=self.dropout,
            drop_path=self.drop_path,
            dtype=self.dtype,
            attention_impl=self.attention_impl,
            name="layers",
        )
        index = jnp.arange(self.depth)
        x, outputs = layers(module, x, (index, index / max(1, self.depth - 1)), spec, keys)
        return place(x)[:, :length], outputs if outputs is None else outputs[:, :, :length]


def _filled(
    x: Float[Array, "B N D"], spec: attention.AttentionSpec, length: int
) -> tuple[Float[Array, "B M D"], attention.AttentionSpec]:
    """Appends tokens of zeros, which no token sees, up to a length."""
    more = length - x.shape[1]
    if not more:
        return x, spec
    valid = None if spec.valid is None else jnp.pad(spec.valid, ((0, 0), (0, more)))
    return jnp.pad(x, ((0, 0), (0, more), (0, 0))), spec.replace(valid=valid, length=x.shape[1])
