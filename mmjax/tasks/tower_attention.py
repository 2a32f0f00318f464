"""Attention of an encoder of videos or sounds, as far as what is read of its tokens depends on it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.models.frames_encoder import has_layers_over_frames
from mmjax.models.sown_attention import Sown, self_attention

RESIDUAL = 0.5  # share of the residual connection in a rollout (arXiv:2005.00928)


def tower_attention(
    sown: Sown, settings: Mapping[str, Any], reading: Float[Array, "B N"], *, is_last: bool = False
) -> dict[str, Array]:
    """Where an encoder looked.

    Args:
      sown: what its layers sowed.
      settings: the encoder's, with its `kind`.
      reading: the share that each of the tokens that it gives has in what is read of them.
      is_last: whether that share is itself of attention, so that nothing looked later.

    Returns:
      By `token_grids.input_grid`, [B, M] each: `last`, where what is read looked last; `rollout`, all layers multiplied
      with their residual connections.
    """
    if settings["kind"] == "frames":
        return _frames_attention(sown, settings, reading, is_last)
    layers = self_attention(sown, "transformer") if settings["depth"] else ()
    return {"last": reading if is_last else last_attention(reading, layers), "rollout": roll_out(reading, layers)}


def _frames_attention(sown: Sown, settings: Mapping[str, Any], reading, is_last: bool) -> dict[str, Array]:
    """Of `FramesEncoder`: layers over the frames, if any, and those of the image tower in each of them."""
    frames, tower = settings["frames"], self_attention(sown, "image", "transformer")
    over_time, has_layers = (), has_layers_over_frames(settings["temporal"], settings["temporal_depth"])
    if settings["temporal"] == "mean":
        reading = jnp.tile(reading, (1, frames)) / frames
    elif has_layers:
        over_time = self_attention(sown, "transformer")
    last = reading if is_last else last_attention(reading, over_time)
    of_frames = lambda weights: _of_frames(weights, frames, settings["frame_pool"], tower.shape[-1])
    rolled = roll_out(reading, over_time)
    if settings["temporal"] == "residual":
        rolled = RESIDUAL * reading + (1 - RESIDUAL) * rolled
    result = {"rollout": roll_out(of_frames(rolled), tower)}
    # Weights of single patches say where it was looked; those of frames, which frames were, and their tower goes on.
    is_of_patches = settings["frame_pool"] == "none" and (is_last or has_layers)
    result["last"] = of_frames(last) if is_of_patches else last_attention(of_frames(last), tower)
    return {name: weights.reshape(len(reading), -1) for name, weights in result.items()}


def _of_frames(weights: Float[Array, "B Tn"], frames: int, pool: str, tokens: int) -> Float[Array, "BT N"]:
    """Weights of the tokens of all frames as weights of the image tower's, by its pool."""
    weights = weights.reshape(weights.shape[0] * frames, -1)
    if pool == "none":
        return weights
    share = jax.nn.one_hot(0, tokens) if pool == "cls" else jnp.full(tokens, 1 / tokens)
    return weights * share


def last_attention(reading: Float[Array, "B N"], layers: Any) -> Float[Array, "B N"]:
    """Where what is read looked in the last of some layers [depth, B, N, N]; itself where there are none."""
    return jnp.einsum("BN,BNM->BM", reading, layers[-1]) if len(layers) else reading


def roll_out(reading: Float[Array, "B N"], layers: Any) -> Float[Array, "B N"]:
    """What is read, as made of the first layer's inputs: vectors times matrices, from the last layer on."""
    for layer in layers[::-1]:
        reading = RESIDUAL * reading + (1 - RESIDUAL) * jnp.einsum("BN,BNM->BM", reading, layer)
    return reading
