"""Multi-head self-attention, its masks and its cache of keys and values."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn.config import BlockConfig
from mmjax.nn.layers import ATTENTION_OUTPUT, Dense
from mmjax.nn.norms import LayerNorm, make_norm
from mmjax.nn.rotary import Rotation, rotate
from mmjax.parallel.mesh import shard_activation, traced_mesh

Kernel = Literal["cudnn", "pallas", "xla"]
DotProductKernel = Literal["cudnn", "xla"]


class AttentionSpec(struct.PyTreeNode):
    """Which keys a query may see. Nothing else in mmjax builds attention masks.

    All that is set must allow a key. A query without any key outputs 0.

    Attributes:
      causal: query i sees keys 0..i only.
      valid: [B, S] bool, True where the key is real; None when all are. It masks keys only.
      length: how many leading tokens are real, the same for every example; the rest is padding that nobody sees. None
        when all are.
      autoregressive: [S] or [B, S], 1 where a token and those after it are hidden from all tokens before it: 0 0 0 is
        bidirectional, 1 1 1 causal, 0 0 1 1 a prefix of two that sees itself, and a causal rest that sees the prefix
        (PaliGemma's `mask_ar`, arXiv:2407.07726).
      segment: [S] or [B, S], numbers; a token sees its own segment only.
      offset: the key that query 0 stands at, where the keys before it are those of earlier calls.
      chosen: [B] the key that the only query of each example stands at; None where queries are all tokens in order.
    """

    causal: bool = struct.field(pytree_node=False, default=False)
    valid: Bool[Array, "B S"] | None = None
    length: int | None = struct.field(pytree_node=False, default=None)
    autoregressive: Int[Array, "*B S"] | None = None
    segment: Int[Array, "*B S"] | None = None
    offset: Int[Array, ""] | None = None
    chosen: Int[Array, " B"] | None = None

    def mask(self, queries: int, keys: int) -> Bool[Array, "b T S"]:
        """The description as one mask, True where query t may see key s; b is 1 or B."""
        start = 0 if self.offset is None else self.offset
        positions = start + jnp.arange(queries)[None] if self.chosen is None else self.chosen[:, None]  # [b, T]
        query, key = positions[:, :, None], jnp.arange(keys)
        mask = jnp.ones((positions.shape[0], queries, keys), bool)
        if self.causal:
            mask &= key <= query
        if self.length is not None:
            mask &= key < self.length
        if self.valid is not None:
            mask &= self.valid[:, None, :]
        for numbers, allowed in ((self._groups(), jnp.less_equal), (self.segment, jnp.equal)):
            if numbers is not None:
                numbers = jnp.atleast_2d(numbers)
                batch = max(len(numbers), len(positions))
                numbers = jnp.broadcast_to(numbers, (batch, keys))
                of_query = jnp.take_along_axis(numbers, jnp.broadcast_to(positions, (batch, queries)), axis=1)
                mask &= allowed(numbers[:, None, :], of_query[:, :, None])
        return mask

    def _groups(self) -> Int[Array, "*B S"] | None:
        return None if self.autoregressive is None else jnp.cumsum(jnp.asarray(self.autoregressive), axis=-1)

    def pad_to(self, length: int, real: int) -> "AttentionSpec":
        """The same for `real` tokens and, up to `length`, others after them that nobody sees."""
        valid, autoregressive, segment = (
            x if x is None else jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, length - real)])
            for x in (self.valid, self.autoregressive, self.segment)
        )
        return self.replace(valid=valid, autoregressive=autoregressive, segment=segment, length=real)


class KVCache(NamedTuple):
    """Keys and values of one attention layer, [B, S, H, K] each; of stacked layers [depth, B, S, H, K].

    H is the heads of keys and values; keys are as they are attended to, turned by their positions.
    """

    k: Float[Array, "*depth B S H K"]
    v: Float[Array, "*depth B S H K"]

    def insert(self, index: Int[Array, ""], new: "KVCache") -> "KVCache":
        """One layer's cache with new keys and values in slots index, index + 1, ..."""
        put = lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x.astype(old.dtype), index, axis=1)
        return KVCache(put(self.k, new.k), put(self.v, new.v))


def take_tokens(x: Float[Array, "B N D"], chosen: Int[Array, " B"]) -> Float[Array, "B 1 D"]:
    """One token of each example."""
    return jnp.take_along_axis(x, chosen[:, None, None], axis=1)


def attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G K"],
    spec: AttentionSpec,
    implementation: DotProductKernel = "xla",
) -> Float[Array, "B T H K"]:
    """Scaled dot-product attention under `spec`; softmax in float32. A query without any key outputs 0.

    Args:
      q, k, v: queries, keys and values; each of G heads of keys and values serves H / G of queries, one after another.
      spec: who attends to whom.
      implementation: `xla`, or `cudnn` where `choose_implementation` says so (`pallas` is `SelfAttention`'s).
    """
    batch, queries, keys = q.shape[0], q.shape[1], k.shape[1]
    causal, mask, lengths, sees = spec.causal, None, None, None
    if any(part is not None for part in (spec.autoregressive, spec.segment, spec.offset, spec.chosen)):
        mask = spec.mask(queries, keys)
        causal = False
        if spec.valid is not None or queries > keys:  # else each query sees itself
            sees = mask.any(axis=-1)
    elif spec.valid is not None:
        valid = spec.valid if spec.length is None else spec.valid & (jnp.arange(keys) < spec.length)
        mask = valid[:, None, :]
        sees = jnp.cumsum(valid, axis=1) > 0 if causal else valid.any(axis=1, keepdims=True)
    elif spec.length is not None and not causal:  # padding stands last: a causal query comes before it
        lengths = jnp.full(batch, spec.length, jnp.int32)
    if mask is not None:
        # cuDNN takes no mask that is broadcast, but over heads.
        mask = jnp.broadcast_to(mask[:, None], (batch, 1, queries, keys))
    out = jax.nn.dot_product_attention(
        q, k, v, mask=mask, is_causal=causal, key_value_seq_lengths=lengths, implementation=implementation
    )
    # A softmax over nothing but masked keys is uniform over garbage: make it an explicit zero.
    return out if sees is None else jnp.where(sees[:, :, None, None], out, 0)


def attention_weights(
    q: Float[Array, "B T H K"], k: Float[Array, "B S G K"], spec: AttentionSpec
) -> Float[Array, "B H T S"]:
    """How much of each key `attend` takes for each query, in float32; rows sum to 1, or to 0 without any key."""
    k = k if k.shape[2] == q.shape[2] else jnp.repeat(k, q.shape[2] // k.shape[2], axis=2)
    logits = jnp.einsum("BTHK,BSHK->BHTS", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    mask = spec.mask(q.shape[1], k.shape[1])[:, None]
    return jnp.where(mask, jax.nn.softmax(jnp.where(mask, logits, -1e30), axis=-1), 0.0)


def padded_length(length: int, implementation: str) -> int:
    """How many tokens to give a transformer of `length`, so that its kernel applies.

    jax lets cuDNN's train on even counts only, see docs/scaling.md.
    """
    return length + length % 2 if implementation == "cudnn" else length


class MultiHeadAttention(nn.Module):
    """Self-attention and `CrossAttention`, as far as they are alike.

    Attributes:
      heads: H; the queries' width is divided among them, unless `block.head_dim` says how wide they are.
      out_std: of the output projection's initialisation.
      implementation: kernel of self-attention.
      qk_norm: layer norm, without bias, of each head's queries and keys (arXiv:2302.05442).
      key_bias: keys have a bias, as queries and values do. It changes no output: to all scores of a query it adds the
        same. VideoMAE and Whisper have none.
      block: of self-attention, what it has otherwise than CLIP's.
      norm_eps: epsilon of the norm that `block.attention_norm` asks for.
    """

    heads: int
    out_std: float
    dtype: DTypeLike = jnp.float32
    implementation: Kernel = "xla"
    qk_norm: bool = False
    key_bias: bool = True
    block: BlockConfig = BlockConfig()
    norm_eps: float = 1e-6

    def normed(self, x: Float[Array, "B N H K"], name: str) -> Float[Array, "B N H K"]:
        """Queries or keys, with `qk_norm` normalised."""
        if not self.qk_norm:
            return x
        return LayerNorm(1e-6, self.dtype, use_bias=False, name=name)(x)

    def attend(self, q, k, v, spec, implementation, width):
        """The output [B, T, D] of queries, keys and values; their weights are sown where somebody collects them."""
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", "weights", attention_weights(q, k, spec))
        return self._project_heads(checkpoint_name(attend(q, k, v, spec, implementation), ATTENTION_OUTPUT), width)

    def _project_heads(self, y: Float[Array, "B T H K"], width: int) -> Float[Array, "B T D"]:
        if self.block.attention_norm:
            norm = make_norm(self.block.norm_type, self.norm_eps, self.dtype, "norm")
            y = norm(y.reshape(*y.shape[:2], -1)).reshape(y.shape)
        # 'BNHK,HKD->BND'
        use_bias = self.block.out_bias
        return Dense(width, axes=2, std=self.out_std, dtype=self.dtype, use_bias=use_bias, name="out")(y)


class SelfAttention(MultiHeadAttention):
    """Multi-head self-attention with one fused projection.

    Parameters: `qkv` kernel [D, 3, H, K] and bias [3, H, K] ([2, H, K] without `key_bias`), or with fewer heads of keys
    and values `q` kernel [D, H, K] and `kv` kernel [D, 2, G, K] with their biases; `out` kernel [H, K, D] and bias [D];
    with `qk_norm`, `q_norm` and `k_norm` scale [K]; with `block.attention_norm`, `norm` [H K].
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        spec: AttentionSpec,
        cached: KVCache | None = None,
        index: Int[Array, ""] | None = None,
        chosen: Int[Array, " B"] | None = None,
        rotation: Rotation | None = None,
    ) -> tuple[Float[Array, "B T D"], KVCache]:
        """Attends; with `cached`, over its S slots once the new keys and values stand in slots index, index + 1, ...

        With `chosen` one token of each example is the only query: the output is [B, 1, D]. With a `rotation` of these
        tokens their queries and keys are turned.

        Returns:
          The output, and all keys and values that were attended to.

        Raises:
          ValueError: `cached` without an `index`.
        """
        width = x.shape[-1]
        head_dim = self.block.head_dim or width // self.heads
        mesh = traced_mesh()
        fused = cached is None and chosen is None and self._is_fused(x, head_dim, spec, mesh)
        # One axis of features is as the kernel reads them; of several XLA would have the batch run fastest, and copy.
        plain = not self.qk_norm and rotation is None
        flat = fused and plain and (mesh is None or mesh.shape["tensor"] == 1)
        settings = {"std": width**-0.5, "dtype": self.dtype, "use_bias": self.block.qkv_bias}
        if self._is_grouped:
            parts = self._grouped_parts(x if chosen is None else take_tokens(x, chosen), x, head_dim, settings)
        else:
            # 'BND,DTHK->BNTHK'
            shape, unbiased = (3, self.heads, head_dim), None if self.key_bias else 1
            project = Dense(shape, flat=flat, unbiased=unbiased, **settings, name="qkv")
            if fused:
                return self._fused(project(x), spec.causal, mesh, rotation, width)
            if chosen is None:
                qkv = project(x)
                parts = [qkv[:, :, i] for i in range(3)]
            else:
                query = take_tokens(x, chosen)
                kv = project(x, slice(1, 3))
                parts = [project(query, slice(0, 1))[:, :, 0], kv[:, :, 0], kv[:, :, 1]]
        implementation = "xla" if self.implementation == "pallas" or chosen is not None else self.implementation
        spec = spec if chosen is None else spec.replace(chosen=chosen)
        # Each `tensor` device has its own heads.
        q, k, v = (shard_activation(part, None, "tensor", None) for part in parts)
        q, k = self._turned(self.normed(q, "q_norm"), self.normed(k, "k_norm"), rotation, chosen)
        keys_values = KVCache(k, v)
        if cached is not None:
            if index is None:
                raise ValueError("new keys and values need an index in the cache")
            keys_values = cached.insert(index, keys_values)
            implementation = "xla"  # one query is no work for a fused kernel
        return self.attend(q, *keys_values, spec, implementation, width), keys_values

    @property
    def _is_grouped(self) -> bool:
        """Whether there are fewer heads of keys and values than of queries (arXiv:2305.13245)."""
        return self.block.kv_heads not in (0, self.heads)

    def _grouped_parts(self, query, x, head_dim, settings):
        """Queries, keys and values, of which the latter two have heads of their own."""
        unbiased = None if self.key_bias else 0
        q = Dense((self.heads, head_dim), **settings, name="q")(query)
        kv = Dense((2, self.block.kv_heads, head_dim), unbiased=unbiased, **settings, name="kv")(x)
        return [q, kv[:, :, 0], kv[:, :, 1]]

    def _turned(self, q, k, rotation, chosen=None):
        """Queries and keys, turned where there is a rotation."""
        if rotation is None:
            return q, k
        of_queries = rotation if chosen is None else rotation.take(chosen)
        return rotate(q, of_queries, self.block.rope), rotate(k, rotation, self.block.rope)

    def _is_fused(self, x, head_dim, spec, mesh) -> bool:
        """Whether the kernel for TPUs computes this call."""
        if self.implementation != "pallas" or self._is_grouped or self.is_mutable_collection("intermediates"):
            return False
        parts = (spec.valid, spec.autoregressive, spec.segment, spec.offset, spec.chosen)
        plain = all(part is None for part in parts) and spec.length in (None, x.shape[1])
        from mmjax.nn import tpu_attention  # jax's Pallas is slow to import, and elsewhere of no use

        batch, length = x.shape[:2]
        return plain and tpu_attention.fits(batch, length, self.heads, head_dim, mesh)

    def _fused(self, qkv, causal, mesh, rotation, width):
        from mmjax.nn import tpu_attention

        qkv = shard_activation(qkv) if qkv.ndim == 3 else shard_activation(qkv, None, None, "tensor", None)
        parts = qkv.reshape(*qkv.shape[:2], 3, self.heads, -1)
        q, k, v = (parts[:, :, i] for i in range(3))
        if self.qk_norm or rotation is not None:
            q, k = self._turned(self.normed(q, "q_norm"), self.normed(k, "k_norm"), rotation)
            qkv = jnp.stack((q, k, v), axis=2)
        y = checkpoint_name(tpu_attention.fused_attention(qkv, self.heads, causal, mesh), ATTENTION_OUTPUT)
        return self._project_heads(y.reshape(v.shape), width), KVCache(k, v)
