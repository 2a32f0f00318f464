"""Training on packed texts is training on padded ones: values, gradients, losses, on any devices, after any restart."""

import functools
import json

import jax
import numpy as np
import pytest

from mmjax import tasks
from mmjax.config import parse
from mmjax.data.loading import packing as packing_lib
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import packing
from mmjax.parallel.make_mesh import make_mesh
from mmjax.training import build_step
from mmjax.training import step as step_lib
from tests.helpers import campaign, mesh_steps, processes, runs, text_runs, tiny_recipe

FULL = pytest.mark.full
BATCH, CONTEXT, EOS = 32, 32, 258


def batch(seed=0):
    """Noise, and captions of 2 to 20 tokens; some have no end of text."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 21, BATCH)
    text = rng.integers(0, 250, (BATCH, CONTEXT)).astype(np.int32)
    text[np.arange(BATCH), lengths - 1] = EOS
    text[0, lengths[0] - 1] = 7
    return {
        "image": rng.integers(0, 256, (BATCH, 16, 16, 3)).astype(np.uint8),
        "text": text,
        "text_mask": np.ones((BATCH, CONTEXT), bool),
        "id": np.stack([rng.integers(0, 20, BATCH), np.zeros(BATCH)], axis=1).astype(np.uint32),
    }


def packed(batch, devices, pieces, rows):
    """The same batch with its texts' places."""
    length = packing_lib.row_length(CONTEXT)
    laid = packing_lib.TextPacker(rows, length, BATCH // devices // pieces, pieces, EOS)(batch)
    row, column = laid.pop("text_row"), laid.pop("text_column")
    assert row.min() == 0
    return laid | {"text_places": packing.TextPlaces(row, column, rows, length)}


@functools.cache
def value_and_grad(mesh, pieces, noise, precision="float32"):
    """Parameters, and the loss and its gradient on a mesh; with noise in the image tower, which is not packed."""
    config = tiny_recipe.get_config()
    config.precision = precision
    config.batch_size, config.microbatch = BATCH, pieces
    config.mesh.update(dict(zip(mesh_lib.AXES, mesh, strict=True)))
    config.model.image.dropout = 0.2 if noise else 0.0
    devices = make_mesh(parse(config).mesh, jax.devices()[: np.prod(mesh)])
    task = tasks.Task(parse(config), tasks.make_image_spec(parse(config)), mesh=devices)
    setup = build_step.make_setup(parse(config), task, devices)
    total = step_lib.make_loss(task, pieces, devices)
    keys = lambda: jax.random.split(jax.random.key(0), BATCH) if noise else None
    function = lambda params, batch: jax.value_and_grad(lambda p: total(p, batch, keys())[0])(params)
    shardings = setup.shardings.params, mesh_lib.batch_sharding(devices)
    return setup.state.params, devices, jax.jit(function, in_shardings=shardings)


MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2)]
CASES = [(mesh, pieces, False) for mesh in MESHES for pieces in (1, 2)] + [((2, 2, 2), 2, True)]
# Shards alone and one device, one piece and two; all under `make campaign`.
DIFFERENT = [((2, 2, 2), 2, True), ((1, 1, 1), 2, False), ((1, 8, 1), 1, False)]


@FULL
@pytest.mark.parametrize("mesh, pieces, noise", campaign.some(CASES, DIFFERENT), ids=str)
def test_values_and_gradients_are_those_of_padded_texts(mesh, pieces, noise, random_params):
    shapes, devices, function = value_and_grad(mesh, pieces, noise)
    params = random_params(shapes)
    position = functools.partial(mesh_lib.to_global, devices)
    plain = batch()
    value, gradient = function(params, position(plain))
    spread = mesh_lib.batch_devices(devices)
    rows = BATCH // spread // pieces
    value2, gradient2 = function(params, position(packed(plain, spread, pieces, max(2, rows // 2))))
    assert float(value2) == pytest.approx(float(value), rel=1e-6)
    gradient, gradient2 = mesh_steps.flat(gradient), mesh_steps.flat(gradient2)
    assert mesh_steps.relative(gradient2, gradient) <= 1e-5
    for path in ("text/token_embedding", "text/position_embedding", "text_head/projection/kernel"):
        assert mesh_steps.relative({path: gradient2[path]}, {path: gradient[path]}) <= 1e-5, path
        assert np.abs(gradient[path]).max() > 0


@pytest.mark.parametrize(
    "mesh", [pytest.param((2, 1, 1), marks=FULL), pytest.param((1, 1, 1), marks=pytest.mark.gpu)], ids=str
)
def test_bfloat16_is_as_near_to_float32_as_without_packing(mesh, random_params):
    """On a GPU with cuDNN's kernel, whose mask is a bias."""
    pieces = 2
    shapes, devices, exact = value_and_grad(mesh, pieces, False)
    rough = value_and_grad(mesh, pieces, False, "bfloat16")[2]
    params = random_params(shapes)
    off = {True: [], False: []}
    for seed in range(4):
        plain = batch(seed)
        expected = mesh_steps.flat(exact(params, mesh_lib.to_global(devices, plain))[1])
        for is_packed, item in ((False, plain), (True, packed(plain, mesh[0], pieces, 8 // mesh[0]))):
            gradient = mesh_steps.flat(rough(params, mesh_lib.to_global(devices, item))[1])
            off[is_packed].append(mesh_steps.relative(gradient, expected))
    assert np.mean(off[False]) > 1e-4
    assert np.mean(off[True]) <= 1.1 * np.mean(off[False]), off


# -- whole runs --------------------------------------------------------------------------------------------------------

STEPS, RUN_BATCH, RUN_CONTEXT = 16, 64, 64


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    return text_runs.write_captions(tmp_path_factory.mktemp("captions"))


def config_of(captions, **changes):
    shared = dict(
        data__train=f"pairs:{captions}",
        data__eval="",
        model__text__context_length=RUN_CONTEXT,
        batch_size=RUN_BATCH,
        microbatch=2,
        steps=STEPS,
        eval__every=0,
        checkpoint__every=1000,
    )
    return runs.config(**(shared | changes))


def needed(config, devices):
    """Rows that each batch of a run needs."""
    lengths = packing_lib.caption_lengths(text_runs.texts(config)["text"], EOS)
    groups = lengths.reshape(config.steps, devices, -1, config.microbatch).swapaxes(2, 3)
    rows = packing_lib.rows_needed(groups.reshape(-1, groups.shape[-1]), packing_lib.row_length(RUN_CONTEXT))
    return rows.reshape(config.steps, -1).max(axis=1)


def rows_that_overflow(config, devices):
    """Rows that about one batch in ten does not fit into, and which batches do not."""
    rows = needed(config, devices)
    chosen = min(set(rows.tolist()) - {rows.max()}, key=lambda count: abs((rows > count).mean() - 0.1))
    return chosen, rows > chosen


def assert_packed(workdir, padded):
    assert [line["texts_packed"] for line in runs.lines(workdir, "train")] == [float(not item) for item in padded]


@FULL
def test_a_run_of_two_processes(captions, tmp_path):
    """Batches that do not fit in one of them; stopped by a signal, resumed, as one process is on padded texts."""
    config = config_of(captions)
    rows, padded = rows_that_overflow(config, 2)
    assert 0.05 <= padded.mean() <= 0.2
    assert runs.train(config, tmp_path / "padded", devices=2) is None
    assert "texts_packed" not in runs.lines(tmp_path / "padded", "train")[0]
    flags = {"data.train": f"pairs:{captions}", "data.eval": "", "model.text.context_length": RUN_CONTEXT}
    flags |= {"batch_size": RUN_BATCH, "microbatch": 2, "steps": STEPS, "eval.every": 0, "mesh.fsdp": 2}
    flags |= {"checkpoint.every": 1000, "data.pack_texts": "on", "data.packed_rows": rows}
    argv = ["train", f"--config={runs.RECIPE}", f"--workdir={tmp_path / 'packed'}"]
    argv += [f"--config.{name}={value}" for name, value in flags.items()]
    for status, events in ((143, "SIGTERM@8:1"), (0, "-")):
        statuses, message = processes.command(tmp_path, *argv, events=events, devices=1, timeout=500)
        assert statuses == [status, status], message
        assert f"texts are packed: {rows} rows of 80 tokens hold the 16 texts of a device and microbatch" in message[0]
    assert f"resumed at step 9 of {STEPS}" in message[0]
    text_runs.assert_same_training(tmp_path / "packed", tmp_path / "padded", STEPS)
    assert_packed(tmp_path / "packed", padded)


@FULL
def test_a_restart_changes_no_bit(captions, tmp_path):
    """With rows from a sample, which the second start takes from the checkpoint."""
    packed = dict(steps=12, data__pack_texts="on", checkpoint__every=5)
    assert runs.train(config_of(captions, **packed), tmp_path / "whole") is None
    for steps in (7, 12):
        assert runs.train(config_of(captions, **packed | {"steps": steps}), tmp_path / "again") is None
    runs.assert_same_arrays(runs.arrays(tmp_path / "again", 12), runs.arrays(tmp_path / "whole", 12))
    metas = [json.loads((tmp_path / name / "checkpoints/12/meta/metadata").read_text()) for name in ("whole", "again")]
    assert metas[0]["text_packing"] == metas[1]["text_packing"]
    assert metas[0]["text_packing"] | {"rows": 0} == dict(rows=0, length=80, captions=32, pieces=2, eos_id=258)
