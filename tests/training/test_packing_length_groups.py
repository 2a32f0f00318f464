"""Training on texts in groups of like lengths is training on padded ones: values, gradients, losses, after restarts."""

import functools
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from mmjax import tasks
from mmjax.config import parse, recipe, schema
from mmjax.data.loading.length_groups import LengthGrouper
from mmjax.data.text import make_tokenizer
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.make_mesh import make_mesh
from mmjax.tasks.config_queries import text_length
from mmjax.training import build_step
from mmjax.training import step as step_lib
from tests.helpers import campaign, mesh_steps, processes, runs, text_runs

FULL = pytest.mark.full
BATCH, ANSWERS = 32, 5

# By name: a size, its objectives, and what else is changed.
CASES = {
    "captioner": ("tiny-captioner", ("caption",), {}),
    "captioner, dropout": ("tiny-captioner", ("caption",), {"text.dropout": 0.2, "text.drop_path": 0.2}),
    "BERT": ("tiny-captioner", ("caption",), {"text.norm": "post", "text.head": "mlm", "text.embedding_norm": True}),
    "lstm": ("tiny-captioner-lstm", ("caption",), {"text.dropout": 0.2, "image.dropout": 0.2}),
    "coca": ("tiny-coca", ("caption", "itc"), {"decoder.dropout": 0.2}),
    "prefix_lm": ("tiny-prefix_lm", ("caption",), {"text.dropout": 0.2}),
    "llava": ("tiny-prefix_lm", ("caption",), {"prefix": "causal", "feature_layer": -2}),
    "answers": ("tiny-prefix_lm", ("caption",), {"text.sep_id": 5, "prefix_text": True}),
    "blip, answers": ("tiny-blip-vqa", ("caption",), {"question.dropout": 0.2, "text.dropout": 0.2}),
    "blip2": ("tiny-blip2", ("caption",), {"qformer.dropout": 0.2, "text.dropout": 0.2}),
    "qformer": ("tiny-qformer", ("caption",), {"text.dropout": 0.2}),
    "qformer, all": ("tiny-qformer", ("caption", "itc", "itm"), {"text.dropout": 0.2}),
    "qformer, vqa": ("tiny-qformer", ("vqa",), {"answers": ANSWERS}),
    "albef": ("tiny-albef", ("itc", "itm", "mlm"), {"text.dropout": 0.2, "fusion.dropout": 0.2}),
    "albef, vqa": ("tiny-albef", ("vqa",), {"answers": ANSWERS}),
    "vilt": ("tiny-vilt", ("itm", "mlm", "mim"), {"mim": True, "text.dropout": 0.2, "image.drop_path": 0.2}),
    "vilt, vqa": ("tiny-vilt", ("vqa",), {"answers": ANSWERS}),
}
SETTINGS = [(case, mesh, 2) for case in CASES for mesh in ((1, 1, 1), (8, 1, 1))]
SETTINGS += [(case, mesh, 1) for case in ("captioner, dropout", "albef") for mesh in ((1, 1, 1), (2, 2, 2))]
SETTINGS += [(case, (1, 1, 1), 1) for case in ("qformer", "vilt")]
# One case of a kind of model, and meshes with what compiles quickly; all of them under `make campaign`.
OF_ALL_KINDS = [(kind, (1, 1, 1), 1) for kind in ("albef", "vilt")]
OF_ALL_KINDS += [("lstm", (1, 1, 1), 2), ("coca", (8, 1, 1), 2), ("captioner, dropout", (2, 2, 2), 1)]


def make_config(case, **changes):
    size, objectives, fields = CASES[case]
    config = schema.base_config(size)
    config.objectives.update(dict.fromkeys(config.objectives, 0.0) | dict.fromkeys(objectives, 1.0))
    with config.ignore_type():
        config.model.update_from_flattened_dict(fields)
        config.update_from_flattened_dict(changes)
    if "feature_layer" not in fields:  # the layer before the last
        for tower in config.model.values():
            if isinstance(tower, ConfigDict) and "depth" in tower:
                tower.depth = max(1, tower.get("cross_every", 1))  # all of it is compiled twice
    config.data.tokenizer = "words:shapes"
    config.data.texts = {"vqa": "questions", "answers": "answers"}.get(case.split(", ")[-1], "captions")
    config.data.pack_texts, config.data.train = "on", "shapes"
    config.precision, config.batch_size = "float32", BATCH
    return config


def make_batch(config, seed=0):
    """Noise, and texts of 2 tokens or more, most of them short; behind them ids that nothing may look at."""
    rng = np.random.default_rng(seed)
    context = text_length(parse(config))
    lengths = np.minimum(rng.geometric(0.25, BATCH) + 2, context - 1)
    lengths[0] = context
    text = rng.integers(6, 60, (BATCH, context)).astype(np.int32)
    text[:, 0], text[np.arange(BATCH), lengths - 1] = 1, config.model.text.eos_id
    text[:, 2] = np.where(lengths > 4, 5, text[:, 2])  # a separator
    mask = np.arange(context) < lengths[:, None]
    size = config.model.image.image_size
    batch = {
        "image": rng.integers(0, 256, (BATCH, size, size, 3)).astype(np.uint8),
        "text": text,
        "text_mask": mask,
        "id": np.stack([rng.integers(0, 20, BATCH), np.zeros(BATCH)], axis=1).astype(np.uint32),
    }
    if config.data.texts == "questions":
        batch["answer"] = (rng.random((BATCH, ANSWERS)) * (rng.random((BATCH, ANSWERS)) < 0.4)).astype(np.float32)
    if config.data.texts == "answers":
        batch["target_mask"] = mask & (np.arange(context) > 2)
    return batch


def grouped(batch, packer):
    """The same batch with its texts' groups."""
    laid_out = packer(batch)
    columns = [laid_out.pop(name) for name in packer.columns]
    assert columns[0].min() == 0
    return laid_out | tasks.lay_out(packer, columns)


def groups_of(batch, devices, pieces, count):
    """Two or three groups of a share that hold every share of the batch."""
    shares = LengthGrouper.lengths(batch).reshape(devices, -1, pieces).swapaxes(1, 2).reshape(devices * pieces, -1)
    slots = np.sort(shares, axis=1)[:, ::-1].max(axis=0)
    ends = [0, *([1] if count == 3 else []), -(-len(slots) // 2), len(slots)]
    return tuple((end - start, int(slots[start])) for start, end in zip(ends, ends[1:], strict=False) if end > start)


@functools.cache
def compiled(case, mesh, pieces):
    """Config, shapes of parameters, devices, and the loss with metrics and gradient on them."""
    config = make_config(case, microbatch=pieces, **{f"mesh.{n}": x for n, x in zip(mesh_lib.AXES, mesh, strict=True)})
    devices = make_mesh(parse(config).mesh, jax.devices()[: np.prod(mesh)])
    facts = tasks.DatasetMetadata(answers=tuple("abcde")) if config.objectives.vqa else None
    tokenizer = make_tokenizer.make_tokenizer("words:shapes", config.model.text.context_length)
    task = tasks.Task(parse(config), tasks.make_image_spec(parse(config)), tokenizer, devices, facts)
    setup = build_step.make_setup(parse(config), task, devices)
    total = step_lib.make_loss(task, pieces, devices)

    def function(params, batch):
        keys = jax.random.split(jax.random.key(0), BATCH) if task.needs_rng else None
        return jax.value_and_grad(lambda params: total(params, batch, keys), has_aux=True)(params)

    shardings = setup.shardings.params, mesh_lib.batch_sharding(devices)
    return config, setup.state.params, devices, jax.jit(function, in_shardings=shardings)


@FULL
@pytest.mark.parametrize("case, mesh, pieces", campaign.some(SETTINGS, OF_ALL_KINDS), ids=str)
def test_values_and_gradients_are_those_of_padded_texts(case, mesh, pieces, random_params):
    config, shapes, devices, function = compiled(case, mesh, pieces)
    assert tasks.packing_obstacle(parse(config)) == ""
    plain, params = make_batch(config), random_params(shapes)
    spread = mesh_lib.batch_devices(devices)
    count = 3 if case.startswith(("captioner", "lstm", "answers")) else 2  # all of a group is compiled for itself
    groups = groups_of(plain, spread, pieces, count)
    config.data.length_groups = ",".join(f"{rows}x{tokens}" for rows, tokens in groups)
    packer = tasks.make_packer(parse(config), devices)
    assert len(packer.groups) > 1 and packer.groups[-1][1] < config.model.text.context_length
    (value, metrics), gradient = function(params, mesh_lib.to_global(devices, plain))
    (value2, metrics2), gradient2 = function(params, mesh_lib.to_global(devices, grouped(plain, packer)))
    assert float(value2) == pytest.approx(float(value), rel=1e-5)
    assert metrics.keys() == metrics2.keys()
    for name in metrics:
        assert float(metrics2[name]) == pytest.approx(float(metrics[name]), rel=1e-5, abs=1e-6), name
    gradient, gradient2 = mesh_steps.flat(gradient), mesh_steps.flat(gradient2)
    assert mesh_steps.relative(gradient2, gradient) <= 1e-5
    path = "text/token_embedding"
    assert np.abs(gradient[path]).max() > 0
    assert mesh_steps.relative({path: gradient2[path]}, {path: gradient[path]}) <= 1e-5


# -- whole runs --------------------------------------------------------------------------------------------------------

STEPS, RUN_BATCH, RUN_CONTEXT = 16, 64, 64
RECIPE = runs.ROOT / "configs" / "captioner.py"


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    return text_runs.write_captions(tmp_path_factory.mktemp("captions"))


def fields_of(captions, **changes):
    """What is other than in the recipe, whose decoder has dropout here; of one layer, as it is compiled often."""
    fields = {
        "model.image.depth": 1,
        "model.text.depth": 1,
        "data.train": f"pairs:{captions}",
        "data.eval": "",
        "data.tokenizer": "bytes",
        "eval.every": 0,
        "data.context_length": 0,
    }
    fields |= {"model.text.vocab_size": 260, "model.text.eos_id": 258, "model.text.context_length": RUN_CONTEXT}
    fields |= {"model.text.dropout": 0.1, "batch_size": RUN_BATCH, "microbatch": 2, "steps": STEPS, "log.every": 1}
    fields |= {
        "schedule.name": "constant",
        "schedule.warmup": 2,
        "checkpoint.every": 1000,
        "log.tensorboard": False,
        "precision": "float32",
    }
    return fields | changes


def run_config(captions, **changes):
    config = recipe.load_recipe(f"{RECIPE}:variant=tiny-captioner")
    with config.ignore_type():
        config.update_from_flattened_dict(fields_of(captions, **changes))
    return config


def groups_that_overflow(config, devices):
    """Groups that about one batch in ten does not fit into, and which batches do not."""
    lengths = LengthGrouper.lengths(text_runs.texts(config))
    shares = np.sort(lengths.reshape(config.steps, devices, -1, config.microbatch), axis=2)[:, :, ::-1]
    longest = shares.max(axis=(1, 3))  # the tokens that each of a share's texts needs, by step
    choices = [(rows, tokens) for rows in range(1, shares.shape[2]) for tokens in range(2, RUN_CONTEXT)]
    far = lambda rows, tokens: max(0.05, abs((longest[:, rows] > tokens).mean() - 0.1))
    work = lambda rows, tokens: rows * RUN_CONTEXT + (shares.shape[2] - rows) * tokens
    rows, tokens = min(choices, key=lambda choice: (far(*choice), work(*choice)))
    return f"{rows}x{RUN_CONTEXT},{shares.shape[2] - rows}x{tokens}", longest[:, rows] > tokens


def assert_grouped(workdir, padded):
    assert [line["texts_grouped"] for line in runs.lines(workdir, "train")] == [
        float(not is_padded) for is_padded in padded
    ]


@FULL
def test_a_run_of_two_processes(captions, tmp_path):
    """Batches that do not fit in one of them; stopped by a signal, resumed, as one process is on padded texts."""
    config = run_config(captions)
    groups, padded = groups_that_overflow(config, 2)
    assert 0.05 <= padded.mean() <= 0.2
    assert runs.train(config, tmp_path / "padded", devices=2) is None
    flags = fields_of(captions) | {"data.pack_texts": "on", "data.length_groups": groups, "mesh.fsdp": 2}
    argv = ["train", f"--config={RECIPE}:variant=tiny-captioner", f"--workdir={tmp_path / 'grouped'}"]
    argv += [f"--config.{name}={value}" for name, value in flags.items()]
    for status, events in ((143, "SIGTERM@8:1"), (0, "-")):
        statuses, message = processes.command(tmp_path, *argv, events=events, devices=1, timeout=500)
        assert statuses == [status, status], message
        assert f"texts are grouped: {groups.split('x')[0]} rows of {RUN_CONTEXT} tokens, " in message[0]
    assert f"resumed at step 9 of {STEPS}" in message[0]
    text_runs.assert_same_training(tmp_path / "grouped", tmp_path / "padded", STEPS)
    assert_grouped(tmp_path / "grouped", padded)


@FULL
def test_a_restart_changes_no_bit(captions, tmp_path):
    """With groups from a sample, which the second start takes from the checkpoint."""
    grouped = {"steps": 12, "data.pack_texts": "on", "checkpoint.every": 5}
    assert runs.train(run_config(captions, **grouped), tmp_path / "whole") is None
    for steps in (7, 12):
        assert runs.train(run_config(captions, **grouped | {"steps": steps}), tmp_path / "again") is None
    runs.assert_same_arrays(runs.arrays(tmp_path / "again", 12), runs.arrays(tmp_path / "whole", 12))
    metas = [json.loads((tmp_path / name / "checkpoints/12/meta/metadata").read_text()) for name in ("whole", "again")]
    assert metas[0]["text_packing"] == metas[1]["text_packing"]
    expected = dict(captions=32, pieces=2, context_length=RUN_CONTEXT, extra=-1, overhead=32, shares=2)
    assert metas[0]["text_packing"] == {"groups": metas[0]["text_packing"]["groups"]} | expected
    assert sum(rows for rows, _ in metas[0]["text_packing"]["groups"]) == 32
