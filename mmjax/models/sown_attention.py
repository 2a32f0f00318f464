"""Attention weights of a call, as layers sow them into the collection `intermediates`; all are means over heads."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float

Sown = Mapping[str, Any]


def attention_weights(sown: Sown, *path: str) -> Float[Array, "*depth B T S"]:
    """Weights of the attention module at a path, of its last call."""
    return _subtree(sown, path)["weights"][-1].mean(axis=-3)


def self_attention(sown: Sown, *path: str) -> Float[Array, "depth B T T"]:
    """Weights of each layer's self-attention of the transformer at a path."""
    return attention_weights(sown, *path, "layers", "attention")


def last_cross_attention(sown: Sown, *path: str) -> Float[Array, "B T S"]:
    """Weights of the last layer's cross-attention of the transformer at a path."""
    stack = _subtree(sown, path)
    stack = stack.get("cross_layers", stack.get("layers"))
    return attention_weights(stack.get("block0", stack), "cross_attention")[-1]


def _subtree(sown: Sown, path: tuple[str, ...]) -> Any:
    for name in path:
        sown = sown[name]
    return sown
