"""Fused self-attention for TPUs, for sequences that fit into on-chip memory whole: images of a few hundred patches.

XLA's attention writes the weights of every pair of tokens to main memory and reads them back several times in each
pass; for a ViT that is more than half of what a step moves. Here logits and weights stay on the chip. As the whole
sequence is there, too, softmax takes one pass, and the backward pass needs queries, keys and values alone: it computes
logits and their sums again.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec
from jaxtyping import Array, BFloat16

from mmjax.nn.tpu_tiles import LANES, ROWS, TOKENS, bytes_needed, group_of_heads, round_up_to_tile
from mmjax.parallel.mesh import BATCH_AXES, batch_devices
from mmjax.utils.custom_gradient import custom_vjp

# Of logits where a query may not see a key: exp of it is 0.
_MASKED = -1e30
# Matrix products of each pass: logits and output; logits again, and gradients of weights, queries, keys and values.
_PRODUCTS = {"forward": 2, "backward": 5}


def fits(batch: int, length: int, heads: int, head_dim: int, mesh: Any) -> bool:
    """Whether the kernel can compute self-attention of such a shape, spread over a mesh (None for one device)."""
    rows, shards = (1, 1) if mesh is None else (batch_devices(mesh), mesh.shape["tensor"])
    divides = batch % rows == 0 and heads % shards == 0
    return length in TOKENS and divides and group_of_heads(heads // shards, head_dim) > 0


@custom_vjp((1, 2, 3))
def fused_attention(
    qkv: BFloat16[Array, "B N ..."], heads: int, causal: bool = False, mesh: Any = None
) -> BFloat16[Array, "B N D"]:
    """Scaled dot-product self-attention of the tokens of each example; softmax in float32.

    Kept for the backward pass: `qkv` alone.

    Args:
      qkv: queries, keys and values, [B, N, 3, H, K] or [B, N, 3 H K], of a shape that `fits`. Heads can only be spread
        over `tensor` where they have an axis.
      heads: H.
      causal: query i sees keys 0..i only.
      mesh: whose devices the rows and heads are spread over; None where the kernel runs on the arrays as they are.

    Returns:
      The heads' outputs, one after the other, as are `qkv`'s.
    """
    one = functools.partial(_forward_pass, causal, _heads_on_a_device(heads, mesh))
    return _spread(one, mesh, (_spec(qkv),), PartitionSpec(BATCH_AXES, None, "tensor"))(qkv)


def _forward(qkv, heads, causal, mesh):
    return fused_attention(qkv, heads, causal, mesh), qkv


def _backward(heads, causal, mesh, qkv, gradient):
    specs = (_spec(qkv), PartitionSpec(BATCH_AXES, None, "tensor"))
    one = functools.partial(_backward_pass, causal, _heads_on_a_device(heads, mesh))
    return (_spread(one, mesh, specs, _spec(qkv))(qkv, gradient.astype(qkv.dtype)),)


fused_attention.defvjp(_forward, _backward)


def _spec(qkv):
    return PartitionSpec(BATCH_AXES, None, None, "tensor") if qkv.ndim == 5 else PartitionSpec(BATCH_AXES)


def _heads_on_a_device(heads, mesh):
    return heads if mesh is None else heads // mesh.shape["tensor"]


def _spread(function, mesh, in_specs, out_specs):
    # The partitioner cannot look into a kernel. Its outputs have nothing to say about devices that hold the same.
    if mesh is None:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _forward_pass(causal, heads, qkv):
    flat = qkv.reshape(*qkv.shape[:2], -1)
    width = flat.shape[2] // 3
    shape = _Shape(qkv.shape[1], heads, width // heads, causal)
    return _call("forward", shape, flat, columns=width)


def _backward_pass(causal, heads, qkv, gradient):
    flat = qkv.reshape(*qkv.shape[:2], -1)
    shape = _Shape(qkv.shape[1], heads, gradient.shape[2] // heads, causal)
    return _call("backward", shape, flat, gradient, columns=flat.shape[2]).reshape(qkv.shape)


def _call(name, shape, *inputs, columns):
    """Runs a kernel on one example after the other, each [rows, columns] of them whole in on-chip memory."""
    batch, dtype = len(inputs[0]), inputs[0].dtype
    block = lambda width: pl.BlockSpec((1, shape.rows, width), lambda i: (i, 0, 0))
    widths = sum(x.shape[2] for x in inputs) + columns
    pairs = batch * shape.heads * shape.length**2
    held = bytes_needed(shape.length, shape.heads, shape.head_dim, backward=name == "backward")
    return pl.pallas_call(
        functools.partial({"forward": _forward_kernel, "backward": _backward_kernel}[name], shape),
        grid=(batch,),
        in_specs=[block(x.shape[2]) for x in inputs],
        out_specs=block(columns),
        out_shape=jax.ShapeDtypeStruct((batch, shape.length, columns), dtype),
        scratch_shapes=[pltpu.VMEM((shape.keys, x.shape[2]), dtype) for x in inputs],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",), vmem_limit_bytes=max(16 << 20, int(1.5 * held))
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * _PRODUCTS[name] * pairs * shape.head_dim,
            transcendentals=pairs,
            bytes_accessed=dtype.itemsize * batch * shape.length * widths,
        ),
        name=f"fused_attention_{name}",
    )(*inputs)


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Static settings of the kernels."""

    length: int
    heads: int
    head_dim: int
    causal: bool

    @property
    def width(self):
        return self.heads * self.head_dim

    @property
    def rows(self):
        """Tokens, up to whole tiles."""
        return round_up_to_tile(self.length, ROWS)

    @property
    def keys(self):
        """The same where they stand along the lanes, as logits have them."""
        return round_up_to_tile(self.length, LANES)

    @property
    def group(self):
        return group_of_heads(self.heads, self.head_dim)

    def weights(self, q, k):
        """Attention's weights of one head, float32 [queries, keys]; rows behind the last token are of no use."""
        logits = _product(q, k, (1, 1)) * self.head_dim**-0.5
        column = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
        seen = column < self.length
        if self.causal:
            seen &= column <= jax.lax.broadcasted_iota(jnp.int32, logits.shape, 0)
        logits = jnp.where(seen, logits, _MASKED)
        weights = jnp.exp(logits - logits.max(axis=1, keepdims=True))
        return weights * (1 / weights.sum(axis=1, keepdims=True))

    def for_each_group(self, function):
        """Calls `function(start)` with the first lane of each group of heads."""
        lanes = self.group * self.head_dim

        def body(i, _):
            function(pl.multiple_of(i * lanes, LANES), lanes)
            return _

        jax.lax.fori_loop(0, self.heads // self.group, body, 0)


def _product(a, b, contracted):
    return jax.lax.dot_general(
        a, b, (((contracted[0],), (contracted[1],)), ((), ())), preferred_element_type=jnp.float32
    )


def _copy_padded(ref, scratch, length):
    """Copies a block to scratch, with zeros behind the last token (a block's own rows there hold anything)."""
    rows = ref.shape[1]
    row = jax.lax.broadcasted_iota(jnp.int32, (rows, ref.shape[2]), 0)
    scratch[:rows] = jnp.where(row < length, ref[0].astype(jnp.float32), 0).astype(scratch.dtype)
    if rows < scratch.shape[0]:
        scratch[rows:] = jnp.zeros((scratch.shape[0] - rows, scratch.shape[1]), scratch.dtype)


def _forward_kernel(shape, qkv_ref, out_ref, qkv):
    _copy_padded(qkv_ref, qkv, shape.length)
    rows, size = out_ref.shape[1], shape.head_dim

    def attend(start, lanes):
        q, k, v = (qkv[:, pl.ds(start + part * shape.width, lanes)] for part in range(3))
        outs = []
        for head in range(shape.group):
            of = slice(head * size, (head + 1) * size)
            weights = shape.weights(q[:rows, of], k[:, of])
            outs.append(_product(weights.astype(qkv.dtype), v[:, of], (1, 0)))
        out_ref[0, :, pl.ds(start, lanes)] = jnp.concatenate(outs, axis=1).astype(out_ref.dtype)

    shape.for_each_group(attend)


def _backward_kernel(shape, qkv_ref, gradient_ref, out_ref, qkv, gradients):
    _copy_padded(qkv_ref, qkv, shape.length)
    _copy_padded(gradient_ref, gradients, shape.length)
    rows, size = out_ref.shape[1], shape.head_dim

    def attend(start, lanes):
        q, k, v = (qkv[:, pl.ds(start + part * shape.width, lanes)] for part in range(3))
        gradient = gradients[:, pl.ds(start, lanes)]
        results = ([], [], [])
        for head in range(shape.group):
            of = slice(head * size, (head + 1) * size)
            weights = shape.weights(q[:, of], k[:, of])
            of_weights = _product(gradient[:, of], v[:, of], (1, 1))
            summed = (weights * of_weights).sum(axis=1, keepdims=True)
            of_logits = (weights * (of_weights - summed) * size**-0.5).astype(qkv.dtype)
            results[0].append(_product(of_logits, k[:, of], (1, 0)))
            results[1].append(_product(of_logits, q[:, of], (0, 0)))
            results[2].append(_product(weights.astype(qkv.dtype), gradient[:, of], (0, 0)))
        for part, result in enumerate(results):
            result = jnp.concatenate(result, axis=1)[:rows].astype(out_ref.dtype)
            out_ref[0, :, pl.ds(start + part * shape.width, lanes)] = result

    shape.for_each_group(attend)
