"""One layer of the Transformer: self-attention, cross-attention and MLP, each on a residual branch."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.nn import attention, layers
from mmjax.nn.config import BlockConfig
from mmjax.nn.cross_attention import CrossAttention
from mmjax.nn.kv_cache import LayerCache
from mmjax.nn.mlp import Mlp
from mmjax.nn.norms import make_norm
from mmjax.nn.rotary import Rotation
from mmjax.parallel.mesh import row_major, shard_activation
from mmjax.utils.random_streams import BranchStream

_ALL = slice(None)


class Memory(NamedTuple):
    """What cross-attention looks at: tokens [B, M, Dm] and which of them are real ([B, M]; None when all are)."""

    tokens: Float[Array, "B M Dm"] | None
    valid: Bool[Array, "B M"] | None = None


class LayerInputs(NamedTuple):
    """What all layers of one call take beside their tokens.

    Attributes:
      spec, memory_spec: who attends to whom, among the tokens and in the memory.
      keys: one an example, or None.
      memory: [B, M, Dm], or None where there is none or its keys and values are cached.
      index: slot of the cache that the first token goes to.
      chosen: the one token of each example that is wanted; None for all. The others are only attended to.
      rotation: of queries and keys, by the tokens' positions; None for none.
    """

    spec: attention.AttentionSpec
    keys: Key[Array, " B"] | None
    memory: Float[Array, "B M Dm"] | None
    memory_spec: attention.AttentionSpec
    index: Int[Array, ""] | None
    chosen: Int[Array, " B"] | None = None
    rotation: Rotation | None = None


class _BranchNoise(NamedTuple):
    """Dropout and drop path of one layer's residual branches.

    Attributes:
      keys: one an example, of this layer; None for no noise.
      dropout: rate.
      drop_path: rate of the last layer.
      depth_fraction: of that rate, this layer's share.
      length: tokens of an example.
      chosen: as in `LayerInputs`.
    """

    keys: Key[Array, " B"] | None
    dropout: float
    drop_path: float
    depth_fraction: Float[Array, ""]
    length: int
    chosen: Int[Array, " B"] | None

    def apply(self, y: Float[Array, "B T D"], stream: BranchStream, segment: int) -> Float[Array, "B T D"]:
        """A branch's output with its noise; each segment has another."""
        y = layers.dropout(shard_activation(y), self.dropout, self._keys(stream, segment), self.chosen, self.length)
        if self.drop_path:
            y = drop_path(y, self.drop_path * self.depth_fraction, self._keys(stream + 1, segment))
        return y

    def _keys(self, number, segment):
        keys = layers.fold_keys(self.keys, number)
        return layers.fold_keys(keys, segment) if segment else keys


def drop_path(
    x: Float[Array, "B ..."], rate: float | Float[Array, ""], keys: Key[Array, " B"] | None
) -> Float[Array, "B ..."]:
    """Stochastic depth: zeroes a whole residual branch of an example with probability `rate` (arXiv:1603.09382)."""
    if keys is None:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate))(keys)
    keep = keep.reshape((-1,) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


class Block(nn.Module):
    """A residual block.

    Pre-norm: `x + attention(norm1(x))`, then `x + mlp(norm2(x))`; post-norm: `norm1(x + attention(x))`, then
    `norm2(x + mlp(x))`. Cross-attention (`norm_cross`) stands between the two; with `cross_mlp` it comes after them,
    with a norm of the memory and an MLP of its own. Where there are several `segments`, each has its own last norm and
    MLP, and cross-attention is for the first one alone.

    With `block.res_post_norm`: `x + norm1(attention(x))`, then `x + norm2(mlp(x))`. With `block.layer_scale` what a
    branch adds is multiplied by `layer_scale1` or `layer_scale2` [D] (arXiv:2103.17239).
    """

    heads: int
    mlp_dim: int
    activation: str
    norm_eps: float
    out_std: float
    dropout: float
    drop_path: float
    dtype: DTypeLike
    attention_impl: attention.Kernel
    norm: str
    qk_norm: bool
    key_bias: bool
    cross: bool
    cross_mlp: bool
    segments: tuple[int, ...] | None
    block: BlockConfig = BlockConfig()

    @nn.compact
    def __call__(self, x, layer, cache, inputs):
        """One layer in the form `nn.scan` wants: carry and per-layer input first.

        Args:
          x: [B, N, D].
          layer: (number, depth fraction in [0, 1]) of this layer; the drop-path rate grows linearly with depth.
          cache: the layer's `LayerCache`, or None.
          inputs: `LayerInputs`.

        Returns:
          The tokens ([B, 1, D] where one is `chosen`), and the layer's `LayerCache` after them.
        """
        number, depth_fraction = layer
        keys = layers.fold_keys(inputs.keys, number)
        noise = _BranchNoise(keys, self.dropout, self.drop_path, depth_fraction, x.shape[1], inputs.chosen)
        self_cache, cross_cache = (None, None) if cache is None else cache
        crosses = self.cross and (self.segments is None or self.segments[0] > 0)

        x, self_cache = self._self_attend(row_major(shard_activation(x)), self_cache, inputs, noise)
        if crosses and not self.cross_mlp:
            x, cross_cache = self._cross_attend(x, cross_cache, inputs, noise)
        x = self._mlps(x, noise)
        if crosses and self.cross_mlp:
            x, cross_cache = self._cross_attend(x, cross_cache, inputs, noise)
            y = self._mlp("cross_mlp")(self._branch_input(x, "norm_cross_mlp", self._first_segment))
            x = self._add(x, y, "norm_cross_mlp", noise, BranchStream.CROSS_MLP, self._first_segment)
        return x, LayerCache(self_cache, cross_cache)

    def _self_attend(self, x, cache, inputs, noise):
        attend = attention.SelfAttention(
            self.heads,
            self.out_std,
            self.dtype,
            self.attention_impl,
            self.qk_norm,
            self.key_bias and self.block.key_bias,
            self.block,
            self.norm_eps,
            name="attention",
        )
        y, cache = attend(
            self._branch_input(x, "norm1"), inputs.spec, cache, inputs.index, inputs.chosen, inputs.rotation
        )
        return self._add(x, self._scaled(y, "layer_scale1"), "norm1", noise, BranchStream.ATTENTION), cache

    def _cross_attend(self, x, cache, inputs, noise):
        attend = CrossAttention(
            self.heads, self.out_std, self.dtype, qk_norm=self.qk_norm, key_bias=self.key_bias, name="cross_attention"
        )
        y, memory = self._branch_input(x, "norm_cross", self._first_segment), inputs.memory
        if self.cross_mlp and memory is not None:
            memory = self._layer_norm("norm_memory")(memory)
        y, cache = attend(y, memory, inputs.memory_spec, cache)
        return self._add(x, y, "norm_cross", noise, BranchStream.CROSS_ATTENTION, self._first_segment), cache

    def _mlps(self, x, noise):
        """One MLP for all tokens, or one for each segment that has any."""
        if self.segments is None:
            y = self._scaled(self._mlp("mlp")(self._branch_input(x, "norm2")), "layer_scale2")
            return self._add(x, y, "norm2", noise, BranchStream.MLP)
        start = 0
        for segment, length in enumerate(self.segments):
            tokens, prefix = slice(start, start + length), f"segment{segment}_" if segment else ""
            if length:
                y = self._mlp(f"{prefix}mlp")(self._branch_input(x, f"{prefix}norm2", tokens))
                x = self._add(x, y, f"{prefix}norm2", noise, BranchStream.MLP, tokens, segment)
            start += length
        return x

    @property
    def _first_segment(self) -> slice:
        return _ALL if self.segments is None else slice(0, self.segments[0])

    def _mlp(self, name):
        return Mlp(
            self.mlp_dim,
            self.activation,
            self.out_std,
            self.dtype,
            gated=self.block.mlp_gate,
            use_bias=self.block.mlp_bias,
            inner_norm=self._norm_maker if self.block.mlp_norm else None,
            name=name,
        )

    @property
    def _norm_maker(self) -> Callable[[str], nn.Module]:
        return functools.partial(make_norm, self.block.norm_type, self.norm_eps, self.dtype)

    def _layer_norm(self, name):
        return self._norm_maker(name)

    def _scaled(self, y, name):
        """What a branch adds, with a layer scale multiplied by it."""
        if not self.block.layer_scale:
            return y
        init = nn.initializers.constant(self.block.layer_scale)
        return layers.scale_by_parameter(y, self.param(name, init, (y.shape[-1],), jnp.float32))

    def _branch_input(self, x, norm, tokens=_ALL):
        """What a branch reads of the residual stream: these tokens, with pre-norm normalised."""
        reads_normed = self.norm == "pre" and not self.block.res_post_norm
        return self._layer_norm(norm)(x[:, tokens]) if reads_normed else x[:, tokens]

    def _add(self, x, y, norm, noise, stream, tokens=_ALL, segment=0):
        """The residual stream after a branch whose output for these tokens is y; with post-norm normalised."""
        y = self._layer_norm(norm)(y) if self.block.res_post_norm else y
        y = noise.apply(y, stream, segment)
        if tokens == _ALL:
            x = x if x.shape == y.shape else attention.take_tokens(x, noise.chosen)
            return row_major(x + y) if self.norm == "pre" else self._layer_norm(norm)(x + y)
        changed = x[:, tokens] + y
        changed = changed if self.norm == "pre" else self._layer_norm(norm)(changed)
        return jnp.concatenate([x[:, : tokens.start], changed, x[:, tokens.stop :]], axis=1)


class RepeatedBlockGroup(nn.Module):
    """Layers that repeat together: one with cross-attention, then those without."""

    blocks: tuple[Callable[..., nn.Module], ...]  # make them, but for their names

    @nn.compact
    def __call__(self, x, layers, caches, inputs):
        """As `Block`, with a leading axis of the group's layers; returns (x, (their caches, their outputs))."""
        outputs, new_caches = [], []
        for i, block in enumerate(self.blocks):
            layer = tuple(leaf[i] for leaf in layers)
            x, cache = block(name=f"block{i}")(x, layer, None if caches is None else caches[i], inputs)
            outputs.append(x)
            new_caches.append(cache)
        return x, (tuple(new_caches), jnp.stack(outputs))
