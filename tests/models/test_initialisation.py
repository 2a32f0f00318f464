"""Fresh parameters: what `model.init` draws, which numbers stay as they were, and what it refuses."""

import functools
import json
import math
import zlib

import jax
import numpy as np
import pytest
from scipy import stats

from mmjax.config import parse, recipe, serialize
from mmjax.errors import UserError
from mmjax.models import initialisation
from mmjax.parallel import partition
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from mmjax.training import resumed_run, validate_run
from tests.helpers import model_kinds, runs
from tests.helpers.distributions import assert_drawn

GOLDEN = json.loads((runs.ROOT / "tests/golden/models/initial.json").read_text())
WORDS = dict(model__text__vocab_size=200, model__text__eos_id=2)
SIGLIP = dict(objectives__sigmoid=1.0, model__init="big_vision")
SIZES = dict(
    model__embed_dim=64,
    model__image__width=64,
    model__image__depth=3,
    model__image__mlp_dim=160,
    model__text__width=96,
    model__text__depth=2,
    model__text__mlp_dim=384,
)


@functools.lru_cache(maxsize=1)
def compiled(name, changes):
    return jax.jit(model_kinds.task(model_kinds.config(name, **dict(changes))).init)


def fresh(name, seed=0, **changes):
    """Parameters of a size of `kinds` by path."""
    return flat(compiled(name, tuple(changes.items()))(jax.random.key(seed)))


def flat(params):
    return {partition.path_name(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}


def normal(std):
    return stats.norm(scale=std)


def uniform(bound):
    return stats.uniform(-bound, 2 * bound)


def xavier(inputs, outputs):
    return uniform(math.sqrt(6 / (inputs + outputs)))


# -- as before ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name if name == "tiny" else pytest.param(name, marks=pytest.mark.full) for name in GOLDEN]
)
def test_openai_draws_the_numbers_that_it_always_did(name):
    """`golden/initial.json` was made by commit 9d871c7, before there was a choice: products with fixed random weights.

    They hold to a rounding of the random numbers' inverse error function, and to nothing else.
    """
    changes = WORDS | dict(model__text__vocab_size=64) if name == "tiny" else {}
    sums = dict.fromkeys(GOLDEN[name], 0.0)
    for path, leaf in fresh(name, **changes).items():
        weights = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(leaf.shape)
        sums[path.split("/")[0]] += float((weights * leaf.astype(np.float64)).sum())
    for part, expected in GOLDEN[name].items():
        assert sums[part] == pytest.approx(expected, abs=1e-4), part


def test_openai_is_what_the_modules_draw():
    """Bit for bit, also when the field is not there."""
    config = model_kinds.config("tiny", **WORDS)
    task = model_kinds.task(config)
    with config.unlocked():
        del config.model.init
    without = model_kinds.task(config)

    @jax.jit
    def draw(key):
        return task.init(key), without.init(key), task.model.init(key, *task.example())["params"]

    *drawn, expected = draw(jax.random.key(3))
    for params in drawn:
        jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_stored_config_without_the_field_began_with_openais_rule():
    for name in ("tiny", "tiny-coca"):
        stored = json.loads(serialize.to_json(model_kinds.config(name)))
        del stored["model"]["init"]
        assert serialize.from_json(json.dumps(stored)).model.init == "openai"
        stored["model"]["init"] = "open_clip"
        assert serialize.from_json(json.dumps(stored)).model.init == "open_clip"


def test_a_run_that_began_otherwise_goes_on_with_a_line_that_says_so(tmp_path, capsys):
    """Where a run began is no reason to refuse it: its parameters are there."""
    config = model_kinds.config("tiny", data__train="shapes")
    stored = json.loads(serialize.to_json(config))
    del stored["model"]["init"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    config.model.init = "open_clip"
    resumed_run.check_workdir(parse(config), tmp_path)
    assert "model.init: openai -> open_clip" in capsys.readouterr().out


# -- which rule --------------------------------------------------------------------------------------------------------

RECIPES = {
    "clip:variant=L/14": "open_clip",
    "siglip:variant=L/16": "big_vision",
    "lit": "big_vision",
    "coca:variant=coca-B/32": "open_clip",
    "albef:variant=albef-B": "albef",
    "vilt:variant=vilt-B/32": "vilt",
    "vqa:variant=vilt-B/32": "vilt",
    "qformer:variant=qformer-B": "blip2",
    "captioner:variant=captioner-B/16": "vit_gpt2",
    "captioner:variant=blip-B/16": "blip",
    "llava:variant=prefix_lm-L/14": "llava",
    **dict.fromkeys(
        ("quickstart", "coca", "albef", "vilt", "vqa", "qformer", "captioner", "llava", "fusion"), "openai"
    ),
    **dict.fromkeys(("coca:variant=tiny-coca", "captioner:decoder=lstm", "vqa:variant=small-vilt"), "openai"),
}


@pytest.mark.parametrize("spec", RECIPES)
def test_published_recipes_have_the_rule_of_their_source_and_toys_todays(spec):
    assert recipe.load_recipe(spec).model.init == RECIPES[spec]


SERVED = [(name, kind) for name, scheme in initialisation.SCHEMES.items() for kind in scheme.kinds]
# Settings with parameters that the tiny sizes do not have.
OPTIONS = {
    "two_tower": [
        {},
        dict(
            model__image__pool="map",
            model__image__patch_bias=True,
            model__image__projection="bias",
            model__text__pool="map",
            model__text__projection="bias",
            model__logit_bias_init=-10.0,
        ),
    ],
    "coca": [{}, dict(model__logit_bias_init=-10.0, model__image__patch_bias=True)],
    "albef": [dict(model__answers=5, model__fusion__norm="pre", model__text__norm="pre", model__text__final_norm=True)],
    "blip": [{}],
    "vilt": [dict(model__answers=5, model__mim=True)],
    "qformer": [dict(model__answers=5, model__text__token_types=2)],
    "captioner": [
        {},
        dict(model__text__head="linear", model__text__cross_from=1),
        dict(model__text__head="mlm", model__text__cross_every=2, model__text__embedding_norm=True),
    ],
    "prefix_lm": [{}, dict(model__image__pre_norm=True, model__text__head="mlm")],
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [case if case[1] in ("two_tower", "vilt") else pytest.param(*case, marks=pytest.mark.full) for case in SERVED],
)
def test_a_rule_says_how_every_parameter_of_its_kinds_is_drawn(name, kind):
    """And no parameter of theirs is drawn by a rule for another thing of the same name."""
    for options in OPTIONS[kind]:
        if name == "open_clip":  # refused
            options = {field: value for field, value in options.items() if value != "map"}
        config = model_kinds.config("tiny" if kind == "two_tower" else f"tiny-{kind}", model__init=name, **options)
        task = model_kinds.task(config)
        assert jax.eval_shape(task.init, jax.random.key(0)) == jax.eval_shape(
            lambda key, task=task: task.model.init(key, *task.example())["params"], jax.random.key(0)
        )


@pytest.mark.parametrize(
    ("size", "name", "message"),
    [
        (
            "tiny",
            "openclip",
            r"model.init='openclip' is not known \(did you mean 'open_clip'\?\); choose one of: openai, ",
        ),
        ("tiny", "albef", r"'albef' has no rule for model.kind='two_tower'; choose one of: openai, open_clip, big_"),
        ("tiny-coca", "big_vision", "'big_vision' has no rule for model.kind='coca'; choose one of: openai, open_clip"),
        (
            "tiny-captioner-lstm",
            "vit_gpt2",
            "for model.kind='captioner' with model.decoder='lstm'; choose one of: openai$",
        ),
        ("fusion:joint", "bert", "'bert' has no rule for model.kind='fused'; choose one of: openai$"),
    ],
)
def test_a_rule_that_is_none_for_the_model_is_refused(size, name, message):
    config = model_kinds.config(size, model__init=name, data__train="shapes")
    with pytest.raises(UserError, match=message) as caught:
        validate_run.check_config(parse(config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_open_clip_has_no_rule_for_a_tower_that_it_takes_from_timm(tower):
    changes = {"model__image__pool": "cls", "model__image__class_token": True, "model__text__pool": "last"}
    changes |= {"model__init": "open_clip", "objectives__sigmoid": 1.0, "data__train": "shapes"}
    config = model_kinds.config("tiny-siglip", **WORDS, **changes)
    validate_run.check_config(parse(config))
    config.model[tower].pool = "map"
    message = rf"model.init='open_clip' has no rule for model.{tower}.pool='map': .*choose model.init='big_vision'"
    with pytest.raises(UserError, match=message) as caught:
        validate_run.check_config(parse(config))
    assert "\n" not in str(caught.value)
    config.model.init = "big_vision"
    validate_run.check_config(parse(config))


def test_a_parameter_without_a_rule_is_no_silent_default():
    shapes = {"image": {"another": jax.ShapeDtypeStruct((3,), np.float32)}}
    draw = lambda key: initialisation.initialise("open_clip", shapes, {"image": {"width": 3}}, key)
    with pytest.raises(ValueError, match="'open_clip' does not say how image/another is drawn"):
        jax.eval_shape(draw, jax.random.key(0))


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_layers_differ_and_more_parameters_change_no_others():
    one = fresh("tiny", **WORDS, model__init="open_clip")
    more = dict(model__image__patch_bias=True, model__text__projection="bias", model__logit_bias_init=-3.0)
    two = fresh("tiny", **WORDS, model__init="open_clip", **more)
    assert set(two) - set(one) == {"image/patch_embed/bias", "text_head/projection/bias", "logit_bias"}
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, two[path], err_msg=path)
        if "/layers/" in path and np.ptp(leaf):
            assert not np.intersect1d(leaf[0], leaf[1]).size > 0.01 * leaf[0].size, path
    drawn = [leaf.ravel()[:8].tobytes() for leaf in one.values() if np.ptp(leaf)]
    assert len(set(drawn)) == len(drawn), "two parameters have the same numbers"
    other = fresh("tiny", seed=1, **WORDS, model__init="open_clip")
    assert all((leaf != other[path]).any() for path, leaf in one.items() if np.ptp(leaf))


@pytest.mark.full
def test_what_the_modules_would_draw_is_not_computed():
    """The compiler drops it: the arithmetic is that of the rule alone."""
    task = model_kinds.task(model_kinds.config("tiny", **SIZES, **WORDS, model__init="open_clip"))
    shapes = jax.eval_shape(task.init, jax.random.key(0))

    def alone(key):
        params = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), shapes)
        return initialisation.initialise("open_clip", params, task.model_settings, key)

    flops = [jax.jit(f).lower(jax.random.key(0)).compile().cost_analysis()["flops"] for f in (task.init, alone)]
    assert flops[0] == pytest.approx(flops[1], rel=1e-3) and flops[1] > 1e6


@pytest.mark.full
def test_shards_are_parts_of_what_one_device_draws():
    config = model_kinds.config("tiny-siglip", **SIZES, **SIGLIP)
    config.mesh.update(data=2, fsdp=2, tensor=2)
    task, mesh = model_kinds.task(config), make_mesh(parse(config).mesh)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    rules = ((r".*token_embedding", ("fsdp", None)),)
    shardings, _ = partition.param_shardings(shapes, mesh, MeshConfig(rules=rules))
    sharded = jax.jit(task.init, out_shardings=shardings)(jax.random.key(5))
    assert sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(sharded)) >= 10
    full = flat(jax.jit(task.init)(jax.random.key(5)))
    for path, leaf in flat(sharded).items():
        np.testing.assert_array_equal(leaf, full[path], err_msg=path)


# -- big_vision --------------------------------------------------------------------------------------------------------


def cut_off(std):
    """A normal distribution cut off at two standard deviations, of a standard deviation afterwards."""
    full = std / stats.truncnorm(-2, 2).std()
    return stats.truncnorm(-2, 2, scale=full)


def siglip_rules(shapes):
    """What big_vision's modules are given, commit 642c086.

    models/vit.py: `MlpBlock` has `xavier_uniform` kernels and biases of `normal(1e-6)`; `MultiHeadDotProductAttention`
    has `xavier_uniform` kernels, which flax draws as matrices [inputs, heads * head width], and zero biases; the patch
    convolution has flax's `lecun_normal` and zeros; position tables `normal(1 / sqrt(width))`; the probe
    `xavier_uniform` of [1, 1, width]. models/proj/image_text/text_transformer.py: flax's `Embed` draws
    `variance_scaling(1, "fan_in", "normal", out_axis=0)`, which is normal(1 / sqrt(width)); positions are the same; the
    head is a `Dense` with `lecun_normal`. arXiv:2303.15343: t is ln 10, b is -10.
    """
    rules = {"logit_scale": np.float32(math.log(10)), "logit_bias": -10.0}
    for path, shape in shapes.items():
        if path in rules:
            continue
        width, name = shape[-1], path.split("/")[-1]
        layer = shape[1:] if "/layers/" in path else shape
        if name == "scale":
            rules[path] = 1.0
        elif name in ("position_embedding", "token_embedding"):
            rules[path] = normal(width**-0.5)
        elif name == "probe":
            rules[path] = xavier(1, width)
        elif name == "bias":
            rules[path] = normal(1e-6) if "mlp/" in path else 0.0
        elif "attention/out" in path:
            rules[path] = xavier(layer[0] * layer[1], layer[2])
        elif "attention/" in path:
            rules[path] = xavier(layer[0], layer[-2] * layer[-1])
        elif "mlp/" in path:
            rules[path] = xavier(*layer)
        elif "patch_embed" in path or "projection" in path:
            rules[path] = cut_off(math.prod(layer[:-1]) ** -0.5)
    return rules


@pytest.mark.full
def test_siglip_is_drawn_as_big_vision_draws_it():
    sizes = SIZES | dict(model__text__heads=4, model__image__heads=4)
    params = fresh("tiny-siglip", **sizes, **SIGLIP)
    rules = siglip_rules({path: leaf.shape for path, leaf in params.items()})
    assert set(rules) == set(params)
    for path, leaf in params.items():
        assert_drawn(path, leaf, rules[path])


@pytest.mark.full
def test_big_vision_with_a_class_token_has_none_of_its_positions():
    """`cls` is zero, and is put in front of patches that have their positions already."""
    params = fresh("tiny", **SIZES, **WORDS, model__init="big_vision")
    assert not params["image/class_token"].any()
    positions = params["image/position_embedding"]
    assert not positions[0].any()
    assert_drawn("positions", positions[1:], normal(64**-0.5))


# -- rules of 0.02 -----------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_blip2_copies_the_texts_mlp_for_its_queries():
    params = fresh("tiny-qformer", **SIZES, model__text__vocab_size=200, model__init="blip2")
    queries = [path for path in params if "/mlp/" in path and path.startswith("text/")]
    assert len(queries) == 8
    for path in queries:
        np.testing.assert_array_equal(params[path], params[path.replace("/mlp/", "/segment1_mlp/")])
        if path.endswith("kernel"):
            assert_drawn(path, params[path], normal(0.02))
    assert_drawn("queries", params["queries"], normal(0.02))
    assert np.unique(params["text/transformer/cross_layers/block0/mlp/fc1/kernel"][0]).size > 1000


@pytest.mark.full
def test_vilt_has_berts_distribution_outside_its_layers():
    """Also its row of padding: `objectives.init_weights` knows of none."""
    params = fresh("tiny-vilt", model__init="vilt", model__mim=True, model__answers=300)
    for path, leaf in params.items():
        if not path.startswith("image/") and "norm" not in path:
            assert_drawn(path, leaf, 0.0 if path.endswith("bias") else normal(0.02))
    assert params["text/token_embedding"][0].any() and not params["image/mask_token"].any()
