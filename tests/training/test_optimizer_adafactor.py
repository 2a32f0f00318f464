"""Adafactor beside big_vision's `scale_by_adafactor` (big_vision/optax.py at 11eea57), written out in NumPy."""

import jax
import numpy as np
import optax
import pytest

from mmjax.config import parse
from mmjax.config.schema import base_config
from mmjax.parallel.partition import path_name
from mmjax.training.optimizer import make_optimizer

LAYERS, WIDTH, HEADS, UNITS, HIDDEN = 2, 48, 3, 33, 64
SHAPES = {
    "image/patch_embed/kernel": (4, 4, 3, WIDTH),
    "image/position_embedding": (40, WIDTH),
    "image/transformer/layers/attention/qkv/kernel": (LAYERS, WIDTH, 3, HEADS, UNITS),
    "image/transformer/layers/attention/qkv/bias": (LAYERS, 3, HEADS, UNITS),
    "image/transformer/layers/attention/out/kernel": (LAYERS, HEADS, UNITS, WIDTH),
    "image/transformer/layers/mlp/fc1/kernel": (LAYERS, WIDTH, HIDDEN),
    "image/transformer/layers/mlp/fc1/bias": (LAYERS, HIDDEN),
    "image_head/projection/kernel": (WIDTH, 31),
    "logit_scale": (),
}


def arrays(seed):
    """A tree of the shapes; layers, and queries, keys and values, of very different sizes."""
    rng, tree = np.random.default_rng(seed), {}
    for path, shape in SHAPES.items():
        x = rng.standard_normal(shape)
        if "/layers/" in path:
            x = x * np.array([1e-3, 10.0]).reshape(-1, *[1] * (len(shape) - 1))
        *groups, last = path.split("/")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = np.asarray(x, np.float32)
    return tree


def flat(tree):
    return {path_name(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def one_by_one(tree):
    """big_vision's arrays: layers, and queries, keys and values, by themselves."""
    result = {}
    for path, x in flat(tree).items():
        parts = {path: x}
        if "/layers/" in path:
            parts = {f"{path} of {i}": x[i] for i in range(LAYERS)}
        if "qkv" in path:
            axis = 1 if path.endswith("kernel") else 0
            parts = {f"{name}, {k}": item.take(k, axis) for name, item in parts.items() for k in range(3)}
        result |= parts
    return result


class Reference:
    """Second moments, by rows and columns from 32 on; the clip, where there is one; momentum, not debiased."""

    def __init__(self, step, beta, cap, clip):
        self.step, self.beta, self.cap, self.clip = step, beta, cap, clip
        self.moments, self.momentum = {}, {}

    def __call__(self, gradients):
        decay = min(self.cap, 1 - (self.step + 1.0) ** -0.8)
        self.step += 1
        return {name: self.update(name, np.float64(g), decay) for name, g in gradients.items()}

    def update(self, name, g, decay):
        axes = sorted(np.argsort(g.shape, kind="stable")[-2:]) if g.ndim > 1 else ()
        square = g**2 + 1e-30
        old = self.moments.get(name, (0.0, 0.0))
        if axes and min(g.shape[axis] for axis in axes) >= 32:
            kept = [square.mean(axis=axis, keepdims=True) for axis in axes]
            a, b = (decay * before + (1 - decay) * now for before, now in zip(old, kept, strict=True))
            self.moments[name] = (a, b)
            u = g * np.sqrt(a.mean(axis=axes[1], keepdims=True) / a) / np.sqrt(b)
        else:
            a = decay * old[0] + (1 - decay) * square
            self.moments[name] = (a, 0.0)
            u = g / np.sqrt(a)
        if self.clip:
            u = u / max(1.0, np.sqrt((u**2).mean()) / self.clip)
        self.momentum[name] = self.beta * self.momentum.get(name, 0.0) + (1 - self.beta) * u
        return self.momentum[name]


@pytest.mark.parametrize("step", [0, 10_000])
@pytest.mark.parametrize("beta", [0.9, 0.0])
def test_big_vision(step, beta):
    """Four steps from the start, and from where 1 - t^-0.8 is above the cap of 0.999."""
    assert (1 - (step + 1.0) ** -0.8 > 0.999) == (step > 0)
    check(step, beta, 0.999, 0.0)


def test_the_paper():
    """No cap, and updates of an RMS of at most 1; each layer's as a whole, queries, keys and values together."""
    # The moment keeps all but 6e-4 a step, which in float32 is known to 1e-4.
    check(10_000, 0.9, 1.0, 1.0, compared=lambda path: "qkv" not in path, tolerance=2e-4)


def check(step, beta, cap, clip, compared=lambda path: True, tolerance=2e-5):
    config = base_config("tiny")
    settings = dict(name="adafactor", learning_rate=1.0, b1=beta, weight_decay=0.0, b2_cap=cap, update_clip=clip)
    config.optimizer.update(settings)
    config.schedule.update(name="constant", warmup=0)
    assert (base_config("tiny").optimizer.b2_cap, base_config("tiny").optimizer.update_clip) == (0.999, 0.0)
    params = arrays(0)
    tx, _ = make_optimizer(parse(config), params)
    counted = jax.tree_util.tree_map_with_path(
        lambda path, x: x + step if path_name(path).endswith("count") else x, tx.init(params)
    )
    reference, update, state = Reference(step, beta, cap, clip), jax.jit(tx.update), counted
    for seed in range(1, 5):
        gradients = arrays(seed)
        updates, state = update(gradients, state, params)
        wanted, result = reference(one_by_one(gradients)), one_by_one(updates)
        for name in filter(compared, wanted):
            np.testing.assert_allclose(-result[name], wanted[name], rtol=tolerance, atol=tolerance / 20, err_msg=name)


def test_momentum_in_bfloat16():
    """The type of big_vision's momentum: it is stored in it, and what is applied is not rounded."""
    momentum = optax.ema(0.9, debias=False, accumulator_dtype="bfloat16")
    gradient = np.array([1.001, -3.3], np.float32)
    updates, state = momentum.update(gradient, momentum.init(gradient))
    np.testing.assert_allclose(updates, 0.1 * gradient, rtol=1e-6)
    assert state.ema.dtype == "bfloat16"
