"""The loop over a transformer's layers: how many are looped over, and what each keeps for the backward pass."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.nn.layers import ATTENTION_OUTPUT, PRODUCT

Layer = Callable[[Any, Any, Float[Array, "B N D"]], tuple[Float[Array, "B N D"], Any]]


def _keeps_attention(primitive, *_, **settings) -> bool:
    # cuDNN's attention is no dot: its output and its statistics would be computed twice.
    return primitive.name.startswith("dot_product_attention_fwd")


def _named(*names: str):
    return jax.checkpoint_policies.save_from_both_policies(
        _keeps_attention, jax.checkpoint_policies.save_only_these_names(*names)
    )


# What is kept from the forward pass for the backward pass; the rest is computed again.
REMAT_POLICIES = {
    "none": None,
    "auto": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": _named(ATTENTION_OUTPUT),
    "dots": _named(ATTENTION_OUTPUT, PRODUCT),
}


def loops(scan: bool | str, platform: str | None) -> bool:
    """Whether all layers are looped over; `platform` as jax calls it, None where it is not known."""
    return platform in (None, "cpu") if scan == "auto" else bool(scan)


def looped_layers(scan: bool | str, platform: str | None, depth: int, remat: str, unrolled: int) -> int:
    """How many of the first layers are looped over.

    With `auto` on a TPU those are whose forward pass is done again: a loop's stacks then hold their inputs alone, and
    cost little. Unrolled, the compiler would leave gradients of weights for later, and hold what they are made of for
    many layers at a time.

    Args:
      scan: `auto`, or whether all are.
      platform: as jax calls it; None where it is not known.
      depth: layers.
      remat: a name in `REMAT_POLICIES`.
      unrolled: how many of the last layers differ from the others.
    """
    if loops(scan, platform):
        return depth
    return depth - min(unrolled, depth) if scan == "auto" and platform == "tpu" and remat == "full" else 0


def run_layers(
    layer: Layer,
    params: Any,
    numbers: Any,
    x: Float[Array, "B N D"],
    *,
    looped: int,
    remat: str = "none",
    remat_keep: int = 0,
    last: Layer | None = None,
) -> tuple[Float[Array, "B T D"], Any]:
    """Runs layers over parameters with a leading axis of layers.

    A loop is compiled once, but copies what it keeps for the backward pass into arrays of all layers and out of them
    again; unrolled layers leave it where it is.

    Args:
      layer: `(params of one layer, numbers of one layer, x) -> (x, output)`.
      params: leaves [depth, ...].
      numbers: what else differs from layer to layer, leaves [depth, ...].
      x: tokens.
      looped: how many of the first layers are looped over, see `looped_layers`.
      remat: a name in `REMAT_POLICIES`.
      remat_keep: how many of the last layers keep everything.
      last: runs the last layer in place of `layer`; only unrolled.

    Returns:
      The tokens after the last layer, and all outputs, stacked.

    Raises:
      ValueError: `last` in a loop.
    """
    depth = len(jax.tree.leaves(numbers)[0])
    if last is not None and looped == depth:
        raise ValueError("the last layer is one of a loop; set scan=False")
    first_kept = 0 if REMAT_POLICIES[remat] is None else max(0, depth - remat_keep)
    outputs = []
    bounds = sorted({0, first_kept, looped, depth})
    for start, stop in itertools.pairwise(bounds):
        scan, policy = start < looped, remat if start < first_kept else "none"
        run = _rematerialised(layer, policy, scan)
        part = (params, numbers)
        if stop - start < depth:
            part = jax.tree.map(lambda leaf, a=start, b=stop: leaf[a:b], part)
        if scan:
            x, output = jax.lax.scan(lambda x, one, run=run: run(*one, x), x, part)
            outputs.append(output)
            continue
        for i, (layer_params, layer_numbers) in enumerate(_unstacked(part, stop - start)):
            is_last = start + i == depth - 1
            run_one = _rematerialised(last, policy, scan) if last is not None and is_last else run
            x, output = run_one(layer_params, layer_numbers, x)
            outputs.append(jax.tree.map(lambda leaf: leaf[None], output))
    return x, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outputs)


def _rematerialised(layer: Layer, policy: str, scan: bool) -> Layer:
    if REMAT_POLICIES[policy] is None:
        return layer
    # Inside a loop the compiler cannot merge the two computations, so the barrier is only needed unrolled.
    return jax.checkpoint(layer, policy=REMAT_POLICIES[policy], prevent_cse=not scan)


def _unstacked(tree: Any, count: int) -> list[Any]:
    """The layers of a stack. The gradient of a split is one concatenation; that of indexing would be a sum."""
    leaves, structure = jax.tree.flatten(tree)
    parts = [jax.lax.split(leaf, (1,) * count, axis=0) for leaf in leaves]
    return [structure.unflatten([part[i][0] for part in parts]) for i in range(count)]
