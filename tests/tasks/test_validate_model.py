"""Mistakes in a model's settings: one line each, before anything is compiled."""

import jax
import pytest

from mmjax import tasks
from mmjax.config import overrides, parse, recipe, schema
from mmjax.errors import UserError
from mmjax.tasks import validate_fusion
from mmjax.training import validate_run
from tests.helpers import model_kinds

LAYERS = dict(width=8, depth=1, heads=2, mlp_dim=8)
ENCODERS = {
    "image": dict(kind="image", image_size=8, patch_size=4, **LAYERS),
    "series": dict(kind="series", steps=6, patch_length=2, **LAYERS),
    "sound": dict(kind="audio", frames=8, mel_bins=4, patch_size=(4, 4), **LAYERS),
    "speech": dict(kind="features", width=8, context_length=3),
    "table": dict(kind="table", numeric=2, categories=(3,), **LAYERS),
    "text": dict(kind="text", vocab_size=9, context_length=4, mask_padding=True, **LAYERS),
    "video": dict(kind="video", frames=4, image_size=8, patch_size=4, **LAYERS),
}
SHAPES = dict(
    image=(8, 8, 3), series=(6, 2), sound=(8, 4), speech=(3, 5), table=(3,), text=(4,), video=(4, 8, 8, 3)
)  # fmt: skip
LATE = dict(kind="late", combine="product")
CONCAT = dict(kind="concat", width=8)


def error_line(function, *args):
    """The mistake's one line."""
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def check(config):
    tasks.check_model(parse(config))


def check_run(config):
    validate_run.check_config(parse(config))


def check_arrays(settings, shapes):
    validate_fusion.check_arrays("model.encoders.", parse(fused_config(settings)).model.encoders, shapes)


def fused(name, fusion=None, **changes):
    """Settings of a model with one encoder, some of whose settings are changed."""
    return dict(kind="fused", encoders={name: ENCODERS[name] | changes}, fusion=fusion or LATE, classes=5)


def fused_config(settings):
    config = recipe.load_recipe("fusion")
    with config.unlocked():
        config.model = schema.ConfigDict(settings)
    return config


WHOLE = [
    ("tiny-captioner", dict(model__text__cross_every=3), "model.text.cross_every=3 does not divide the 2 layers from"),
    ("tiny-captioner", dict(model__text__cross_every=-1), "model.text.cross_every=-1 would leave the image unseen"),
    ("tiny-captioner", dict(model__text__cross_from=-1), "model.text.cross_from=-1 is none of the 2 layers"),
    ("tiny-captioner", dict(model__text__cross_from=2), "one must look at the image; choose 0 to 1"),
    ("tiny-qformer", dict(model__text__cross_every=3), "model.text.cross_every=3 does not divide the 2 layers from"),
    ("tiny-qformer", dict(model__text__cross_from=2), "model.text.cross_from=2 is none of the 2 layers"),
    ("tiny-coca", dict(model__text__cross_every=1), "model.text.cross_every=1: the text tower of model.kind='coca'"),
    ("tiny-captioner", dict(model__text__norm="mid"), "model.text.norm='mid' is not known; choose one of: pre, post"),
    ("tiny-albef", dict(model__fusion__norm="pots"), "model.fusion.norm='pots' is not known (did you mean 'post'?)"),
    (
        "tiny-captioner",
        dict(model__text__norm="post", model__text__cross_mlp=True),
        "model.text.cross_mlp=True does not go with model.text.norm='post'; set model.text.norm='pre'",
    ),
    ("tiny-captioner", dict(model__text__head="foo"), "model.text.head='foo' is not known; choose one of: none, t"),
    ("tiny-prefix_lm", dict(model__text__head="none"), "model.text.head='none' writes no words; choose one of: tied"),
    ("tiny-vilt", dict(model__text__heads=2), "model.text.heads is no field (did you mean 'head_bias'?); remove it"),
    ("tiny-vilt", dict(model__image__patch_size=7), "model.image.patch_size=7; change one of them"),
    ("tiny-coca", dict(model__decoder__heads=3), "model.decoder.heads=3 does not divide model.text.width=32; choose"),
    ("tiny-coca", dict(model__decoder__heads=64), "model.decoder.heads=64 does not divide model.text.width=32"),
    ("tiny-albef", dict(model__fusion__heads=3), "model.fusion.heads=3 does not divide model.text.width=32; choose"),
    ("tiny-albef", dict(mesh__tensor=2, model__fusion__heads=1), "mesh.tensor=2 does not divide model.fusion.heads=1"),
    ("tiny", dict(model__text__vocab_size=10**12), "model.text.vocab_size=1,000,000,000,000 is more than 10,000,000"),
    ("tiny", dict(model__image__depth=1001), "model.image.depth=1,001 is more than 1,000"),
    ("tiny", dict(model__image__image_size=4004, model__image__patch_size=4), "has 1,002,001 patches of model.image.p"),
    ("tiny", dict(model__image__scan="maybe"), "model.image.scan='maybe' wants true, false or auto"),
    ("tiny", dict(model__image__remat="dotz"), "model.image.remat='dotz' is not known (did you mean 'dots'?)"),
    ("tiny", dict(model__text__remat_keep=2), "model.text.remat_keep=2 has no use with model.text.remat='auto'; set"),
    ("tiny-albef", dict(model__text__remat_keep=-1), "model.text.remat_keep=-1 must not be negative"),
    ("tiny", dict(objectives__itc=float("inf")), "objectives.itc=inf must be finite"),
    ("tiny", dict(loss__triplet_margin=-0.1), "loss.triplet_margin=-0.1 must not be negative"),
    ("fusion:joint", dict(attention="cudnn"), "attention='cudnn': model.kind='fused' runs on XLA's kernel alone; set"),
    ("fusion:bottleneck", dict(model__fusion__bottlenecks=0), "model.fusion.bottlenecks=0 must be at least 1"),
    ("fusion:joint", dict(model__encoders__image__image_size=18), "model.encoders.image.image_size=18 is not a multip"),
]


@pytest.mark.parametrize("name, changes, message", WHOLE)
def test_a_mistake_in_the_settings_is_reported_in_one_line(name, changes, message):
    config = model_kinds.config(name, data__train="shapes", **changes)
    assert message in error_line(check, config)
    checked = error_line(check_run, config)
    assert message in checked or "bottlenecks=0 must be at least 1" in checked


@pytest.mark.parametrize("impl", ["ring", "gather"])
@pytest.mark.parametrize("objective", ["itc", "sigmoid"])
def test_several_vectors_an_image_are_contrasted_densely(impl, objective):
    config = model_kinds.config("tiny-qformer", loss__impl=impl, model__logit_bias_init=-10.0)
    config.objectives.update(dict(itc=0.0) | {objective: 1.0})
    assert f"loss.impl={impl!r} does not go with model.kind='qformer' (several vectors" in error_line(check, config)
    config.loss.impl = "dense"
    check(config)


@pytest.mark.parametrize("caption_id", [64, -1])
def test_the_token_that_begins_captions_is_one_of_the_table(caption_id):
    task = model_kinds.task(model_kinds.config("tiny-qformer", model__caption_id=caption_id))
    message = error_line(jax.eval_shape, task.init, jax.random.key(0))
    assert f"model.caption_id={caption_id} is none of the 64 ids of model.text.vocab_size; choose one" in message


def test_a_part_that_lacks_a_setting_is_reported_in_one_line():
    config = model_kinds.config("tiny-coca")
    with config.unlocked():
        del config.model.decoder["mlp_dim"]
    assert "model.decoder.mlp_dim is missing; set it" in error_line(check, config)


@pytest.mark.parametrize("precision", ["default", "highest"])
def test_triplets_are_compared_as_precisely_as_the_config_says(precision):
    config = model_kinds.config("tiny", loss__precision=precision)
    config.objectives.update(itc=0.0, triplet=1.0)
    task = tasks.Task(parse(config), tasks.make_image_spec(parse(config)))
    rows = jax.ShapeDtypeStruct((4, 8), "float32")
    made = jax.make_jaxpr(lambda image, text: task.contrastive_loss({}, image, text, None)[0])(rows, rows)
    assert ("HIGHEST" in str(made)) == (precision == "highest")


OF_ENCODERS = [
    (
        "image",
        dict(patch_size=3),
        "model.encoders.image.image_size=8 is not a multiple of model.encoders.image.patch_s",
    ),
    (
        "video",
        dict(patch_size=3),
        "model.encoders.video.image_size=8 is not a multiple of model.encoders.video.patch_s",
    ),
    (
        "video",
        dict(frames=5),
        "model.encoders.video.frames=5 is not a multiple of model.encoders.video.tubelet_frames=2",
    ),
    ("video", dict(tubelet_init="foo"), "model.encoders.video.tubelet_init='foo' is not known; choose one of: normal,"),
    ("video", dict(positions="foo"), "model.encoders.video.positions='foo' is not known; choose one of: factorised,"),
    ("sound", dict(patch_size=(4, 4, 4)), "model.encoders.sound.patch_size=(4, 4, 4) wants a tuple of 2 integers"),
    ("sound", dict(stride=(0, 1)), "model.encoders.sound.stride=(0, 1) wants two sizes of at least 1"),
    ("sound", dict(mel_bins=3), "model.encoders.sound.mel_bins=3 is less than a patch of model.encoders.sound.patch"),
    ("speech", dict(depth=2), "model.encoders.speech.mlp_dim=0, but its layers have an MLP each; set it to 1 or more"),
    ("speech", dict(width=7, heads=2), "model.encoders.speech.heads=2 does not divide model.encoders.speech.width=7"),
    ("table", dict(categories=(3, 0)), "model.encoders.table.categories=(3, 0) wants 1 or more categories of each"),
    ("text", dict(mask_padding=False), "set model.encoders.text.mask_padding=True"),
    ("text", dict(kind="texts"), "model.encoders.text.kind='texts' is not known (did you mean 'text'?)"),
    (
        "series",
        dict(stepz=1),
        "model.encoders.series.stepz is no field (did you mean 'steps'?); remove it",
    ),
]


@pytest.mark.parametrize("name, changes, message", OF_ENCODERS)
def test_a_mistake_in_an_encoder_is_reported_in_one_line(name, changes, message):
    assert message in error_line(check, fused_config(fused(name, **changes)))


OF_FUSIONS = [
    ("text", CONCAT | dict(pool="cls"), "model.encoders.text has no class token; set model.fusion.pool='mean'"),
    (
        "speech",
        LATE | dict(pool="cls"),
        "no class token; set model.encoders.speech.class_token=True or model.fusion.pool='mean'",
    ),
    ("series", dict(kind="late", pool="clss"), "model.fusion.pool='clss' is not known (did you mean 'cls'?)"),
    ("series", CONCAT | dict(pool="map", pool_heads=3), "model.fusion.pool_heads=3 does not divide model.encoders.ser"),
    (
        "text",
        LATE | dict(kind="hybrid", fusion=CONCAT | dict(pool="cls")),
        "model.fusion.fusion.pool='cls', but model.encoders.text has no class token; set model.fusion.fusion.pool=",
    ),
    ("text", dict(kind="concat", widht=8), "model.fusion.widht is no field (did you mean 'width'?); remove it"),
]


@pytest.mark.parametrize("name, fusion, message", OF_FUSIONS)
def test_a_mistake_in_a_fusion_is_reported_in_one_line(name, fusion, message):
    assert message in error_line(check, fused_config(fused(name, fusion)))


def test_a_class_token_without_layers_sees_nothing():
    series = fused("series", CONCAT | dict(pool="cls"))
    check(fused_config(series))
    series["encoders"]["series"] |= dict(depth=0)
    message = "model.fusion.pool='cls', but with model.encoders.series.depth=0 its class token sees nothing; set"
    assert message in error_line(check, fused_config(series))


def test_modalities_and_encoders_belong_together():
    assert "model.encoders={} is empty" in error_line(check, fused_config(fused("text") | dict(encoders={})))
    settings = fused("series") | dict(image=dict(image_size=8))
    assert "model.encoders has no 'image'; remove it or add" in error_line(check, fused_config(settings))


def test_tokens_that_are_not_pooled_need_no_class_token():
    joint = dict(kind="joint", pool="cls", pool_heads=3, **LAYERS)
    check(fused_config(fused("text", joint)))


OF_DATA = [
    (
        "series",
        {},
        (6,),
        "model.encoders.series reads arrays of (steps, channels), but those of data.train are of shape",
    ),
    ("sound", {}, (8, 4, 2), "model.encoders.sound reads arrays of (frames, mel bins), but those of data.train are"),
    ("sound", {}, (3, 4), "model.encoders.sound.patch_size=(4, 4) is more than the 3x4 of data.train; choose a small"),
    ("image", {}, (8, 6, 3), "model.encoders.image.patch_size=4 does not divide the 8x6 pixels of data.train"),
    ("image", dict(crop_to_patches=True), (8, 3, 3), "model.encoders.image.patch_size=4 is more than the 8x3 of"),
    ("video", {}, (5, 8, 8, 3), "model.encoders.video.tubelet_frames=2 does not divide the 5 frames of data.train"),
    ("video", {}, (4, 8, 6, 3), "model.encoders.video.patch_size=4 does not divide the 8x6 pixels of data.train; ch"),
    ("table", {}, (4,), "model.encoders.table.categories make 3 columns, but data.train has 4; give each column one"),
    ("text", {}, (5,), "model.encoders.text.context_length=4 is less than the 5 tokens of data.train; set it to 5"),
    ("speech", {}, (4, 5), "model.encoders.speech.context_length=3 is less than the 4 tokens of data.train; set it to"),
]


@pytest.mark.parametrize("name, changes, shape, message", OF_DATA)
def test_data_that_an_encoder_cannot_read_are_reported_in_one_line(name, changes, shape, message):
    assert message in error_line(check_arrays, fused(name, **changes), {name: shape})


def test_training_compares_encoders_with_its_data():
    config = recipe.load_recipe("fusion")
    config.model.encoders.table.numeric = 1
    check(config)
    assert "columns, but data.train has 6; give" in error_line(
        tasks.read_dataset_metadata, parse(config), tasks.open_mixture(parse(config))
    )


def test_what_fits_is_not_refused():
    settings = dict(kind="fused", encoders=ENCODERS, fusion=LATE, classes=5)
    check(fused_config(settings))
    check_arrays(settings, SHAPES)
    check_arrays(fused("speech"), {"speech": (5,)})
    check_arrays(fused("sound"), {"sound": (9, 4, 1)})
    check_arrays(fused("image", crop_to_patches=True), {"image": (9, 8, 3)})


@pytest.mark.parametrize(
    "name, changes", [("speech", dict(depth=0, context_length=0, mlp_dim=0)), ("series", dict(depth=0))]
)
def test_documented_zeros_are_accepted(name, changes):
    check_run(fused_config(fused(name, **changes)))


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("series", dict(mlp_dim=0), "model.encoders.series.mlp_dim=0 must be at least 1"),
        ("text", dict(depth=0), "model.encoders.text.depth=0 must be at least 1"),
        ("text", dict(context_length=0), "model.encoders.text.context_length=0 must be at least 1"),
        ("speech", dict(depth=-1), "model.encoders.speech.depth=-1 must not be negative"),
        ("speech", dict(hidden=-1), "model.encoders.speech.hidden=-1 must not be negative"),
        ("video", dict(tubelet_frames=0), "model.encoders.video.tubelet_frames=0 must be at least 1"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(name, changes, message):
    assert message in error_line(check_run, fused_config(fused(name, **changes)))


# -- fields without a use, and decoding, which is checked whatever the model does --------------------------------------


def changed(spec, changes):
    config = recipe.load_recipe(spec)
    overrides.apply(config, [change.split("=") for change in changes.split()])
    return config


@pytest.mark.parametrize(
    "spec, changes, message",
    [
        ("fusion", "data.blind=True", "data.blind=True: model.kind='fused' is given modalities"),
        ("fusion", "eval.meteor=True", "eval.meteor=True: .* objectives.classify writes no captions; set it to False"),
        ("albef", "eval.meteor=True", "eval.meteor=True: .* objectives.itc, itm, mlm writes no captions"),
        ("coca:caption=0", "eval.meteor=True", "eval.meteor=True: .* objectives.itc writes no captions"),
        ("vqa", "eval.meteor=True", "eval.meteor=True: .* objectives.caption writes answers, not captions"),
        ("fusion", "decoding.method=bem", "decoding.method='bem' is not known .did you mean 'beam'"),
        ("albef", "decoding.temperature=1e-7", "decoding.temperature=1e-07 is out of range: .*1e-6 or more"),
        ("quickstart", "decoding.beams=0", "decoding.beams=0 is out of range"),
        ("albef", "decoding.max_tokens=4 decoding.min_tokens=5", "decoding.min_tokens=5 is out of range"),
        ("captioner", "decoding.max_tokens=-1", "decoding.max_tokens=-1 must not be negative"),
        ("albef", "decoding.min_tokens=-1", "decoding.min_tokens=-1 must not be negative"),
    ],
)
def test_what_a_model_has_no_use_for_is_refused(spec, changes, message):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        check(changed(spec, changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec, changes",
    [
        ("captioner", "eval.meteor=True data.blind=True decoding.min_tokens=5"),
        ("coca", "eval.meteor=True decoding.method=beam"),
        ("vqa:blind=True", "decoding.method=sample"),
        ("quickstart", "data.blind=True decoding.min_tokens=5"),
    ],
)
def test_what_it_has_is_not(spec, changes):
    check(changed(spec, changes))


def test_positives_by_text_need_texts():
    config = fused_config(fused("series"))
    check(config)
    config.data.positives = "text"
    message = error_line(check, config)
    assert "data.positives='text'" in message and "model.kind='fused'" in message
