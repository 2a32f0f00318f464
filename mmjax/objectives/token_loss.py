"""Losses that are means over tokens (or patches, or examples), kept so that any split of the batch adds up exactly.

The mean over all counted tokens of a batch is not the mean of its microbatches' means, nor that of its examples' means,
when they hold different numbers of tokens. So an objective gives sums and counts per example, which travel with the
example through microbatches and meshes, and the whole batch divides once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class TokenLoss(NamedTuple):
    """An objective's sums per example.

    Attributes:
      total: sum of the example's token losses, in nats where they are cross-entropies.
      count: how many tokens (or patches) were counted; 1 or 0 where the loss is the example's own.
      metrics: by name, sums over the same tokens; no gradient passes.
    """

    total: Float[Array, " B"]
    count: Float[Array, " B"]
    metrics: dict[str, Float[Array, " B"]]


def over_tokens(
    losses: Float[Array, "B *T"], mask: Bool[Array, "B *T"], metrics: dict[str, Float[Array, "B *T"]]
) -> TokenLoss:
    """Sums what is counted of each example.

    Args:
      losses: of every token.
      mask: which are counted; what the others hold, even NaN, has no effect on the sums.
      metrics: of every token, by name.
    """
    sums = lambda x: jnp.where(mask, x, 0.0).astype(jnp.float32).reshape(len(x), -1).sum(axis=1)
    return TokenLoss(
        total=sums(losses),
        count=sums(jnp.ones_like(losses)),
        metrics={name: jax.lax.stop_gradient(sums(x)) for name, x in metrics.items()},
    )


def mean(loss: TokenLoss) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The mean over all counted tokens of the batch, of the loss and of each metric; 0 when none is counted."""
    count = loss.count.sum()
    divide = lambda x: x.sum() / jnp.where(count > 0, count, 1.0)
    return divide(loss.total), {name: divide(x) for name, x in loss.metrics.items()}
