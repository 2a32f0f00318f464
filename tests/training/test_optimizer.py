"""Each rule against numpy or against itself on unstacked layers, and who is decayed, frozen and scaled."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax import registry
from mmjax.config import parse
from mmjax.config.schema import base_config
from mmjax.errors import UserError
from mmjax.models.two_tower import TwoTower
from mmjax.parallel.partition import map_with_path, path_name
from mmjax.training.optimizer import make_optimizer
from mmjax.training.param_roles import find_frozen, is_stacked, role
from mmjax.training.step import merge_frozen, split_frozen

DEPTH, WIDTH, HEADS, HIDDEN = 3, 32, 2, 48


def make_config(name="sgd", **settings):
    """Plain settings: update = -rule(gradient)."""
    config = base_config("tiny")
    config.steps = 10
    config.model.image.depth = 4
    config.model.text.vocab_size = 50
    config.schedule.update(name="constant", warmup=0)
    config.optimizer.update({"name": name, "learning_rate": 1.0, "b1": 0.0, "weight_decay": 0.0} | settings)
    return config


def shapes_of(config):
    settings = {name: x for name, x in config.model.to_dict().items() if name not in ("init", "max_logit_scale")}
    arguments = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32), jax.ShapeDtypeStruct((1, 32), jnp.int32)
    return jax.eval_shape(TwoTower(**settings).init, jax.random.key(0), *arguments)["params"]


@pytest.fixture(scope="module")
def shapes():
    return shapes_of(make_config())


@pytest.fixture(scope="module")
def params(shapes, random_params):
    return random_params(shapes)


def flat(tree):
    return {path_name(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def run(config, params, gradients):
    """Returns the updates of consecutive gradients at fixed parameters."""
    tx, _ = make_optimizer(parse(config), params)
    update = jax.jit(tx.update)
    state, updates = tx.init(params), []
    for gradient in gradients:
        made, state = update(gradient, state, params)
        updates.append(made)
    return updates


# -- a stack of layers, and the same layers one by one -----------------------------------------------------------------


@pytest.fixture(scope="module")
def stack():
    """(parameters, three gradients) of a stacked block; layers and q, k, v have gradients of very different sizes."""
    rng = np.random.default_rng(0)
    head_dim = WIDTH // HEADS
    shapes = {
        "norm1": {"scale": (DEPTH, WIDTH), "bias": (DEPTH, WIDTH)},
        "attention": {
            "qkv": {"kernel": (DEPTH, WIDTH, 3, HEADS, head_dim), "bias": (DEPTH, 3, HEADS, head_dim)},
            "out": {"kernel": (DEPTH, HEADS, head_dim, WIDTH), "bias": (DEPTH, WIDTH)},
        },
        "mlp": {"fc1": {"kernel": (DEPTH, WIDTH, HIDDEN)}, "fc2": {"kernel": (DEPTH, HIDDEN, WIDTH)}},
    }

    def draw(shape):
        x = rng.standard_normal(shape) * np.array([1e-3, 1.0, 30.0]).reshape(-1, *[1] * (len(shape) - 1))
        if shape == (DEPTH, WIDTH, 3, HEADS, head_dim):
            x = x * np.array([0.01, 1.0, 5.0])[:, None, None]
        return x.astype(np.float32)

    trees = [jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple)) for _ in range(4)]
    wrapped = [{"text": {"transformer": {"layers": tree}, "norm": {"scale": draw((DEPTH,))}}} for tree in trees]
    return wrapped[0], wrapped[1:]


def unstack(tree):
    """Layers one by one, under names that no longer say that they were stacked."""
    text = tree["text"]
    layers = {f"layer{i}": jax.tree.map(lambda x, i=i: x[i], text["transformer"]["layers"]) for i in range(DEPTH)}
    return {"text": {"transformer": layers, "norm": text["norm"]}}


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=() if x in ("adamw", "muon") else pytest.mark.full) for x in registry.optimizers],
)
def test_a_stack_is_updated_layer_by_layer(stack, name):
    params, gradients = stack
    config = make_config(name, b1=0.9, weight_decay=0.1, multipliers=((".*/fc1/kernel", 0.5),))
    stacked = run(config, params, gradients)
    single = run(config, unstack(params), [unstack(gradient) for gradient in gradients])
    for a, b in zip(stacked, single, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), unstack(a), b)


def matrices(tree):
    """Every single matrix: the layers, and of a fused projection its q, k and v, as {name: [fan_in, fan_out]}."""
    result = {}
    for path, x in flat(unstack(tree)).items():
        if path.endswith("qkv/kernel"):
            result |= {f"{path}[{i}]": x[:, i].reshape(WIDTH, WIDTH) for i in range(3)}
        elif path.endswith("out/kernel"):
            result[path] = x.reshape(WIDTH, WIDTH)
        elif path.endswith("kernel"):
            result[path] = x
    return result


def test_muon_makes_every_matrix_orthogonal(stack):
    params, gradients = stack

    # Gradients with singular values in [0.3, 1], which five Newton-Schulz steps bring near 1, times the layer's size.
    def conditioned(path, x):
        if not path.endswith("kernel"):
            return x
        rng = np.random.default_rng(1)
        size = np.abs(x).mean()
        matrix = lambda rows, columns: np.linalg.qr(rng.standard_normal((rows, columns)))[0]

        def one(rows, columns):
            inner = min(rows, columns)
            return size * (matrix(rows, inner) * np.linspace(0.3, 1, inner)) @ matrix(columns, inner).T

        if path.endswith("qkv/kernel"):
            made = np.stack([np.stack([one(WIDTH, WIDTH) for _ in range(3)], axis=1) for _ in range(DEPTH)])
        elif path.endswith("out/kernel"):
            made = np.stack([one(WIDTH, WIDTH) for _ in range(DEPTH)])
        else:
            made = np.stack([one(*x.shape[1:]) for _ in range(DEPTH)])
        return (made.reshape(x.shape) * np.array([1e-3, 1.0, 30.0]).reshape(-1, *[1] * (x.ndim - 1))).astype(np.float32)

    gradient = map_with_path(conditioned, gradients[0])
    (update,) = run(make_config("muon", b1=0.95), params, [gradient])
    updates, before = matrices(update), matrices(gradient)
    assert len(updates) == DEPTH * 6
    for name, x in updates.items():
        values = np.linalg.svd(x, compute_uv=False) / (0.2 * math.sqrt(max(x.shape)))
        assert values.min() > 0.6 and values.max() < 1.3, (name, values.min(), values.max())
        # It points where this matrix's gradient points, and nowhere a neighbour's does.
        polar = np.linalg.svd(before[name], full_matrices=False)
        np.testing.assert_allclose(x, -0.2 * math.sqrt(max(x.shape)) * polar[0] @ polar[2], atol=0.35)


def test_muon_of_a_matrix_is_newton_schulz(stack):
    params, gradients = stack
    (update,) = run(make_config("muon", b1=0.95), params, gradients[:1])
    updates = matrices(update)
    for name, gradient in matrices(gradients[0]).items():
        x = gradient.astype(np.float64) / (np.linalg.norm(gradient) + 1e-8)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        np.testing.assert_allclose(
            updates[name], -0.2 * math.sqrt(max(x.shape)) * x, rtol=1e-3, atol=2e-4, err_msg=name
        )


def test_muon_leaves_the_rest_to_adam(params, random_params, shapes):
    gradient = random_params(shapes, seed=1)
    muon, adam = (flat(run(make_config(name, b1=0.9, eps=1e-8), params, [gradient])[0]) for name in ("muon", "adamw"))
    for path in muon:
        assert np.allclose(muon[path], adam[path], rtol=1e-5) == (not path.endswith("kernel")), path


def test_adafactor_factors_attention_kernels():
    """A kernel [D, 3, H, K] keeps a row and a column of second moments; only its momentum is as large as itself."""
    kernel = jax.ShapeDtypeStruct((12, 768, 3, 12, 64), jnp.float32)
    params = {"image": {"transformer": {"layers": {"attention": {"qkv": {"kernel": kernel}}}}}}
    state = jax.eval_shape(make_optimizer(parse(make_config("adafactor", b1=0.9)), params)[0].init, params)
    sizes = sorted((x.size for x in jax.tree.leaves(state)), reverse=True)
    assert sizes[0] == kernel.size and sum(sizes[1:]) < 0.05 * kernel.size


# -- rules against numpy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_adamw(params, shapes, random_params, clip):
    """Three steps with warm-up, decoupled decay on matrices and embeddings, and clipping of the gradient."""
    config = make_config("adamw", learning_rate=0.1, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.3, grad_clip=clip)
    config.schedule.warmup = 4
    gradients = [random_params(shapes, seed=seed, std=0.02) for seed in (1, 2, 3)]
    tx, rate = make_optimizer(parse(config), params)
    update = jax.jit(lambda g, s, p: (lambda u, s: (optax.apply_updates(p, u), s))(*tx.update(g, s, p)))
    moved, state = params, tx.init(params)
    for gradient in gradients:
        moved, state = update(gradient, state, moved)

    x = {path: value.astype(np.float64) for path, value in flat(params).items()}
    m, v = ({path: np.zeros_like(value) for path, value in x.items()} for _ in range(2))
    for k, gradient in enumerate(map(flat, gradients), start=1):
        norm = math.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient.values()))
        shrink = min(1.0, clip / norm) if clip else 1.0
        assert not clip or shrink < 1
        for path in x:
            g = gradient[path] * shrink
            m[path] = 0.8 * m[path] + 0.2 * g
            v[path] = 0.9 * v[path] + 0.1 * g**2
            step = (m[path] / (1 - 0.8**k)) / (np.sqrt(v[path] / (1 - 0.9**k)) + 1e-3)
            decay = 0.3 * x[path] if path.endswith(("kernel", "token_embedding")) else 0.0
            x[path] = x[path] - 0.1 * k / 4 * (step + decay)
        assert float(rate(k - 1)) == pytest.approx(0.1 * k / 4)
    for path, value in flat(moved).items():
        np.testing.assert_allclose(value, x[path], rtol=1e-5, atol=1e-6, err_msg=path)


def test_lion(stack):
    params, gradients = stack
    updates = run(make_config("lion", learning_rate=0.1, b1=0.9, b2=0.99), params, gradients[:2])
    g1, g2 = map(flat, gradients[:2])
    for path, update in flat(updates[0]).items():
        np.testing.assert_allclose(update, -0.1 * np.sign(g1[path]), rtol=1e-6)
    for path, update in flat(updates[1]).items():
        np.testing.assert_allclose(update, -0.1 * np.sign(0.9 * 0.01 * g1[path] + 0.1 * g2[path]), rtol=1e-6)


def test_sgd_with_momentum(stack):
    params, gradients = stack
    updates = run(make_config("sgd", b1=0.9), params, gradients[:2])
    g1, g2 = map(flat, gradients[:2])
    for path, update in flat(updates[1]).items():
        np.testing.assert_allclose(update, -(0.9 * g1[path] + g2[path]), rtol=1e-5)


def test_bfloat16_momentum(params):
    for name, moments in (("adamw", ("mu",)), ("lion", ("mu",)), ("sgd", ("trace",))):
        state = jax.eval_shape(
            make_optimizer(parse(make_config(name, b1=0.9, momentum_dtype="bfloat16")), params)[0].init, params
        )
        dtypes = {}
        map_with_path(lambda path, x, d=dtypes: d.setdefault(path.split("/")[1], set()).add(x.dtype.name), state)
        assert all(dtypes[moment] == {"bfloat16"} for moment in moments), dtypes
        assert dtypes.get("nu", {"float32"}) == {"float32"}


# -- roles -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["tiny", "tiny-siglip"])
def test_roles(variant):
    names = flat(jax.tree.map(lambda x: 0, shapes_of(base_config(variant))))
    by_role = {kind: {name for name in names if role(name) == kind} for kind in ("matrix", "embedding", "vector")}
    assert by_role["matrix"] == {name for name in names if name.endswith("kernel")}
    assert by_role["embedding"] == {"text/token_embedding"}
    assert {"logit_scale", "image/position_embedding", "text/position_embedding"} <= by_role["vector"]
    assert ("image_head/pool/probe" if variant == "tiny-siglip" else "image/class_token") in by_role["vector"]
    assert {name for name in names if is_stacked(name)} == {name for name in names if "/transformer/layers/" in name}


# -- frozen parameters -------------------------------------------------------------------------------------------------


def test_split_and_merge(params):
    trainable, frozen = split_frozen(params, find_frozen(params, ("image/.*", "image_head/.*")))
    assert set(flat(trainable)) | set(flat(frozen)) == set(flat(params))
    assert set(flat(frozen)) == {name for name in flat(params) if name.startswith(("image/", "image_head/"))}
    jax.tree.map(np.testing.assert_array_equal, merge_frozen(trainable, frozen), params)
    assert flat(split_frozen(params, find_frozen(params, ()))[1]) == {}


@pytest.mark.parametrize(
    "patterns, message",
    [
        (("image/.*", "img/.*"), r"optimizer.freeze='img/\.\*' matches no parameter path, such as 'image/class_token'"),
        (("imag",), "optimizer.freeze='imag' matches no"),
        (("image/(",), r"optimizer.freeze='image/\(' is not a regular expression"),
        ((".*",), r"optimizer.freeze=\('\.\*',\) freezes every parameter"),
    ],
)
def test_mistakes_in_freeze(params, patterns, message):
    with pytest.raises(UserError, match=message):
        find_frozen(params, patterns)


@pytest.mark.parametrize("name", list(registry.optimizers))
def test_the_state_knows_nothing_of_frozen_parameters(shapes, name):
    config = make_config(name, b1=0.9, weight_decay=0.1)
    trainable, _ = split_frozen(shapes, find_frozen(shapes, ("image/.*", "image_head/.*")))
    tx, _ = make_optimizer(parse(config), trainable)
    state = jax.eval_shape(tx.init, trainable)
    assert not [path for path in flat(jax.tree.map(lambda x: 0, state)) if "image" in path]
    updates, _ = jax.eval_shape(tx.update, trainable, state, trainable)
    assert jax.tree.structure(updates) == jax.tree.structure(trainable)


# -- multipliers and layer-wise decay ----------------------------------------------------------------------------------


def factors(params, **settings):
    """The update for a gradient of -1: each parameter's factor."""
    gradient = jax.tree.map(lambda x: np.full(x.shape, -1, np.float32), params)
    return flat(run(make_config("sgd", **settings), params, [gradient])[0])


def test_multipliers_first_match_wins(params):
    result = factors(params, multipliers=(("text/norm/.*", 3.0), ("text.*", 0.5), (".*/norm_pre/scale", 0.0)))
    for path, x in result.items():
        expected = {"text/norm/scale": 3.0, "text/norm/bias": 3.0, "image/norm_pre/scale": 0.0}.get(path)
        if expected is None:
            expected = 0.5 if path.startswith("text") else 1.0
        assert (x == expected).all(), path


def test_layer_decay(params):
    """Depth 4, 0.5 per layer: the last block 0.5, the first 0.5^4, embeddings 0.5^5, the head and final norm 1."""
    result = factors(params, layer_decay={"image": 0.5}, multipliers=(("image/transformer/.*fc1.*", 10.0),))
    for path, x in result.items():
        if "image/transformer" in path:
            expected = np.array([0.5**4, 0.5**3, 0.5**2, 0.5]).reshape(-1, *[1] * (x.ndim - 1))
            expected = expected * (10 if "fc1" in path else 1)
        elif path.startswith("image/") and not path.startswith("image/norm/"):
            expected = 0.5**5
        else:
            expected = 1.0
        assert (x == np.broadcast_to(expected, x.shape)).all(), path


def test_multipliers_scale_weight_decay_too(params):
    config = make_config("sgd", weight_decay=0.5, multipliers=(("text/token_embedding", 0.1),))
    update = flat(run(config, params, [jax.tree.map(np.zeros_like, params)])[0])
    before = flat(params)
    np.testing.assert_allclose(update["text/token_embedding"], -0.05 * before["text/token_embedding"], rtol=1e-5)
    np.testing.assert_allclose(
        update["text_head/projection/kernel"], -0.5 * before["text_head/projection/kernel"], rtol=1e-5
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"name": "adam"}, r"optimizer.name='adam' is not known \(did you mean 'adamw'\?\)"),
        ({"momentum_dtype": "float16"}, "optimizer.momentum_dtype='float16' is not known"),
        ({"multipliers": (("head/.*", 1.0),)}, r"optimizer.multipliers='head/\.\*' matches no parameter path"),
    ],
)
def test_mistakes(params, settings, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(parse(make_config(**settings)), params)


@pytest.mark.full
@pytest.mark.parametrize("name, shape", [("tubelet_embed", (2, 2, 2, 3, 16)), ("patch_embed", (8, 3, 16))])
def test_muon_takes_a_patch_kernel_as_one_matrix(name, shape):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((24, 16)).astype(np.float32)
    params = {"image": {name: {"kernel": kernel.reshape(shape)}, "plain": {"kernel": kernel}}}
    (update,) = run(make_config("muon", b1=0.95), params, [params])
    update = update["image"]
    np.testing.assert_allclose(update[name]["kernel"].reshape(24, 16), update["plain"]["kernel"], atol=1e-4)
