"""Every kind of model with all that it serves: one device, many, and microbatches give one loss and one gradient."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mmjax import tasks
from mmjax.config import parse
from mmjax.config.schema import base_config
from mmjax.data.sources import sensors
from mmjax.data.text import make_tokenizer
from mmjax.errors import UserError
from mmjax.objectives.config import LossConfig
from mmjax.parallel import partition
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from mmjax.parallel.mesh import batch_sharding, to_global, to_host
from mmjax.tasks import batch_losses, per_example_losses
from mmjax.tasks.config_queries import text_length
from mmjax.tasks.objective import BatchFeatures, GlobalBatch, Settings
from mmjax.tasks.preprocessing import DatasetMetadata
from mmjax.training.step import example_keys, make_loss
from tests.helpers import campaign, model_kinds

ROWS = 16
METHODS = {
    "tiny-captioner": dict(caption=1.0),
    "tiny-captioner-lstm": dict(caption=1.0),
    "tiny-blip-vqa": dict(caption=1.0),
    "tiny-blip2": dict(caption=1.0),
    "tiny-coca": dict(itc=1.0, caption=2.0),
    "tiny-albef": dict(itc=1.0, itm=1.0, mlm=1.0, triplet=0.5),
    "tiny-vilt": dict(itm=1.0, mlm=1.0, mim=0.5),
    "tiny-vilt, questions": dict(vqa=1.0),
    "tiny-qformer": dict(itc=1.0, itm=1.0, caption=1.0),
    "tiny-blip": dict(itc=1.0, itm=1.0, caption=1.0),
    "tiny-prefix_lm": dict(caption=1.0),
}
# Each objective at least once; the others compute theirs with the same functions.
OF_ALL_OBJECTIVES = ("tiny-blip-vqa", "tiny-blip2", "tiny-albef", "tiny-vilt, questions")
# Parameters without a gradient, by what their paths begin with; all others have one.
IDLE = {
    # The heads of objectives that it is not trained with.
    "tiny-vilt, questions": ("match_head/", "text/head_"),
}


@functools.cache
def tokenizer(length):
    return make_tokenizer.make_tokenizer("words:shapes", length)


def config_of(method, **changes):
    variant, _, questions = method.partition(", ")
    config = base_config(variant)
    for tower in config.model.values():
        if isinstance(tower, ConfigDict) and "depth" in tower:
            tower.depth = max(1, tower.get("cross_every", 1))
    config.precision = "float32"
    config.batch_size = ROWS
    config.objectives.update(METHODS[method])
    config.data.tokenizer = "words:shapes"
    config.loss.block_size = 4
    if config.objectives.mim:
        config.model.mim = True
    if variant == "tiny-blip-vqa":
        config.data.texts = "answers"
    if questions:
        config.model.answers, config.data.texts = 5, "questions"
    config.update_from_flattened_dict(changes)
    return config


def batch_of(config):
    """Images and captions of random words; three share an id, and texts differ in length."""
    rng = np.random.default_rng(0)
    size, length = config.model.image.image_size, text_length(parse(config))
    words = tokenizer(length)
    lengths = rng.integers(4, 10, ROWS)
    positions = np.arange(length)
    text = rng.integers(6, words.vocab_size, (ROWS, length))
    text[:, 0] = words.bos_id
    text[np.arange(ROWS), lengths - 1] = words.eos_id
    answers = np.broadcast_to(positions > 2, text.shape)
    if config.data.texts == "answers":
        text[:, 2] = words.sep_id
    mask = positions < lengths[:, None]
    batch = {
        "image": rng.integers(0, 256, (ROWS, size, size, 3)).astype(np.uint8),
        "text": np.where(mask, text, words.pad_id).astype(np.int32),
        "text_mask": mask,
        "id": np.stack([np.maximum(np.arange(ROWS), 2), np.zeros(ROWS)], axis=1).astype(np.uint32),
    }
    if config.data.texts == "answers":
        batch["target_mask"] = mask & answers
    if config.objectives.vqa:
        batch["answer"] = rng.choice([0.0, 0.3, 1.0], (ROWS, config.model.answers)).astype(np.float32)
    return batch


def sensed(task):
    """Examples of three modalities, some of which lack one."""
    source, rng = sensors.Sensors("train"), np.random.default_rng(0)
    rows = [task.example_transform(source[i], rng) for i in range(ROWS)]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    batch["present"][3, 0] = batch["present"][8, 1:] = False
    return batch


def outcome(config, shape, random_params):
    """Loss, metrics and gradient, with noise, on a mesh of this shape."""
    config.mesh.update(data=shape[0], fsdp=shape[1], tensor=shape[2])
    mesh = make_mesh(parse(config).mesh, jax.devices()[: shape[0] * shape[1] * shape[2]])
    if "encoders" in config.model:
        facts = tasks.read_dataset_metadata(parse(config), tasks.open_mixture(parse(config)))
        task = tasks.Task(parse(config), None, None, mesh, facts)
        batch = sensed(task)
    else:
        facts = DatasetMetadata(answers=tuple("abcde"))
        words = tokenizer(text_length(parse(config)))
        task = tasks.Task(parse(config), tasks.make_image_spec(parse(config)), words, mesh, facts)
        batch = batch_of(config)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    params = random_params(shapes, std=0.2)
    if "logit_scale" in params:
        params = params | {"logit_scale": np.float32(2.0)}
    shardings, _ = partition.param_shardings(params, mesh, MeshConfig())
    params = jax.tree.map(jax.device_put, params, shardings)
    loss = make_loss(task, config.microbatch, mesh)

    @functools.partial(jax.jit, in_shardings=(shardings, batch_sharding(mesh)))
    def run(params, batch):
        keys = example_keys(jnp.array([3, 4], jnp.uint32), jnp.int32(5), ROWS)
        return jax.value_and_grad(loss, has_aux=True)(params, batch, keys)

    (value, metrics), gradient = run(params, to_global(mesh, batch))
    return float(value), to_host(metrics), to_host(gradient)


def distance(a, b):
    square = lambda tree: sum(float((np.asarray(x, np.float64) ** 2).sum()) for x in jax.tree.leaves(tree))
    return (square(jax.tree.map(lambda x, y: x - y, a, b)) / square(b)) ** 0.5


@pytest.mark.full
@pytest.mark.parametrize("method", campaign.some(list(METHODS), OF_ALL_OBJECTIVES))
def test_meshes_and_microbatches_change_nothing(method, random_params):
    noise = {} if method.endswith("lstm") else {"model.text.dropout": 0.1}
    value, metrics, gradient = outcome(config_of(method, **noise), (1, 1, 1), random_params)
    assert np.isfinite(value) and {f"loss_{name}" for name in METHODS[method]} <= set(metrics)
    leaves, _ = jax.tree_util.tree_flatten_with_path(gradient)
    largest = {jax.tree_util.keystr(path, simple=True, separator="/"): float(np.abs(x).max()) for path, x in leaves}
    assert np.isfinite(list(largest.values())).all()
    idle = {path for path in largest if path.startswith(IDLE.get(method, ()))}
    assert {path for path, top in largest.items() if top < 1e-6} == idle and bool(idle) == (method in IDLE)
    many, sharded_metrics, slopes = outcome(config_of(method, microbatch=2, **noise), (2, 2, 2), random_params)
    assert many == pytest.approx(value, rel=1e-5)
    assert distance(slopes, gradient) <= 1e-5
    for name in metrics:
        assert sharded_metrics[name] == pytest.approx(metrics[name], rel=1e-4, abs=1e-5), name


@pytest.mark.full
@pytest.mark.parametrize("kind", campaign.some(["joint", "concat"], ["concat"]))
def test_several_modalities_on_meshes(kind, random_params):
    """With modality dropout, which hides what it hides whatever the mesh and the microbatch."""
    config = lambda **more: model_kinds.config(f"fusion:{kind}", batch_size=ROWS, **more)
    value, metrics, gradient = outcome(config(model__modality_dropout=0.4), (1, 1, 1), random_params)
    without, _, _ = outcome(config(), (1, 1, 1), random_params)
    assert np.isfinite(value) and abs(value - without) > 1e-3
    many, sharded_metrics, slopes = outcome(config(model__modality_dropout=0.4, microbatch=2), (2, 2, 2), random_params)
    assert many == pytest.approx(value, rel=1e-5) and distance(slopes, gradient) <= 1e-5
    assert {name: float(x) for name, x in sharded_metrics.items()} == pytest.approx(
        {k: float(x) for k, x in metrics.items()}
    )


@pytest.mark.full
def test_memory_of_matching_at_a_batch_of_32768():
    """Negatives of the whole batch cost about a device's own tokens more than local ones; pieces shrink the rest."""
    batch, mesh = 2**15, make_mesh(MeshConfig(data=8, fsdp=1, tensor=1))
    config = config_of("tiny-albef", **{"loss.block_size": 1024})
    task = tasks.Task(
        parse(config), tasks.make_image_spec(parse(config)), tokenizer(config.model.text.context_length), mesh
    )
    abstract = lambda tree, sharding: jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((x.shape[0] * batch // ROWS, *x.shape[1:]), x.dtype, sharding=sharding), tree
    )
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), ROWS))
    params = jax.eval_shape(task.init, jax.random.key(0))
    features, _ = jax.eval_shape(task.encode, params, batch_of(config), keys)
    held = [features[name] for name in ("image_tokens", "text_tokens")]
    feature_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(held)) * batch / ROWS / 8
    words = {name: batch_of(config)[name] for name in ("text", "text_mask", "id")}
    args = (features, words, keys)
    args = [abstract(jax.eval_shape(lambda x: x, value), batch_sharding(mesh)) for value in args]

    def temporaries(scope, pieces):
        chosen = dataclasses.replace(task.settings.loss, itm_negatives=scope)
        settings = dataclasses.replace(task.settings, loss=chosen)

        def loss(params, features, words, keys):
            params = params | {"logit_scale": jnp.log(20.0)}
            model = task.model.bind({"params": params})
            inputs = GlobalBatch(model, params, features, words, words["id"], keys, settings, mesh, pieces=pieces)
            return batch_losses.MATCHING.function(inputs)[0]

        run = jax.jit(jax.grad(loss, argnums=(0, 1), allow_int=True))
        return run.lower(params, *args).compile().memory_analysis().temp_size_in_bytes / feature_bytes

    local, of_mesh = temporaries("local", 1), temporaries("global", 1)
    assert of_mesh - local <= 4 and local > 30
    assert temporaries("global", 8) <= of_mesh / 3


def test_questions_whose_answers_are_not_in_the_list_do_not_count():
    model = types.SimpleNamespace(answer_logits=lambda fused: fused)
    scores = jnp.array([[0.3, 0.0], [0.0, 0.0], [0.0, 1.0]])
    features = BatchFeatures(model, {"answer": scores}, None, None)
    features.fused = jnp.ones((3, 2))
    loss = per_example_losses.answer(features, Settings(LossConfig()))
    assert loss.count.tolist() == [1, 0, 1] and loss.total[1] == 0 and loss.total[0] > 0


def test_objectives_can_be_run_without_the_others():
    config = config_of("tiny-vilt")
    task = tasks.Task(parse(config), tasks.make_image_spec(parse(config)), tokenizer(config.model.text.context_length))
    params = jax.eval_shape(task.init, jax.random.key(0))
    encode = lambda params, batch: task.encode(params, batch, None, only=("mlm", "mim"))
    features, additive = jax.eval_shape(encode, params, batch_of(config))
    assert features == {} and set(additive) == {"mlm", "mim"}


@pytest.mark.parametrize(
    "method, changes, message",
    [
        (
            "tiny-captioner",
            {"objectives.itc": 1.0},
            "serves embeddings; objectives of model.kind='captioner' are caption",
        ),
        ("tiny-blip-vqa", {"data.texts": "captions"}, "data.texts='captions': model.question reads questions; set"),
        ("tiny-blip-vqa", {"model.text.sep_id": None}, "model.question needs to know where questions end; set model"),
        (
            "tiny-blip-vqa",
            {"model.question.vocab_size": 63},
            "vocab_size=63 is not model.text.vocab_size=64, whose ids",
        ),
        ("tiny-blip-vqa", {"model.question.context_length": 9}, "context_length=9 is less than model.text.context_l"),
        ("tiny-blip2", {"model.qformer.cross_every": 0}, "model.qformer.cross_every=0 would leave the image unseen"),
        ("tiny-blip2", {"data.context_length": 17}, "context_length=20, less the 4 queries of model.qformer; lower it"),
        ("tiny-blip2", {"model.qformer.queries": 19}, "leaves no room for a text behind the 19 queries of model.qform"),
        ("tiny-vilt", {"model.match": False}, "objectives.itm=1.0 needs the head model.match, which is False"),
        ("tiny-vilt", {"data.texts": "questions"}, "data.texts='questions' does not go with objectives.itm"),
        ("tiny-captioner", {"loss.label_smoothing": 1.0}, "loss.label_smoothing=1.0 is not in [0, 1)"),
        ("tiny-albef", {"data.tokenizer": "bytes"}, "needs a tokenizer with a mask token"),
        (
            "tiny-vilt, questions",
            {"objectives.itm": 1.0},
            "objectives.itm=1.0 does not go with objectives.vqa; set one",
        ),
        ("tiny-qformer", {"loss.impl": "ring"}, "loss.impl='ring' does not go with model.kind='qformer' (several vect"),
        ("tiny-albef", {"loss.impl": "gather"}, "loss.impl='gather' does not go with objectives.triplet; set 'dense'"),
        ("tiny-coca", {"loss.contrastive_smoothing": 1.0}, "loss.contrastive_smoothing=1.0 is not in [0, 1)"),
        (
            "tiny-coca",
            {"loss.contrastive_smoothing": 0.1, "loss.impl": "ring"},
            "loss.impl='ring' does not go with loss.contrastive_smoothing=0.1; set 'dense'",
        ),
        (
            "tiny-captioner",
            {"decoding.max_tokens": 21},
            "model.text.context_length=20 has room for 20 after a prompt of",
        ),
        (
            "tiny-prefix_lm",
            {"data.texts": "answers", "data.context_length": 16, "decoding.max_tokens": 7},
            "decoding.max_tokens=7: model.text.context_length=20 has room for 6 after a prompt of up to 15; lower it",
        ),
    ],
)
def test_what_does_not_go_together_is_reported(method, changes, message):
    config = config_of(method, **changes)
    words = make_tokenizer.make_tokenizer(config.data.tokenizer, 8)
    with pytest.raises(UserError) as error:
        tasks.Task(parse(config), tasks.make_image_spec(parse(config)), words)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, texts, length, tokens",
    [
        ("tiny-prefix_lm", "captions", 0, 19),
        ("tiny-prefix_lm", "answers", 0, 2),
        ("tiny-prefix_lm", "answers", 16, 6),
        ("tiny-blip2", "captions", 0, 15),
        ("tiny-blip2", "answers", 12, 6),
        ("tiny-blip-vqa", "answers", 0, 19),  # an answer's positions are its own
    ],
)
def test_what_is_written_stays_within_the_positions(name, texts, length, tokens):
    config = config_of(name, **{"data.texts": texts, "data.context_length": length})
    words = tasks.make_tokenizer(parse(config))
    decoding = tasks.Task(parse(config), tasks.make_image_spec(parse(config)), words).decoding(words)
    assert decoding.max_tokens == tokens


def test_the_separator_is_the_tokenizers():
    config = config_of("tiny-prefix_lm", **{"model.prefix_text": True})
    with pytest.raises(UserError, match="ends questions with id 5, but model.text.sep_id=None; set that to 5"):
        tasks.make_tokenizer(parse(config))
    config.model.text.update(sep_id=5, vocab_size=300)
    assert tasks.make_tokenizer(parse(config)).sep_id == 5
    config.data.tokenizer = "bytes"
    with pytest.raises(UserError, match="'bytes' has no separator, by which model.prefix_text=True tells"):
        tasks.make_tokenizer(parse(config))
    config = config_of("tiny-blip-vqa", **{"data.tokenizer": "bytes", "model.text.vocab_size": 300})
    with pytest.raises(UserError, match="by which model.question tells where a question ends; leave that out"):
        tasks.make_tokenizer(parse(config))


def test_contrast_is_smoothed_as_the_config_says():
    rows = np.random.default_rng(0).normal(size=(2, ROWS, 4)).astype(np.float32)
    image, text = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    config = config_of("tiny-coca", **{"loss.contrastive_smoothing": 0.2})
    params = {"logit_scale": jnp.float32(np.log(3.0))}
    loss, _ = tasks.Task(parse(config), tasks.make_image_spec(parse(config)), tokenizer(20)).contrastive_loss(
        params, jnp.asarray(image), jnp.asarray(text), None
    )
    logits = 3.0 * image.astype(np.float64) @ text.T
    target = 0.8 * np.eye(ROWS) + 0.2 / ROWS
    log_softmax = lambda x: x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    want = -np.mean([(target * log_softmax(x)).sum(axis=1).mean() for x in (logits, logits.T)])
    np.testing.assert_allclose(float(loss), want, rtol=1e-5)
