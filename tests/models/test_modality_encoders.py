"""Encoders of video, audio, series, tables and features: counts, who is valid, and that garbage changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.models.encoders import VisionTransformer
from mmjax.models.fusion import classifier
from mmjax.models.modality_encoders import resample_time_positions
from mmjax.models.variants import two_tower
from mmjax.nn.layers import PatchEmbed
from mmjax.nn.modality_embed import inflate_patches
from mmjax.nn.positions import interleaved_sinusoids, resample_positions

TINY = dict(width=8, depth=1, heads=2, mlp_dim=12, scan=False)
RNG = np.random.default_rng(0)
NAN = np.nan


def make_encoder(kind, settings):
    return classifier.make_encoder("x", settings | dict(kind=kind))


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def mask(*rows):
    return np.array([[character == "x" for character in row] for row in rows])


# Kind: settings, input, which of it is valid, which tokens then are (after the class token where there is one).
CASES = {
    "video": (
        dict(frames=4, image_size=8, patch_size=4),
        normal(2, 4, 8, 8, 3),
        mask("xxx.", "xx.."),
        mask("xxxxxxxxx", "xxxxx...."),
    ),
    "audio": (
        dict(frames=12, mel_bins=6, patch_size=(4, 4), stride=(3, 2)),
        normal(2, 12, 6),
        mask("xxxxxxx.....", "xxx........."),
        mask("xxxxxxx", "xxx...."),
    ),
    "whisper": (
        dict(frames=12, mel_bins=6),
        normal(2, 12, 6),
        mask("xxxxxxx.....", "xxx........."),
        mask("xxxx..", "xx...."),
    ),
    "series": (
        dict(steps=10, patch_length=3),
        normal(2, 10, 5),
        mask("xxxx......", "...x..xxxx"),
        mask("xxx..", "x.xxx"),
    ),
    "table": (
        dict(numeric=2, categories=(3, 2)),
        np.array([[0.3, -1.2, 2, 0], [1.5, 0.7, 0, 1]], np.float32),
        mask("xx.x", ".xx."),
        mask("xxx.x", "x.xx."),
    ),
    "features": (
        dict(hidden=7, context_length=4),
        normal(2, 4, 9),
        mask("xxx.", ".x.x"),
        mask("xxx.", ".x.x"),
    ),
}
BATCH = {kind: case[1] for kind, case in CASES.items()}


@pytest.fixture(scope="module")
def models(random_params):
    """Kind: (the module, its random parameters, a compiled function of parameters, input and what is valid).

    The function returns what is encoded, and the gradients of a number that only valid tokens have part in.
    """
    made = {}

    def make(kind):
        if kind not in made:
            module = make_encoder(kind, TINY | CASES[kind][0])
            params = random_params(jax.eval_shape(module.init, jax.random.key(0), BATCH[kind])["params"], std=0.3)

            def loss(params, x, valid):
                encoded = module.apply({"params": params}, x, valid)
                return jnp.where(encoded.valid[..., None], encoded.tokens, 0).std(), encoded

            run = jax.jit(lambda *args: jax.grad(loss, argnums=(0, 1), has_aux=True)(*args)[::-1])
            made[kind] = module, params, run
        return made[kind]

    return make


@pytest.mark.parametrize("kind", CASES)
def test_tokens_are_valid_where_anything_they_cover_is(models, kind):
    _, x, valid, expected = CASES[kind]
    _, params, run = models(kind)
    encoded, _ = run(params, x, valid)
    assert encoded.tokens.shape == (*expected.shape, 8)
    np.testing.assert_array_equal(encoded.valid, expected)


@pytest.mark.parametrize("kind", CASES)
def test_garbage_where_not_valid_changes_neither_value_nor_gradient(models, kind):
    _, x, valid, _ = CASES[kind]
    _, params, run = models(kind)
    keep = valid.reshape(valid.shape + (1,) * (x.ndim - 2))
    encoded, (gradient, slope) = run(params, x, valid)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((encoded.tokens, gradient, slope)))
    assert not np.asarray(slope)[~np.broadcast_to(keep, x.shape)].any()
    for garbage in (1e30, NAN):
        other = run(params, np.where(keep, x, np.float32(garbage)), valid)
        jax.tree.map(np.testing.assert_array_equal, other, (encoded, (gradient, slope)))
    # What is valid does matter.
    first = tuple(index[0] for index in np.nonzero(valid))
    changed = x.copy()
    changed[first] = -changed[first]
    other, _ = run(params, changed, valid)
    assert not np.allclose(other.tokens[first[0]], encoded.tokens[first[0]], atol=1e-3)


@pytest.mark.parametrize("kind", CASES)
def test_examples_are_independent_and_nothing_valid_is_finite(models, kind):
    _, x, valid, _ = CASES[kind]
    _, params, run = models(kind)
    everything = np.ones_like(valid)
    encoded, _ = run(params, x, everything)
    other = x.copy()
    other[0] = other[0, ::-1] if kind != "table" else [5, 5, 0, 0]
    changed, _ = run(params, other, everything)
    np.testing.assert_array_equal(changed.tokens[1], encoded.tokens[1])
    assert not np.allclose(changed.tokens[0], encoded.tokens[0], atol=1e-3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run(params, x, ~everything)))


@pytest.mark.parametrize(
    "kind", ["audio", *(pytest.param(kind, marks=pytest.mark.full) for kind in CASES if kind != "audio")]
)
def test_no_mask_is_everything_valid(models, kind):
    _, x, valid, _ = CASES[kind]
    module, params, run = models(kind)
    plain = jax.jit(module.apply)({"params": params}, x)
    assert kind == "table" or plain.valid is None
    np.testing.assert_allclose(plain.tokens, run(params, x, np.ones_like(valid))[0].tokens, atol=1e-6)


@pytest.mark.parametrize(
    "kind, axis", [("video", 1), ("video", 2), ("audio", 1), ("audio", 2), ("series", 1), ("features", 1)]
)
def test_order_matters(models, kind, axis):
    """An input turned around does not give the same tokens in another order: the model is no bag of patches."""
    _, params, run = models(kind)
    x, valid = BATCH[kind], np.ones_like(CASES[kind][2])
    forward, backward = (np.asarray(run(params, y, valid)[0].tokens) for y in (x, np.flip(x, axis).copy()))
    distance = np.abs(forward[:, :, None] - backward[:, None]).max(axis=-1)
    assert distance.min() > 1e-3


def count(module, *shape):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, np.float32))["params"]
    return sum(x.size for x in jax.tree.leaves(shapes))


def block(width, mlp_dim):
    return 4 * (width**2 + width) + 2 * width * mlp_dim + mlp_dim + width + 4 * width


@pytest.mark.parametrize(
    "kind, shape, expected",
    [
        # AST, with its distillation token, and ViViT-B/16x2 without a pooler (Hugging Face's counts).
        ("audio", (1, 1024, 128), 86_187_264),
        ("video", (1, 32, 224, 224, 3), 88_646_400),
    ],
)
def test_published_parameter_counts(kind, shape, expected):
    assert count(make_encoder(kind, two_tower.encoder(kind, "base")), *shape) == expected


def test_parameter_counts_by_formula():
    d, layers, norm = 8, block(8, 12), 16
    video = count(make_encoder("video", TINY | CASES["video"][0]), 1, 4, 8, 8, 3)
    assert video == (2 * 4 * 4 * 3 + 1) * d + (1 + 4) * d + 2 * d + d + layers + norm
    series = count(make_encoder("series", TINY | CASES["series"][0]), 1, 10, 5)
    assert series == (3 * 5 + 1) * d + (1 + 4) * d + d + layers + norm
    table = count(make_encoder("table", TINY | CASES["table"][0]), 1, 4)
    assert table == 2 * d + 4 * d + 5 * d + d + layers + norm
    features = count(make_encoder("features", dict(width=d)), 1, 9)
    assert features == 2 * 9 + (9 + 1) * d + norm


@pytest.mark.parametrize("how", ["central_frame", "average"])
def test_a_video_that_stands_still_gives_the_image_tokens(how):
    """With an inflated map, and no positions, every moment of it is the image's patch embedding."""
    image = normal(2, 8, 8, 3)
    kernel, bias = normal(4, 4, 3, 8), normal(8)
    expected = jax.jit(PatchEmbed(8, 4, True).apply)({"params": {"kernel": kernel, "bias": bias}}, image)
    module = make_encoder("video", TINY | dict(frames=6, image_size=8, patch_size=4, tubelet_frames=3, depth=0))
    params = {
        "tubelet_embed": {"kernel": inflate_patches(jnp.asarray(kernel), 3, how), "bias": bias},
        "position_embedding": np.zeros((5, 8), np.float32),
        "time_embedding": np.zeros((2, 8), np.float32),
        "class_token": np.zeros(8, np.float32),
        "norm": {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)},
    }
    video = np.repeat(image[:, None], 6, axis=1)
    tokens = jax.jit(module.apply)({"params": params}, video).tokens[:, 1:].reshape(2, 2, 4, 8)
    norm = lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(tokens, np.repeat(norm(np.asarray(expected))[:, None], 2, axis=1), atol=2e-5)


def test_other_videos_resample_space_and_time(models):
    """On black videos only positions differ: the sum of both tables, each resampled by itself."""
    _, params, _ = models("video")
    module = make_encoder("video", TINY | CASES["video"][0] | dict(depth=0))
    silent = {name: value for name, value in params.items() if name != "transformer"}
    x = np.asarray(jax.jit(module.apply)({"params": silent}, np.zeros((1, 6, 12, 8, 3), np.float32)).tokens)
    space = resample_positions(jnp.asarray(params["position_embedding"]), (2, 2), (3, 2), prefix=1)[1:]
    time = resample_positions(jnp.asarray(params["time_embedding"]), (2,), (3,))
    table = np.asarray(time[:, None] + space).reshape(18, 8) + params["tubelet_embed"]["bias"]
    table = (table - table.mean(-1, keepdims=True)) / np.sqrt(table.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(x[0, 1:], table * params["norm"]["scale"] + params["norm"]["bias"], atol=2e-5)


def test_fixed_positions_are_no_parameter():
    """On black videos only the sines and cosines of VideoMAE tell tubelets apart."""
    settings = dict(positions="sincos", class_token=False, key_bias=False, final_norm=False, depth=0)
    module = make_encoder("video", TINY | CASES["video"][0] | settings)
    params = {"tubelet_embed": {"kernel": normal(2, 4, 4, 3, 8), "bias": normal(8)}}
    black = np.zeros((1, 4, 8, 8, 3), np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), black)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(np.shape, params)
    tokens = jax.jit(module.apply)({"params": params}, black).tokens[0]
    np.testing.assert_allclose(tokens, interleaved_sinusoids(8, 8) + params["tubelet_embed"]["bias"], atol=1e-6)
    with_layers = make_encoder("video", TINY | CASES["video"][0] | settings | dict(depth=1, final_norm=True))
    shapes = jax.eval_shape(with_layers.init, jax.random.key(0), black)["params"]
    assert shapes["transformer"]["layers"]["attention"]["qkv"]["bias"].shape == (1, 2, 2, 4) and "norm" in shapes


def test_a_shorter_series_is_a_longer_one_masked(models):
    """Time keeps its place: filling up to the model's length, as batches are, changes nothing."""
    module, params, run = models("series")
    x = BATCH["series"]
    short = jax.jit(module.apply)({"params": params}, x[:, :6]).tokens
    longer, _ = run(params, x, np.broadcast_to(np.arange(10) < 6, (2, 10)))
    np.testing.assert_allclose(longer.tokens[:, :3], short, atol=1e-6)


def test_positions_in_time_keep_their_place_when_shorter_and_stretch_when_longer():
    table = jnp.asarray(normal(1 + 4 * 3, 5))
    np.testing.assert_array_equal(resample_time_positions(table, (4, 3), (2, 3), 1), table[:7])
    np.testing.assert_array_equal(resample_time_positions(table, (4, 3), (4, 3), 1), table)
    for new in ((6, 3), (4, 2)):
        expected = resample_positions(table, (4, 3), new, prefix=1)
        np.testing.assert_array_equal(resample_time_positions(table, (4, 3), new, 1), expected)
    expected = resample_positions(table[:7], (2, 3), (2, 5), prefix=1)
    np.testing.assert_array_equal(resample_time_positions(table, (4, 3), (2, 5), 1), expected)


def test_missing_cells_of_a_table(models):
    """NaN, infinity, -1, a category that is none and half a category are all the same: missing."""
    _, params, run = models("table")
    x, all_there = CASES["table"][1], np.ones((2, 4), bool)
    expected, (gradient, _) = run(params, x, mask(".xx.", ".xx."))
    for number, category in [(NAN, -1), (np.inf, 2), (-np.inf, NAN), (NAN, 0.5), (NAN, 1e20)]:
        gaps = x.copy()
        gaps[:, 0], gaps[:, 3] = number, category
        encoded, (other, _) = run(params, gaps, all_there)
        jax.tree.map(np.testing.assert_array_equal, (encoded, other), (expected, gradient))
    assert not np.asarray(expected.valid)[:, [1, 4]].any()


def test_columns_are_told_apart(models):
    """The same category in two columns, and the same number in two, are different tokens."""
    _, params, run = models("table")
    encoded, _ = run(params, np.array([[0.5, -1, 1, 0], [-1, 0.5, 0, 1]], np.float32), np.ones((2, 4), bool))
    assert np.abs(encoded.tokens[0, 0] - encoded.tokens[1, 0]).max() > 1e-2


@pytest.mark.full
def test_layers_on_request_and_noise_by_example(random_params):
    module = make_encoder("series", TINY | dict(steps=6, dropout=0.5, depth=2))
    x = normal(3, 6, 2)
    params = random_params(jax.eval_shape(module.init, jax.random.key(0), x)["params"], std=0.3)
    keys = jax.random.split(jax.random.key(1), 3)
    run = jax.jit(
        lambda x, keys: module.apply({"params": jax.tree.map(jnp.asarray, params)}, x, None, keys, intermediates=True)
    )
    noisy = run(x, keys)
    assert noisy.layers.shape == (2, 3, 7, 8)
    order = np.array([2, 0, 1])
    np.testing.assert_allclose(run(x[order], keys[order]).tokens, np.asarray(noisy.tokens)[order], atol=1e-6)
    assert not np.allclose(run(x, keys[order]).tokens, noisy.tokens, atol=1e-2)


@pytest.mark.parametrize("kind", two_tower.ENCODERS)
@pytest.mark.parametrize("size", ["tiny", "small", "base"])
@pytest.mark.full
def test_every_size_encodes(kind, size):
    data = dict(series=dict(steps=6), table=dict(numeric=3), text=dict(mask_padding=True)).get(kind, {})
    settings = two_tower.encoder(kind, size) | data
    side = settings.get("image_size", 0)
    shape = {
        "image": (1, side, side, 3),
        **dict.fromkeys(("video", "frames"), (1, settings.get("frames"), side, side, 3)),
        **dict.fromkeys(("audio", "whisper"), (1, settings.get("frames"), settings.get("mel_bins"))),
        "series": (1, 6, 2),
        "table": (1, 3),
        "features": (1, 5),
        "text": (1, settings.get("context_length")),
    }[kind]
    x = jax.ShapeDtypeStruct(shape, np.int32 if kind == "text" else np.float32)
    module = make_encoder(kind, settings)
    encoded = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x)[0], x)
    assert encoded.tokens.shape[::2] == (1, settings["width"])


@pytest.mark.parametrize(
    "kind, settings, message",
    [
        ("video", dict(frames=4, image_size=8, patch_sise=4), "patch_sise is no .*VideoTransformer .*'patch_size'"),
        ("audio", dict(frames=4), "mel_bins is not set, which AudioTransformer needs"),
        ("series", dict(steps=4, dtype="float32"), "dtype is no setting of SeriesTransformer"),
    ],
)
def test_wrong_settings(kind, settings, message):
    with pytest.raises(UserError, match=message):
        make_encoder(kind, TINY | settings)


def test_unknown_kind_and_size():
    with pytest.raises(UserError, match="kind='vidoe' is not known .did you mean 'video'"):
        make_encoder("vidoe", TINY)
    with pytest.raises(UserError, match="size='bsae' is not known .did you mean 'base'"):
        two_tower.encoder("audio", "bsae")


@pytest.mark.parametrize(
    "kind, settings, shape, message",
    [
        ("video", {}, (1, 3, 8, 8, 3), "a video of 3x8x8 .* does not divide into tubelets of 2x4x4"),
        ("video", dict(tubelet_init="centre"), (1, 4, 8, 8, 3), "inflation 'centre' is not known"),
        ("video", dict(positions="summed"), (1, 4, 8, 8, 3), "positions='summed' is not known"),
        ("whisper", {}, (1, 13, 6), "a spectrogram of 13 frames x 6 bins for 12 x 6"),
        ("whisper", {}, (1, 12, 5), "a spectrogram of 12 frames x 5 bins for 12 x 6"),
        ("audio", {}, (1, 3, 6), "axis 0 has 3 samples, fewer than one window of 4"),
        ("table", {}, (1, 5), "a table of 5 columns for numeric=2 and 2 numbers of categories"),
        ("features", {}, (1, 5, 9), "5 features are more than context_length=4"),
    ],
)
def test_wrong_inputs(kind, settings, shape, message):
    module = make_encoder(kind, TINY | CASES[kind][0] | settings)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), np.zeros(shape, np.float32))


def test_towers_share_the_transformer_of_images():
    """A ViT's own transformer and final norm fit a video tower of its size, name by name."""
    image = VisionTransformer(image_size=8, patch_size=4, **TINY)
    video = make_encoder("video", TINY | CASES["video"][0])
    shapes = [
        jax.tree.map(jnp.shape, jax.eval_shape(module.init, jax.random.key(0), x)["params"])
        for module, x in ((image, BATCH["video"][:, 0]), (video, BATCH["video"]))
    ]
    for name in ("transformer", "norm", "class_token", "position_embedding"):
        assert shapes[0][name] == shapes[1][name]
