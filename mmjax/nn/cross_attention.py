"""Cross-attention: tokens attend to a memory."""

from flax import linen as nn
from jaxtyping import Array, Float

from mmjax.nn.attention import AttentionSpec, KVCache, MultiHeadAttention
from mmjax.nn.layers import Dense
from mmjax.parallel.mesh import shard_activation


class CrossAttention(MultiHeadAttention):
    """Multi-head attention of queries over a memory of any width.

    Parameters: `q` kernel [D, H, K]; `kv` kernel [Dm, 2, H, K]; `out` kernel [H, K, D]; each with its bias (`kv`
    [1, H, K] without `key_bias`); with `qk_norm`, `q_norm` and `k_norm` scale [K].
    """

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        memory: Float[Array, "B S Dm"] | None,
        spec: AttentionSpec,
        cached: KVCache | None = None,
    ) -> tuple[Float[Array, "B T D"], KVCache]:
        """Attends to `memory`, or to its keys and values as an earlier call returned them; always by XLA's kernel.

        Returns:
          The output, and the memory's keys and values.

        Raises:
          ValueError: neither a memory nor its keys and values.
        """
        width = x.shape[-1]
        head_dim = width // self.heads
        q = Dense((self.heads, head_dim), std=width**-0.5, dtype=self.dtype, name="q")(x)
        if cached is None:
            if memory is None:
                raise ValueError("cross-attention needs a memory, or its keys and values")
            std = memory.shape[-1] ** -0.5
            unbiased = None if self.key_bias else 0
            kv = Dense((2, self.heads, head_dim), std=std, dtype=self.dtype, unbiased=unbiased, name="kv")(memory)
            k, v = (shard_activation(kv[:, :, i], None, "tensor", None) for i in range(2))
            cached = KVCache(self.normed(k, "k_norm"), v)
        q = self.normed(shard_activation(q, None, "tensor", None), "q_norm")
        return self.attend(q, *cached, spec, "xla", width), cached
