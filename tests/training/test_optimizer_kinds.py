"""Update rules on the parameters of every kind of model."""

import jax
import numpy as np
import pytest

from mmjax.config import parse
from mmjax.errors import UserError
from mmjax.parallel.partition import path_name
from mmjax.training import optimizer, param_roles, update_rules
from mmjax.training.step import split_frozen
from tests.helpers import campaign, model_kinds

EVERY = [*model_kinds.WEIGHTS, *(f"fusion:{kind}" for kind in model_kinds.FUSIONS)]
NAMES = campaign.some(
    EVERY, ["tiny", "tiny-captioner-lstm", "tiny-qformer", "tiny-vilt", "fusion:bottleneck", "fusion:hybrid"]
)
KINDS = [name if name == "tiny-captioner-lstm" else pytest.param(name, marks=pytest.mark.full) for name in NAMES]
LAYERED = {"tiny-vilt": ("image",), "tiny-captioner-lstm": ("image",)}


def layer_decay(name):
    towers = () if name.startswith("fusion") else LAYERED.get(name, ("image", "text"))
    return {f"optimizer__layer_decay__{tower}": 0.5 for tower in towers}


def flat(tree):
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_takes_a_step(name):
    params = model_kinds.shapes(name)
    for rule in ("muon", "adamw"):
        config = model_kinds.config(name, optimizer__name=rule, **layer_decay(name))
        tx, _ = optimizer.make_optimizer(parse(config), params)
        updates, _ = jax.eval_shape(lambda p, tx=tx: tx.update(p, tx.init(p), p), params)
        assert {path: x.shape for path, x in flat(updates).items()} == {p: x.shape for p, x in flat(params).items()}


@pytest.mark.parametrize("name", KINDS)
def test_muon_takes_whole_matrices(name):
    """All axes of a kernel but those of layers and of q, k and v are its rows and columns."""
    kernels = {path: x for path, x in flat(model_kinds.shapes(name)).items() if param_roles.role(path) == "matrix"}
    axes = update_rules._muon_axes(kernels)
    assert len(kernels) > 4
    for path, x in kernels.items():
        batch = param_roles.is_stacked(path) + path.endswith(("qkv/kernel", "kv/kernel"))
        rows, columns = axes[path]
        matrix_axes = {axis % x.ndim for axis in (*rows, *columns)}
        assert len(matrix_axes) == len(rows) + len(columns) == x.ndim - batch, path


def test_layer_decay_knows_which_layers_look_at_the_image():
    """Six layers; from the third on every second one has cross-attention."""
    config = model_kinds.config("tiny-qformer", optimizer__name="sgd", optimizer__b1=0.0, optimizer__weight_decay=0.0)
    config.update_from_flattened_dict({"model.text.depth": 6, "model.text.cross_from": 2, "model.text.cross_every": 2})
    config.optimizer.update(layer_decay=dict(text=0.5), learning_rate=1.0)
    config.schedule.update(name="constant", warmup=0)
    stack = lambda: {"mlp": {"fc1": {"kernel": np.ones((2, 3, 3), np.float32)}}}
    layers = {"layers": stack(), "cross_layers": {"block0": stack(), "block1": stack()}}
    one = np.ones(3, np.float32)
    text = {"transformer": layers, "head_norm": {"scale": one}, "norm_embed": {"scale": one}}
    params = {"text": text, "queries": one}
    tx, _ = optimizer.make_optimizer(parse(config), params)
    updates, _ = tx.update(params, tx.init(params), params)
    first = lambda x: -np.asarray(x).reshape(len(x), -1)[:, 0]
    result = {path: first(x).tolist() for path, x in flat(updates).items()}
    kernel = "mlp/fc1/kernel"
    assert result == {
        "queries": [1.0] * 3,
        "text/head_norm/scale": [1.0] * 3,
        "text/norm_embed/scale": [0.5**7] * 3,
        f"text/transformer/layers/{kernel}": [0.5**6, 0.5**5],
        f"text/transformer/cross_layers/block0/{kernel}": [0.5**4, 0.5**2],
        f"text/transformer/cross_layers/block1/{kernel}": [0.5**3, 0.5],
    }


@pytest.mark.parametrize(
    "name, tower, message",
    [
        (
            "tiny-captioner-lstm",
            "text",
            r"layer_decay.text=0.5: .* no layers in model.text; .* \(it has in model.image\)",
        ),
        ("tiny-vilt", "text", "no layers in model.text"),
        ("fusion:cross", "image", "no layers in model.image; leave it at 1.0$"),
    ],
)
def test_a_tower_without_layers_is_told(name, tower, message):
    config = model_kinds.config(name, **{f"optimizer__layer_decay__{tower}": 0.5})
    with pytest.raises(UserError, match=message) as error:
        optimizer.make_optimizer(parse(config), {"head": {"kernel": np.zeros((2, 2), np.float32)}})
    assert "\n" not in str(error.value)


def test_freezing_and_multipliers_go_by_path_in_every_kind():
    params = model_kinds.shapes("tiny-captioner-lstm")
    free, frozen = split_frozen(params, param_roles.find_frozen(params, ("image/.*",)))
    assert {path.split("/")[0] for path in flat(frozen)} == {"image"}
    assert not any(path.startswith("image/") for path in flat(free))
    config = model_kinds.config("tiny-captioner-lstm", optimizer__multipliers=(("text/lstm/.*", 0.0),))
    factors = optimizer._factors(parse(config).optimizer, parse(config).model, free)
    assert {path for path, factor in flat(factors).items() if factor == 0} == {
        path for path in flat(params) if path.startswith("text/lstm/")
    }
