"""Video by an image tower: equal to a loop over its frames, and what is not valid does not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.models.encoders import VisionTransformer
from mmjax.models.fusion import classifier
from mmjax.nn import attention
from mmjax.nn.positions import resample_positions
from mmjax.nn.transformer import Transformer

TOWER = dict(image_size=8, patch_size=4, width=8, depth=1, heads=2, mlp_dim=12, norm_eps=1e-6)
RNG = np.random.default_rng(0)
VIDEO = RNG.standard_normal((3, 4, 8, 8, 3)).astype(np.float32)
VALID = np.array([[1, 1, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1]], bool)
KINDS = {
    "mean of class tokens": dict(),
    "mean of frames' means": dict(frame_pool="mean", class_token=False, pre_norm=False),
    "mean of all tokens": dict(frame_pool="none"),
    "layers over frames": dict(temporal="transformer", temporal_depth=1),
    "layers over all tokens": dict(temporal="transformer", temporal_depth=1, frame_pool="none"),
    "times and no norm": dict(temporal="embedding", frame_pool="none"),
    "frames apart": dict(temporal="none"),
    "tokens of all frames apart": dict(temporal="none", frame_pool="none"),
    "added to frames": dict(temporal="residual", temporal_depth=1),
    "times alone": dict(temporal="transformer", temporal_depth=0, frame_pool="none"),
}


def make(changes, dtype=jnp.float32):
    return classifier.make_encoder("x", TOWER | dict(kind="frames", frames=4) | changes, dtype=dtype)


def params_of(module, random_params):
    return random_params(jax.eval_shape(module.init, jax.random.key(0), VIDEO)["params"], std=0.3)


def normed(x, params):
    x = np.asarray(x, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + TOWER["norm_eps"])
    return x * params["scale"] + params["bias"]


def expected(params, changes, video, valid):
    """One frame after the other through a vision transformer, and numpy: tokens [B, N, D], and which are valid."""
    settings = TOWER | {key: value for key, value in changes.items() if key in ("class_token", "pre_norm")}
    run = jax.jit(lambda params, image: VisionTransformer(**settings).apply({"params": params}, image[None]).tokens[0])
    pool = {"cls": lambda x: x[:1], "mean": lambda x: x.mean(0, keepdims=True), "none": lambda x: x}
    keep = pool[changes.get("frame_pool", "cls")]
    frames = np.stack([[keep(np.asarray(run(params["image"], frame))) for frame in clip] for clip in video])
    count = frames.shape[2]
    if changes.get("temporal", "mean") == "mean":
        means = np.stack([clip[real].mean(axis=0) for clip, real in zip(frames, valid, strict=True)])
        return means, np.ones(means.shape[:2], bool)
    real = np.repeat(valid, count, axis=1)
    apart = frames.reshape(len(video), -1, TOWER["width"])
    if changes["temporal"] == "none":
        return apart, real
    x = (frames + params["time_embedding"][None, : video.shape[1], None]).reshape(len(video), -1, TOWER["width"])
    if changes["temporal"] == "embedding":
        return x, real
    if changes["temporal_depth"]:
        shared = {field: TOWER[field] for field in ("heads", "mlp_dim", "norm_eps")}
        layers = Transformer(depth=changes["temporal_depth"], **shared)
        spec = attention.AttentionSpec(valid=jnp.asarray(real))
        x = jax.jit(lambda params, x: layers.apply({"params": params}, x, spec).tokens)(params["transformer"], x)
    if changes["temporal"] == "residual":
        return apart + np.asarray(x), real
    return normed(x, params["norm"]), real


FEW = ("mean of all tokens", "layers over frames")  # the others take as long


@pytest.mark.parametrize(
    "kind", [*FEW, *(pytest.param(kind, marks=pytest.mark.full) for kind in KINDS if kind not in FEW)]
)
def test_equals_a_loop_over_the_frames(kind, random_params):
    module = make(KINDS[kind])
    params = params_of(module, random_params)
    run = jax.jit(lambda params, *args: module.apply({"params": params}, *args))
    encoded = run(params, VIDEO, VALID)
    tokens, valid = expected(params, KINDS[kind], VIDEO, VALID)
    np.testing.assert_array_equal(encoded.valid, valid)
    np.testing.assert_allclose(np.asarray(encoded.tokens)[valid], tokens[valid], atol=2e-5)
    everything = run(params, VIDEO)
    assert everything.valid is None
    tokens, _ = expected(params, KINDS[kind], VIDEO, np.ones_like(VALID))
    np.testing.assert_allclose(everything.tokens, tokens, atol=2e-5)


@pytest.mark.parametrize("kind", ["mean of class tokens", "layers over all tokens"])
def test_frames_that_are_not_valid_change_neither_value_nor_gradient(kind, random_params):
    module = make(KINDS[kind])
    params = params_of(module, random_params)

    def loss(params, video):
        encoded = module.apply({"params": params}, video, jnp.asarray(VALID))
        return jnp.where(encoded.valid[..., None], encoded.tokens, 0).std(), encoded

    run = jax.jit(lambda *args: jax.grad(loss, argnums=(0, 1), has_aux=True)(*args)[::-1])
    keep = VALID[..., None, None, None]
    encoded, (gradient, slope) = run(params, VIDEO)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    assert not np.asarray(slope)[~np.broadcast_to(keep, VIDEO.shape)].any()
    for garbage in (1e30, np.nan):
        other = run(params, np.where(keep, VIDEO, np.float32(garbage)))
        jax.tree.map(np.testing.assert_array_equal, other, (encoded, (gradient, slope)))
    nothing = jax.jit(lambda params, *args: module.apply({"params": params}, *args))(params, VIDEO, ~VALID & VALID)
    assert np.isfinite(nothing.tokens).all() and not nothing.valid.any()


def test_the_gradients_of_float32_parameters_are_float32_and_not_rounded(random_params):
    """Computed in bfloat16, a frame's table gets the sum over all examples in float32."""
    module = make(KINDS["times alone"], jnp.bfloat16)
    params = params_of(module, random_params)

    def loss(params):
        return module.apply({"params": params}, *map(jnp.asarray, (VIDEO, VALID))).tokens.astype(jnp.float32).std()

    gradient = jax.jit(jax.grad(loss))(params)
    rounded = lambda x: np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert leaf.dtype == jnp.float32, path
        assert (rounded(leaf) != np.asarray(leaf)).mean() > 0.5, path


def test_an_image_towers_parameters_drop_in(random_params):
    shapes = lambda module, x: jax.tree.map(jnp.shape, jax.eval_shape(module.init, jax.random.key(0), x)["params"])
    assert shapes(make({}), VIDEO) == {"image": shapes(VisionTransformer(**TOWER), VIDEO[:, 0])}
    assert set(shapes(make(KINDS["times alone"]), VIDEO)) == {"image", "time_embedding", "norm"}
    assert set(shapes(make(KINDS["times and no norm"]), VIDEO)) == {"image", "time_embedding"}


@pytest.mark.full
def test_other_numbers_of_frames_keep_their_times_or_stretch(random_params):
    module = make(KINDS["times alone"])
    params = params_of(module, random_params)
    run = jax.jit(lambda params, video: module.apply({"params": params}, video).tokens)
    short = run(params, VIDEO[:, :2])
    np.testing.assert_allclose(short, run(params, VIDEO)[:, :10], atol=1e-6)
    longer = np.concatenate([VIDEO, VIDEO[:, ::-1][:, :2]], axis=1)
    table = np.asarray(resample_positions(jnp.asarray(params["time_embedding"]), (4,), (6,)))
    tokens, _ = expected(params | {"time_embedding": table}, KINDS["times alone"], longer, np.ones((3, 6), bool))
    np.testing.assert_allclose(run(params, longer), tokens, atol=2e-5)


def test_each_frame_has_noise_of_its_video_alone(random_params):
    module = make(dict(frame_pool="none", temporal="transformer", temporal_depth=0, patch_dropout=0.5))
    params = params_of(module, random_params)
    still = np.repeat(VIDEO[:, :1], 4, axis=1)
    params = params | {"time_embedding": np.zeros_like(params["time_embedding"])}
    run = jax.jit(lambda params, video, keys: module.apply({"params": params}, video, None, keys).tokens)
    keys = jax.random.split(jax.random.key(1), 3)
    noisy = np.asarray(run(params, still, keys)).reshape(3, 4, 3, 8)
    assert not np.allclose(noisy[:, 0], noisy[:, 1])  # other patches of the same picture are dropped
    order = np.array([2, 0, 1])
    np.testing.assert_allclose(run(params, still[order], keys[order]).reshape(3, 4, 3, 8), noisy[order], atol=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["mean of class tokens", "layers over frames", "times alone"])
def test_layers_on_request(kind, random_params):
    module = make(KINDS[kind] | dict(depth=2))
    params = params_of(module, random_params)
    run = jax.jit(lambda params, video: module.apply({"params": params}, video, intermediates=True))
    encoded = run(params, VIDEO)
    tokens = encoded.tokens
    depth = 1 if kind == "layers over frames" else 2
    assert encoded.layers.shape == (depth, *tokens.shape)
    last = np.asarray(encoded.layers[-1])
    if kind == "layers over frames":
        np.testing.assert_allclose(normed(last, params["norm"]), tokens, atol=2e-5)
    else:
        assert np.abs(last - encoded.layers[0]).max() > 1e-2


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(frame_pool="max"), "frame_pool='max' is not known"),
        (dict(temporal="lstm"), "temporal='lstm' is not known"),
        (dict(class_token=False), "class_token=False; choose frame_pool='mean'"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(make(changes).init, jax.random.key(0), VIDEO)
