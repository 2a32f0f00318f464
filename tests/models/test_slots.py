"""Encoders in the slots of models: what they are made of, what a model sees through them, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import tasks
from mmjax.config import parse
from mmjax.config.schema import base_config, set_group
from mmjax.errors import UserError
from mmjax.models import make_model, slots, two_tower
from mmjax.models.encoders import Encoded

LAYERS = dict(width=8, depth=1, heads=2, mlp_dim=16)
SLOTS = {
    "video": (dict(kind="video", frames=4, image_size=8, patch_size=4, **LAYERS), (4, 8, 8, 3)),
    "audio": (dict(kind="audio", frames=8, mel_bins=4, patch_size=(4, 4), **LAYERS), (8, 4)),
    "series": (dict(kind="series", steps=6, patch_length=2, **LAYERS), (6, 3)),
    "table": (dict(kind="table", numeric=2, categories=(3,), **LAYERS), (3,)),
}
FEATURES = dict(kind="features", width=8), (5, 7)
MODELS = {
    "tiny-captioner": dict(caption=1.0),
    "tiny-captioner-lstm": dict(caption=1.0),
    "tiny-coca": dict(itc=1.0, caption=2.0),
    "tiny-albef": dict(itc=1.0, itm=1.0, mlm=1.0),
    "tiny-qformer": dict(itc=1.0, itm=1.0, caption=1.0),
    "tiny-prefix_lm": dict(caption=1.0),
}
QUICK = ("tiny-captioner", "tiny-captioner-lstm", "tiny-prefix_lm")
CASES = [
    pytest.param(name, slot, marks=[] if name in QUICK else pytest.mark.full)
    for name, slot in zip(MODELS, [*SLOTS, "audio", "video"], strict=True)
]


def config_of(name, slot, **changes):
    """The config of a size with another slot than `image` filled."""
    settings, _ = SLOTS[slot]
    config = base_config(name)
    set_group(config, "model", config.model.to_dict() | {"image": None, slot: settings | changes})
    config.objectives.update(MODELS[name])
    config.precision = "float32"
    config.data.tokenizer = "words:shapes"
    return config


def task_of(config):
    shapes = tuple((slot, shape) for slot, (_, shape) in SLOTS.items() if config.model.get(slot) is not None)
    tokenizer = tasks.make_tokenizer(parse(config))
    return tasks.Task(parse(config), None, tokenizer, None, tasks.DatasetMetadata(shapes=shapes))


def batch_of(task, rows=4):
    rng = np.random.default_rng(0)
    arrays = {
        spec.name: rng.standard_normal((rows, *spec.shape)).astype(np.float32) for spec in task.input_specs.others
    }
    if "table" in arrays:
        arrays["table"][:, 2] = rng.integers(0, 3, rows)
    ids, mask = task.settings.tokenizer(["a red ring", "a blue square", "a ring", "two green circles"])
    return arrays | {
        "text": ids,
        "text_mask": mask,
        "id": np.stack([np.arange(rows), np.zeros(rows)], 1).astype(np.uint32),
    }


@pytest.mark.parametrize(("name", "slot"), CASES)
def test_a_model_sees_what_is_in_its_slot(name, slot):
    """Its loss has a gradient by every parameter of the tower, which has the slot's name."""
    task = task_of(config_of(name, slot))
    batch = jax.tree.map(jnp.asarray, batch_of(task))
    params = task.init(jax.random.key(0))
    assert slot in params and "image" not in params and task.seen == slot

    def total(params):
        features, sums = task.encode(params, batch, None)
        loss, _ = task.loss(params, features, batch)
        return loss + sum(jnp.sum(one.total / one.count) for one in sums.values())

    gradients = jax.jit(jax.grad(total))(params)
    moved = {jax.tree_util.keystr(path) for path, x in jax.tree_util.tree_leaves_with_path(gradients[slot]) if x.any()}
    frozen = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(gradients[slot])} - moved
    # ALBEF and prefix LMs read one token or all but the class token, so a last layer's unread parts may stand still.
    assert moved and all("class_token" in path or "query" in path for path in frozen), frozen


@pytest.mark.parametrize("name", QUICK)
def test_what_a_series_lacks_changes_nothing(name):
    task = task_of(config_of(name, "series"))
    params, batch = task.init(jax.random.key(0)), batch_of(task)
    encode = jax.jit(lambda x: task.model.apply({"params": params}, x, method="encode_image"))
    lacking = batch["series"].copy()
    lacking[:, 4:] = np.nan
    encoded = encode(lacking)
    assert encoded.valid is not None and np.isfinite(np.asarray(encoded.tokens)[np.asarray(encoded.valid)]).all()
    assert encoded.valid.sum() == 4 * (encoded.valid.shape[1] - 1)


def towers(slots_filled, **fields):
    text = dict(base_config("tiny").model.text, eos_id=2)
    filled = {name: SLOTS[name][0] | dict(class_token=False) for name in slots_filled if name != "text"}
    text = {"text": text} if "text" in slots_filled else {}
    return dict(kind="two_tower", embed_dim=8, **filled, **text, **fields)


@pytest.mark.parametrize("filled", [("video", "text"), ("video", "audio"), ("audio", "series", "table", "text")])
def test_towers_of_any_modalities(filled):
    config = base_config("tiny")
    set_group(config, "model", towers(filled))
    config.objectives.itc, config.precision, config.data.tokenizer = 1.0, "float32", "words:shapes"
    shapes = tuple((name, SLOTS[name][1]) for name in filled if name != "text")
    tokenizer = tasks.make_tokenizer(parse(config))
    task = tasks.Task(parse(config), None, tokenizer, None, tasks.DatasetMetadata(shapes=shapes))
    params = task.init(jax.random.key(0))
    assert params.keys() == {"logit_scale", *filled, *(f"{name}_head" for name in filled)}
    rng = np.random.default_rng(0)
    batch = {name: rng.standard_normal((4, *shape)).astype(np.float32) for name, shape in shapes}
    batch["id"] = np.stack([np.arange(4), np.zeros(4)], 1).astype(np.uint32)
    if "text" in filled:
        batch["text"], batch["text_mask"] = tokenizer(["a red ring", "a blue square", "a ring", "a green circle"])
    batch = jax.tree.map(jnp.asarray, batch)
    features, _ = task.encode(params, batch, None)
    assert features.keys() == set(filled)
    for rows in features.values():
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    loss, metrics = task.loss(params, features, batch)
    pairs = [(a, b) for i, a in enumerate(filled) for b in filled[i + 1 :]]

    def cross_entropy(x, y):  # float64, by hand
        logits = np.exp(np.float64(params["logit_scale"])) * np.asarray(x, np.float64) @ np.asarray(y, np.float64).T
        rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        columns = logits - np.log(np.exp(logits).sum(axis=0, keepdims=True))
        return -(np.diag(rows).mean() + np.diag(columns).mean()) / 2

    expected = np.mean([cross_entropy(features[a], features[b]) for a, b in pairs])
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert ("accuracy" in metrics) == (len(pairs) == 1)
    assert len(pairs) == 1 or {f"accuracy_{a}_{b}" for a, b in pairs} <= metrics.keys()


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("video+sound", "'video+sound' is not NAME+NAME or NAME+NAME@WEIGHT of two of video, audio, text"),
        ("video+video", "'video+video' is not"),
        ("video+audio@0", "with a weight above 0"),
        ("video+audio,audio+video@2", "has video+audio twice"),
        ("video+audio", "leaves model.text untrained"),
    ],
)
def test_pairs_that_make_no_sense(pairs, message):
    with pytest.raises(UserError) as caught:
        two_tower.contrasted_pairs(pairs, ("video", "audio", "text"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_pairs_have_the_order_of_the_modalities_and_their_weights():
    pairs = two_tower.contrasted_pairs("text+video, audio+video@.5", ("video", "audio", "text"))
    assert pairs == [("video", "text", 1.0), ("video", "audio", 0.5)]
    assert two_tower.contrasted_pairs("", ("image", "text")) == [("image", "text", 1.0)]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (towers(("video",)), "contrasts two or more of image, video, audio, series, table, text; filled: video"),
        (towers(("video", "audio"), pairs="video+text"), "'video+text' is not NAME+NAME"),
        (
            towers(("video",)) | {"audio": SLOTS["video"][0] | dict(class_token=False)},
            "model.audio.kind='video' reads (frames, height, width, channels), not audio; choose one of: audio,",
        ),
        (
            towers(("audio",)) | {"video": SLOTS["video"][0] | dict(kind="frames", pool="cls")},
            "model.video.pool='cls' would read the first frame alone; set model.video.pool='mean' or 'map'",
        ),
        (
            towers(("audio",)) | {"video": SLOTS["video"][0] | dict(kind="frames", class_token=False)},
            "model.video.frame_pool='cls' takes the class token, and model.video.class_token=False; set that to True",
        ),
        (
            towers(("video",)) | {"audio": SLOTS["audio"][0] | dict(class_token=False, projection="none", width=16)},
            "model.audio.projection='none' needs model.audio.width=16 to equal model.embed_dim=8",
        ),
    ],
)
def test_towers_that_make_no_sense(model, message):
    config = base_config("tiny")
    set_group(config, "model", model)
    config.objectives.itc = 1.0
    with pytest.raises(UserError) as caught:
        tasks.check_model(parse(config))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "sees one of image, video, audio, series, table; filled: model.image and model.audio; fill one"),
        ({"image": None, "audio": None}, "sees one of image, video, audio, series, table; filled: none; fill one"),
    ],
)
def test_a_captioner_sees_one_thing(change, message):
    config = base_config("tiny-captioner")
    set_group(config, "model", config.model.to_dict() | {"audio": SLOTS["audio"][0]} | change)
    config.objectives.caption = 1.0
    with pytest.raises(UserError) as caught:
        tasks.check_model(parse(config))
    assert message in str(caught.value)


def test_features_fill_any_slot():
    settings, shape = FEATURES
    module = slots.make_encoder("model.audio", "audio", settings)
    x = jnp.ones((2, *shape)).at[0, 3:].set(jnp.nan)
    encoded, _ = module.init_with_output(jax.random.key(0), x, slots.real_rows(x))
    assert isinstance(encoded, Encoded) and encoded.valid.tolist() == [[True] * 3 + [False] * 2, [True] * 5]


def test_two_towers_of_images_and_texts_are_as_they_were():
    model = make_model.make_model(_clip_settings(), jnp.float32, {})
    assert model.modalities == ("image", "text") and model.contrasted == [("image", "text", 1.0)]


def _clip_settings():
    settings = base_config("tiny").model.to_dict()
    return {name: value for name, value in settings.items() if name not in ("init", "max_logit_scale")}
