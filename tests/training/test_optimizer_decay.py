"""Which parameters decay, beside the libraries' own rules, and how much, beside their chains of updates in NumPy."""

import math
import re
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax.config import overrides, parse, schema
from mmjax.errors import UserError
from mmjax.interop import foreign_checkpoint
from mmjax.parallel.partition import path_name
from mmjax.training import validate_run
from mmjax.training.optimizer import decay_mask, make_optimizer
from mmjax.training.param_roles import find_frozen
from mmjax.training.step import split_frozen
from tests.helpers import campaign, model_kinds, runs

GOLDEN = runs.ROOT / "tests/golden/interop"
# What files without a config do not tell.
BARE = {"text.causal": False, "text.pool": "last", "image.image_size": 16}
TIMM = BARE | {"heads": 2, "activation": "gelu_tanh", "norm_eps": 1e-6}
EVERY = [*model_kinds.WEIGHTS, *(f"fusion:{kind}" for kind in model_kinds.FUSIONS)]
NAMES = campaign.some(EVERY, ["tiny", "tiny-coca", "tiny-albef", "tiny-captioner-lstm", "tiny-vilt", "fusion:hybrid"])
KINDS = [name if name in ("tiny", "tiny-coca") else pytest.param(name, marks=pytest.mark.full) for name in NAMES]


def flat(tree):
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def config_of(name="tiny", **changes):
    config = model_kinds.config(name, **{f"optimizer__{field}": value for field, value in changes.items()})
    config.steps = 20
    config.schedule.warmup = 4
    return config


def decayed(preset, shapes):
    """Paths that a preset names."""
    mask = decay_mask(schema.parse(config_of(decay=(preset,))).optimizer, shapes)
    return {path for path, decays in flat(mask).items() if decays}


def marked(arrays):
    """Paths of arrays of ones, among arrays of zeros and ones."""
    values = {path: np.unique(np.asarray(x)) for path, x in arrays.items()}
    assert all(len(item) == 1 for item in values.values())
    return {path for path, (value,) in values.items() if value == 1.0}


# -- whose parameters --------------------------------------------------------------------------------------------------


def is_excluded(name, array):
    """open_clip_train/main.py of 3.3."""
    return array.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name


def nested(arrays):
    """A tree of arrays by path."""
    tree = {}
    for path, x in arrays.items():
        *groups, last = path.split("/")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = x
    return tree


def read(path, **settings):
    opened = foreign_checkpoint.open_checkpoint(path, settings)
    return opened.read(lambda _, array: np.array(array))


@pytest.mark.parametrize("name", ["openclip-quickgelu", "openclip-siglip"])
def test_open_clip_decays_what_open_clip_decays(name, tmp_path):
    """By the names and shapes of its own models, of which one has timm's tower; each array is marked by its rule."""
    (file,) = (GOLDEN / name).glob("*.safetensors")
    marks = {key: np.full(x.shape, not is_excluded(key, x), np.float32) for key, x in load_file(file).items()}
    save_file(marks, tmp_path / file.name)
    for config in (GOLDEN / name).glob("*.json"):
        shutil.copy(config, tmp_path)
    bare = {} if list(tmp_path.glob("*.json")) else TIMM
    arrays = read(tmp_path if not bare else tmp_path / file.name, **bare)
    result = marked(arrays)
    assert result == decayed("open_clip", nested(arrays))
    assert {"image/position_embedding", "text/position_embedding", "text/token_embedding"} <= result
    assert ("image_head/pool/probe" in result) == (name == "openclip-siglip") and "image/class_token" not in result


def test_big_vision_decays_its_kernels(tmp_path):
    """By the names of a released SigLIP's arrays."""
    arrays = np.load(GOLDEN / "big_vision" / "siglip.npz")
    marks = {key: np.full(arrays[key].shape, bool(re.fullmatch(".*/kernel$", key)), np.float32) for key in arrays}
    np.savez(tmp_path / "siglip.npz", **marks)
    arrays = read(tmp_path / "siglip.npz", **BARE)
    result = marked(arrays)
    assert result == decayed("big_vision", nested(arrays))
    assert "text/token_embedding" not in result and "image_head/pool/probe" not in result and len(result) > 10


@pytest.mark.parametrize("name", KINDS)
def test_the_presets_in_every_kind_of_model(name):
    shapes = model_kinds.shapes(name)
    everything = set(flat(shapes))
    vectors = {path for path in everything if path.rpartition("/")[2] in ("bias", "scale", "logit_scale")}
    kernels = {path for path in everything if path.endswith("/kernel")}
    tables = {path for path in everything if path.endswith("/token_embedding")}
    assert decayed("big_vision", shapes) == kernels
    assert decayed("matrices", shapes) == kernels | tables
    positions = {path for path in everything if path.endswith(("position_embedding", "probe", "queries"))}
    assert kernels | tables | positions <= decayed("open_clip", shapes) <= everything - vectors
    assert not any(path.startswith("image/class_token") for path in decayed("open_clip", shapes))


def test_several_entries_and_path_regexes():
    shapes = model_kinds.shapes("tiny")
    result = decay_mask(
        schema.parse(config_of(decay=("image/class_token", "big_vision", "text/norm/.*"))).optimizer, shapes
    )
    more = {path for path, decays in flat(result).items() if decays} - decayed("big_vision", shapes)
    assert more == {"image/class_token", "text/norm/scale", "text/norm/bias"}
    assert not any(flat(decay_mask(schema.parse(config_of(decay=())).optimizer, shapes)).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(decay=("open_clp",)),
            r"decay='open_clp' matches no .*none of matrices, open_clip, .*mean 'open_clip'\?\)$",
        ),
        (
            dict(decay=("matrices", "txt/.*")),
            r"optimizer.decay='txt/\.\*' matches no parameter path, such as 'image/cl",
        ),
        (dict(decay=("image/(",)), r"optimizer.decay='image/\(' is not a regular expression"),
        (dict(decay=("image/.*",), freeze=("image/.*",)), r"optimizer.decay='image/\.\*' matches no parameter path"),
        (
            dict(decay=("big_vision",), freeze=(".*[^e]",)),
            r"decay='big_vision' names none .*'image/norm/scale'; set",
        ),
        (
            dict(decay_scaled_by_lr=False, multipliers=(("text/.*", 0.0),)),
            r"multipliers: \('text/\.\*', 0\) would .*freeze",
        ),
        (
            dict(decay_scaled_by_lr=False, layer_decay__image=0.0),
            r"optimizer.layer_decay.image=0 would leave weight decay at work.*freeze",
        ),
        (dict(multipliers=(("text/.*", -0.5),)), r"multipliers: \('text/\.\*', -0.5\) is no factor .* at least 0"),
        (dict(multipliers=(("text/.*", math.nan),)), r"multipliers=\(\('text/\.\*', nan\),\) wants pairs in a tuple"),
        (dict(layer_decay__text=-0.9), r"optimizer.layer_decay.text=-0.9 is no factor .* upwards"),
        (
            dict(decay=("matrices,text/norm/.*",)),
            r"decay='matrices,text/norm/\.\*' matches no .*; several .* written \"\('matrices', 'text/norm/\.\*'\)\"$",
        ),
    ],
)
def test_mistakes(changes, message):
    config = config_of(**changes)
    shapes = model_kinds.shapes("tiny")
    trainable, _ = split_frozen(shapes, find_frozen(shapes, config.optimizer.freeze))
    with pytest.raises(UserError, match=message) as error:
        make_optimizer(parse(config), trainable)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["matrices,open_clip", "matrices, open_clip", "('matrices', 'open_clip')"])
def test_presets_with_commas_between_them_are_several(text):
    """As one is tempted to write them on the command line; no path has a comma."""
    config, shapes = config_of(), model_kinds.shapes("tiny")
    overrides.apply(config, [("optimizer.decay", text)])
    result = {path for path, decays in flat(decay_mask(schema.parse(config).optimizer, shapes)).items() if decays}
    assert result == decayed("matrices", shapes) | decayed("open_clip", shapes)


@pytest.mark.parametrize("field", ["optimizer.decay", "optimizer.freeze", "init_paths"])
def test_patterns_are_checked_by_themselves_first(field):
    config = model_kinds.config("tiny", data__train="shapes")
    overrides.apply(config, [(field, "")])
    with pytest.raises(UserError, match=rf"{field}=\(''\,\): an empty pattern .*, or write {field}=\(\) for none$"):
        validate_run.check_config(parse(config))
    overrides.apply(config, [(field, "image/(")])
    with pytest.raises(UserError, match=rf"{field}='image/\(' is not a regular expression"):
        validate_run.check_config(parse(config))


def test_the_default_may_name_nothing():
    config = config_of(freeze=(".*[^e]",))
    shapes = model_kinds.shapes("tiny")
    make_optimizer(parse(config), split_frozen(shapes, find_frozen(shapes, config.optimizer.freeze))[0])


# -- how much ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_lr", [True, False])
def test_three_steps_with_multipliers_and_layer_decay(by_lr, random_params):
    """AdamW's convention: the rate and all its factors on both parts; big_vision's: on the gradient's part alone."""
    config = config_of(decay=("big_vision",), decay_scaled_by_lr=by_lr, weight_decay=0.3, learning_rate=0.02, eps=1e-4)
    config.optimizer.multipliers = (("text/.*", 0.5), (".*class_token", 3.0))
    config.optimizer.layer_decay.image = 0.7
    config.optimizer.grad_clip = 0.5
    config.schedule.from_zero = not by_lr
    shapes = model_kinds.shapes("tiny")
    small = {path: x for path, x in flat(shapes).items() if path != "text/token_embedding"}
    params = random_params(nested(small))
    gradients = [random_params(nested(small), seed=seed) for seed in (1, 2, 3)]
    tx, rate = make_optimizer(parse(config), params)
    update, state, moved = jax.jit(tx.update), tx.init(params), params
    for gradient in gradients:
        updates, state = update(gradient, state, moved)
        moved = jax.tree.map(lambda p, u: p + u, moved, updates)

    def factor(path, x):
        if path.startswith("text/"):
            return 0.5
        times = 3.0 if path.endswith("class_token") else 1.0
        if not path.startswith("image/") or path.startswith("image/norm/"):
            return times
        if "layers" in path:
            return times * 0.7 ** np.array([2.0, 1.0]).reshape(-1, *[1] * (x.ndim - 1))
        return times * 0.7**3

    x = {path: value.astype(np.float64) for path, value in flat(params).items()}
    m, v = ({path: np.zeros_like(value) for path, value in x.items()} for _ in range(2))
    for k, gradient in enumerate(map(flat, gradients)):
        norm = math.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient.values()))
        schedule = (k + by_lr) / 4  # of the four steps of warm-up
        assert float(rate(k)) == pytest.approx(0.02 * schedule)
        for path in x:
            g = gradient[path] * min(1.0, 0.5 / norm)
            m[path], v[path] = 0.9 * m[path] + 0.1 * g, 0.98 * v[path] + 0.02 * g**2
            step = m[path] / (1 - 0.9 ** (k + 1)) / (np.sqrt(v[path] / (1 - 0.98 ** (k + 1))) + 1e-4)
            decays = 0.3 * x[path] if path.endswith("/kernel") else 0.0
            scaled = 0.02 * factor(path, x[path])
            x[path] = x[path] - schedule * (scaled * (step + decays) if by_lr else scaled * step + decays)
    for path, value in flat(moved).items():
        np.testing.assert_allclose(value, x[path], rtol=1e-5, atol=1e-6, err_msg=path)
