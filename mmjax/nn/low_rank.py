"""Low-rank adapters of linear maps (LoRA, arXiv:2106.09685): what is added to a product where a layer has them.

An adapter of a kernel [*inputs, *outputs] is `lora_a` [*inputs, R] and `lora_b` [R, *outputs], beside it in the tree of
parameters. A kernel of several maps, `qkv` [D, 3, H, K] or `kv`, has one for each that is adapted: `lora_q_a` etc.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

# Modules whose kernel holds several maps, along the first axis of its outputs, by their letters.
SEVERAL = ("qkv", "kv")


def is_adapter(path: str) -> bool:
    """Whether a parameter, by its path, is part of an adapter."""
    return path.rpartition("/")[2].startswith("lora_")


def add_adapters(
    params: Mapping[str, Any],
    name: str | None,
    part: slice,
    y: Float[Array, "..."],
    product: Callable[[Any, Any], Float[Array, "..."]],
) -> Float[Array, "..."]:
    """A layer's product with those of its adapters.

    Args:
      params: the layer's.
      name: of the layer.
      part: of the maps of a kernel of several, those that are wanted.
      y: the product; the axes of its outputs may be one.
      product: (`lora_a`, `lora_b`) -> the adapter's product [*batch, *outputs].
    """
    if "lora_a" in params:
        return y + product(params["lora_a"], params["lora_b"]).reshape(y.shape)
    letters = (name or "")[part]
    adapters = [(f"lora_{letter}_a", f"lora_{letter}_b") for letter in letters]
    products = [product(params[a], params[b]) if a in params else None for a, b in adapters]
    adapted = next((x for x in products if x is not None), None)
    if adapted is None:
        return y
    parts = [jnp.zeros_like(adapted) if x is None else x for x in products]
    # The maps' axis stands before heads and their widths.
    return y + jnp.stack(parts, axis=adapted.ndim - 2).reshape(y.shape)
