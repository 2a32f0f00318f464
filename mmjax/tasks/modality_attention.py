"""Attention of a classifier of several modalities: where it looked in each of them."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.models.config import ModelConfig
from mmjax.models.fusion.config import AttentionConfig, FusedConfig, HybridConfig, JointConfig, LateConfig, VectorConfig
from mmjax.models.sown_attention import Sown, attention_weights, self_attention
from mmjax.tasks.token_grids import input_grid
from mmjax.tasks.tower_attention import last_attention, roll_out, tower_attention


def shown_modalities(model: ModelConfig) -> tuple[str, ...]:
    """The modalities of a classifier whose attention is known: of fusions by one vector each, or `joint`."""
    if not isinstance(model, FusedConfig) or isinstance(model.fusion, HybridConfig):
        return ()
    if not isinstance(model.fusion, (JointConfig, VectorConfig, AttentionConfig, LateConfig)):
        return ()
    return tuple(name for name in sorted(model.encoders) if input_grid(model.encoders[name]) is not None)


def modality_attention(
    model: nn.Module, params: Any, arrays: Mapping[str, Float[Array, "B ..."]], present: Bool[Array, "B M"], names: Any
) -> dict[str, dict[str, Array]]:
    """Where a classifier looked in some of its modalities.

    Args:
      model, params: not bound.
      arrays: of all modalities, normalised.
      present: which of them each example has, in sorted order of name.
      names: as `shown_modalities` gives them.

    Returns:
      Of each `last` and `rollout` as `tower_attention` has them: of a `joint` fusion both begin with its class token,
      and the parts of all modalities sum to 1 at most; of others with the pool of the modality's tokens.
    """
    _, state = model.apply({"params": params}, arrays, present, mutable=["intermediates"])
    sown: Any = state["intermediates"]
    settings = dict(model.encoders)
    counts = {name: int(sown[f"tokens_{name}"][-1]) for name in sorted(settings)}
    of_fusion = _joint_readings if model.fusion["kind"] == "joint" else _pool_readings
    readings = of_fusion(sown, model.fusion, counts, len(present))
    result = {}
    for name in names:
        last, rolled, is_last = readings[name]
        attend = lambda reading, is_last, name=name: tower_attention(
            sown[f"encoder_{name}"], settings[name], reading, is_last=is_last
        )
        result[name] = {"last": attend(last, is_last)["last"], "rollout": attend(rolled, is_last)["rollout"]}
    return result


def _joint_readings(sown: Sown, fusion: Mapping[str, Any], counts: Mapping[str, int], batch: int) -> dict[str, Any]:
    """By modality what the class token of the fusion looked at last, and what it is made of."""
    del fusion
    layers = self_attention(sown, "fusion", "transformer")
    first = jnp.broadcast_to(jax.nn.one_hot(0, 1 + sum(counts.values())), (batch, 1 + sum(counts.values())))
    last, rolled, start, readings = last_attention(first, layers), roll_out(first, layers), 1, {}
    for name, count in counts.items():
        part = slice(start, start + count)
        readings[name] = last[:, part], rolled[:, part], True
        start += count
    return readings


def _pool_readings(sown: Sown, fusion: Mapping[str, Any], counts: Mapping[str, int], batch: int) -> dict[str, Any]:
    """By modality the share of each token in its vector."""
    kind, readings = fusion.get("pool", "mean"), {}
    for name, count in counts.items():
        if kind == "map":
            weights = attention_weights(sown, "fusion", f"pool_{name}", "attention")[:, 0]
        else:
            share = jnp.full(count, 1 / count) if kind == "mean" else jax.nn.one_hot(0, count)
            weights = jnp.broadcast_to(share, (batch, count))
        readings[name] = weights, weights, kind == "map"
    return readings
