"""Attention of towers of videos and sounds, against a computation from the parameters in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mmjax.config import parse
from mmjax.evaluation.heatmaps import rollout
from mmjax.nn.transformer import Transformer
from mmjax.tasks.token_grids import TokenGrid, input_grid, output_grid
from tests.helpers import media_models, model_kinds

VIDEO = dict(media_models.LAYERS, depth=2, frames=4, image_size=16, patch_size=8)
FRAMES = dict(VIDEO, kind="frames", class_token=True)
OVER_TIME = dict(temporal="transformer", temporal_depth=2)
AUDIO = dict(depth=2, class_token=True, distillation_token=True, patch_size=(8, 8), stride=(6, 8))
WHISPER = dict(media_models.LAYERS, kind="whisper", depth=2, frames=32, mel_bins=16)
# Fields of the tower: its slot, its own, its pool; places of the tokens of the input, and of those that it gives.
TOWERS = {
    "video": ("video", dict(depth=2), "mean", (2, 2, 2), (2, 2, 2)),
    "video-cls": ("video", dict(depth=2, class_token=True), "cls", (2, 2, 2), (2, 2, 2)),
    "frames": ("video", dict(FRAMES, frame_pool="cls"), "mean", (4, 2, 2), (1, 1, 1)),
    "frames-all": ("video", FRAMES | OVER_TIME | dict(frame_pool="none"), "mean", (4, 2, 2), (4, 2, 2)),
    "frames-places": ("video", FRAMES | dict(frame_pool="none"), "last", (4, 2, 2), (1, 2, 2)),
    "audio": ("audio", AUDIO, "cls", (1, 5, 2), (1, 5, 2)),
    "whisper": ("audio", WHISPER, "mean", (1, 16, 1), (1, 16, 1)),
}
TOWERS["frames-time"] = ("video", FRAMES | OVER_TIME | dict(frame_pool="mean"), "map", (4, 2, 2), (4, 1, 1))
RESIDUAL = FRAMES | dict(frame_pool="cls", temporal="residual", temporal_depth=2)
TOWERS["frames-residual"] = ("video", RESIDUAL, "unit_mean", (4, 2, 2), (4, 1, 1))
TOWERS["frames-apart"] = ("video", FRAMES | dict(frame_pool="cls", temporal="none"), "unit_mean", (4, 2, 2), (4, 1, 1))
FULL = ("frames-residual", "frames-apart", "video-cls", "frames", "frames-time", "frames-places", "whisper")


def inputs_of_layers(model, params, call_model):
    """What goes into each layer of each transformer that is called, by the transformer's path."""

    def run(params):
        seen = {}

        def record(call, args, kwargs, context):
            if not isinstance(context.module, Transformer) or context.method_name != "__call__":
                return call(*args, **kwargs)
            out = call(*args, **{**kwargs, "intermediates": True, "chosen": None})
            seen["/".join(context.module.path)] = [args[0], *out.layers[:-1]]
            return out

        with nn.intercept_methods(record):
            nn.apply(call_model, model)({"params": params})
        return seen

    return jax.tree.map(lambda x: np.asarray(x, np.float64), jax.jit(run)(params))


def attention_of(layers, params, heads=2, eps=1e-6):
    """Each layer's attention, the mean over heads, from its input and its parameters."""
    result = []
    for index, x in enumerate(layers):
        stacked = params["transformer"]["layers"]
        layer = jax.tree.map(lambda leaf, index=index: np.asarray(leaf[index], np.float64), stacked)
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        y = y * layer["norm1"]["scale"] + layer["norm1"]["bias"]
        kernel = layer["attention"]["qkv"]["kernel"]
        bias = layer["attention"]["qkv"]["bias"]
        if len(bias) == 2:  # Whisper's keys have none
            bias = np.stack([bias[0], np.zeros_like(bias[0]), bias[1]])
        q, k, _ = np.moveaxis(np.tensordot(y, kernel, 1) + bias, 2, 0)
        logits = np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(x.shape[-1] / heads)
        chances = np.exp(logits - logits.max(-1, keepdims=True))
        result.append((chances / chances.sum(-1, keepdims=True)).mean(axis=1))
    return np.stack(result)


def flow(reading, layers):
    return np.einsum("bn,bnm->bm", reading, rollout(layers[:, :, None]))


@pytest.mark.parametrize("name", [pytest.param(x, marks=[pytest.mark.full] * (x in FULL)) for x in TOWERS])
def test_maps_are_those_of_the_parameters(name, random_params):
    slot, fields, pool, shape, of_output = TOWERS[name]
    config = media_models.towers(slot, "text", **{slot: dict(fields, pool=pool)})
    task = model_kinds.task(config)
    params = random_params(jax.eval_shape(task.init, jax.random.key(0)), std=0.4)
    (spec,) = task.input_specs.others
    arrays = np.random.default_rng(0).standard_normal((2, *spec.shape)).astype(np.float32)
    arrays = jnp.asarray(arrays if slot == "audio" else (arrays * 60 + 120).clip(0, 255).astype(np.uint8))
    ids = jnp.ones((2, 2, 8), jnp.int32)
    maps = jax.jit(task.attention_maps)(params, arrays, ids, ids > 0, ids[:, 0], ids[:, 0] > 0)
    encoder = getattr(parse(config).model, slot)
    grid, outputs = input_grid(encoder), output_grid(encoder)
    assert grid.cells(np.asarray(maps["last"][0])).shape == shape
    assert outputs.cells(np.asarray(maps["patches"][0, 0])).shape == of_output

    pixels = task.inputs.normalize(arrays, slot)
    seen = inputs_of_layers(task.model, params, lambda model: model.encode_image(pixels))
    tower = params[slot]
    if pool == "map":
        sown = jax.jit(
            lambda p: nn.apply(lambda m: m.embedding(slot, pixels), task.model, mutable=["intermediates"])(
                {"params": p}
            )[1]
        )(params)
        reading = np.asarray(sown["intermediates"][f"{slot}_head"]["pool"]["attention"]["weights"][0]).mean(1)[:, 0]
    else:
        count = maps["patches"].shape[-1]
        reading = np.tile(
            {"mean": np.full(count, 1 / count), "cls": np.eye(count)[0], "last": np.eye(count)[-1]}[
                pool.removeprefix("unit_")
            ],
            (2, 1),
        )
    if fields.get("kind") != "frames":
        layers = attention_of(seen[f"{slot}/transformer"], tower, eps=fields.get("norm_eps", 1e-6))
        last, rolled = np.einsum("bn,bnm->bm", reading, layers[-1]), flow(reading, layers)
    else:
        inner = attention_of(seen[f"{slot}/image/transformer"], tower["image"])  # [depth, B T, N, N]
        tokens = inner.shape[-1]
        inner = inner.reshape(2, 2, 4, tokens, tokens)
        share = {"cls": np.eye(tokens)[:1], "mean": np.full((1, tokens), 1 / tokens), "none": np.eye(tokens)}
        share = share[fields["frame_pool"]]  # [n, N]
        if fields.get("temporal") == "transformer":
            outer = attention_of(seen[f"{slot}/transformer"], tower)
            of_last, of_roll = np.einsum("bn,bnm->bm", reading, outer[-1]), flow(reading, outer)
            of_last = reading if pool == "map" else of_last
        elif fields.get("temporal") == "residual":  # half of what is read is the frames' tokens themselves
            outer = attention_of(seen[f"{slot}/transformer"], tower)
            of_last, of_roll = np.einsum("bn,bnm->bm", reading, outer[-1]), (reading + flow(reading, outer)) / 2
        elif fields.get("temporal") == "none":
            of_last = of_roll = reading
        else:
            of_last = of_roll = np.tile(reading, (1, 4)) / 4
        spread = lambda weights: np.einsum("btn,nN->btN", weights.reshape(2, 4, -1), share)
        rolls = rollout(inner.reshape(2, 8, 1, tokens, tokens)).reshape(2, 4, tokens, tokens)
        rolled = np.einsum("btn,btnm->btm", spread(of_roll), rolls).reshape(2, -1)
        last = spread(of_last)
        if not (fields["frame_pool"] == "none" and fields.get("temporal") == "transformer"):
            last = np.einsum("btn,btnm->btm", last, inner[-1])
        last = last.reshape(2, -1)
    np.testing.assert_allclose(maps["last"], last, atol=1e-5)
    np.testing.assert_allclose(maps["rollout"], rolled, atol=1e-5)
    np.testing.assert_allclose(maps["rollout"].sum(axis=1), 1, atol=1e-5)
    assert np.ptp(np.asarray(maps["last"])) > 1e-3


def test_places_of_tokens():
    grid = TokenGrid(2, 1, 2, skipped=1)
    np.testing.assert_array_equal(grid.cells(np.arange(7.0)), [[[2, 3]], [[5, 6]]])  # one token is before all groups
