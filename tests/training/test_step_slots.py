"""The update of models with other slots than images: the same on one device, on many and in microbatches."""

import math

import jax
import numpy as np
import pytest

from mmjax import tasks
from mmjax.config import parse
from mmjax.config.schema import base_config, set_group
from mmjax.data.loading.prompt_transforms import PromptTransform
from mmjax.data.sources.tones import TASKS, WORDS
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.make_mesh import make_mesh
from mmjax.parallel.partition import path_name
from mmjax.training.build_step import make_setup
from tests.helpers import campaign

BATCH = 16
LAYERS = dict(width=16, depth=2, heads=2, mlp_dim=32, dropout=0.2)
SLOTS = {
    "video": dict(LAYERS, kind="video", frames=4, image_size=8, patch_size=4),
    "frames": dict(LAYERS, kind="frames", frames=4, image_size=8, patch_size=4, temporal="transformer"),
    "units": dict(LAYERS, kind="frames", frames=4, image_size=8, patch_size=4, temporal="residual", pool="unit_mean"),
    "audio": dict(LAYERS, kind="audio", frames=8, mel_bins=4, patch_size=(4, 4)),
    "whisper": dict(LAYERS, kind="whisper", frames=8, mel_bins=4, class_token=False),
    "series": dict(LAYERS, kind="series", steps=6, patch_length=2),
    "table": dict(LAYERS, kind="table", numeric=2, categories=(3,)),
}
WEIGHTS = {
    "tiny-captioner": dict(caption=1.0),
    "tiny-coca": dict(itc=1.0, caption=2.0),
    "tiny-albef": dict(itc=1.0, itm=1.0, mlm=1.0),
    "tiny-qformer": dict(itc=1.0, itm=1.0, caption=1.0),
    "tiny-blip": dict(itc=1.0, itm=1.0, caption=1.0),
    "tiny-prefix_lm": dict(caption=1.0),
}
MESHES = [((8, 1, 1), 1), ((2, 2, 2), 2)]
EVERY = [(model, slot, *mesh) for model in WEIGHTS for slot in ("video", "audio") for mesh in MESHES]
EVERY += [("tiny-captioner", "whisper", *mesh) for mesh in MESHES]
EVERY += [("towers", slot, *mesh) for slot in ("video+text", "frames+audio", "series+table+text") for mesh in MESHES]
EVERY += [("towers", slot, *MESHES[1]) for slot in ("units+text", "audio+text")]
OF_ALL_KINDS = [("tiny-captioner", "video", *MESHES[0]), ("tiny-coca", "audio", *MESHES[1])]
OF_ALL_KINDS += [
    ("tiny-captioner", "whisper", *MESHES[1]),
    ("towers", "frames+audio", *MESHES[1]),
    ("towers", "series+table+text", *MESHES[0]),
]


def config_of(model, slot, mesh=(1, 1, 1), microbatch=1):
    config = base_config("tiny" if model == "towers" else model)
    if model == "towers":
        names = slot.split("+")
        of_frames = ("frames", "units")
        filled = {"video" if name in of_frames else name: SLOTS[name] for name in names if name != "text"}
        # A frame's class token stands for it.
        filled = {
            name: dict(pool="map", class_token=settings["kind"] == "frames") | settings
            for name, settings in filled.items()
        }
        text = {"text": dict(config.model.text.to_dict(), eos_id=2)} if "text" in names else {}
        set_group(config, "model", dict(kind="two_tower", embed_dim=8, **filled, **text))
        config.objectives.itc = 1.0
    else:
        filled = {"audio" if slot == "whisper" else slot: SLOTS[slot]}
        set_group(config, "model", config.model.to_dict() | {"image": None} | filled)
        config.objectives.update(WEIGHTS[model])
    config.data.tokenizer = "words:shapes"
    if slot == "whisper":  # texts behind tokens of tasks
        config.model.text.vocab_size = 96
        config.data.tokenizer, config.data.caption_prompt = "words:speech", "<|{task}|>"
    config.batch_size, config.microbatch, config.precision = BATCH, microbatch, "float32"
    config.mesh.update(data=mesh[0], fsdp=mesh[1], tensor=mesh[2])
    config.optimizer.update(name="sgd", learning_rate=0.1, b1=0.9, weight_decay=0.0)
    config.schedule.update(name="constant", warmup=0)
    config.steps = 2
    return config


def batch_of(task, seed):
    rng = np.random.default_rng(seed)
    batch = {}
    for spec in task.input_specs.others:
        shape = (BATCH, *spec.shape)
        is_pixels = spec.dtype == "uint8"
        batch[spec.name] = rng.integers(0, 256, shape).astype(np.uint8) if is_pixels else rng.normal(size=shape)
        batch[spec.name] = batch[spec.name].astype(spec.dtype)
    if "table" in batch:
        batch["table"][:, 2] = rng.integers(0, 3, BATCH)
        batch["table"][3, 0] = np.nan
    if task.settings.tokenizer is not None:
        colors, shapes = ("red", "blue", "green", "white"), ("ring", "square", "circle", "cross")
        texts = [f"a {colors[i % 4]} {shapes[i // 4]}" for i in range(BATCH)]
        if task.config.data.tokenizer == "words:speech":
            texts = [" ".join(WORDS[i : i + 2 + i % 3]) for i in range(BATCH)]
        batch["text"], batch["text_mask"] = task.settings.tokenizer(texts)
    if isinstance(task.example_transform, PromptTransform):
        of_tasks = {name: [task.example_transform.text({"task": name}, text) for text in texts] for name in TASKS}
        rows = [of_tasks[TASKS[i % 2]][i] for i in range(BATCH)]
        batch["text"], batch["text_mask"], batch["target_mask"] = map(np.stack, zip(*rows, strict=True))
    return batch | {"id": np.stack([rng.permutation(BATCH), np.zeros(BATCH)], axis=1).astype(np.uint32)}


def train(config, random_params):
    """Losses of two steps, and the parameters after them, in float64 by path."""
    mesh = make_mesh(
        parse(config).mesh, jax.devices()[: math.prod(config.mesh[axis] for axis in ("data", "fsdp", "tensor"))]
    )
    tokenizer = tasks.make_tokenizer(parse(config))
    shapes = (("series", (6, 3)),) if config.model.get("series") else ()
    task = tasks.Task(parse(config), None, tokenizer, mesh, tasks.DatasetMetadata(shapes=shapes))
    setup = make_setup(parse(config), task, mesh)
    params = random_params(setup.state.params, std=0.1)
    if "logit_scale" in params:
        params["logit_scale"] = np.float32(1.0)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), setup.state)
    state = state.replace(params=params, rng=np.array([1, 2], np.uint32), first_bad_step=np.int32(-1))
    state, losses = jax.device_put(state, setup.shardings), []
    for step in range(2):
        state, metrics = setup.step(state, mesh_lib.to_global(mesh, batch_of(task, step)))
        losses.append(float(metrics["loss"]))
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    return losses, {path_name(path): np.asarray(x, np.float64) for path, x in leaves}, params


@pytest.mark.full
@pytest.mark.parametrize(("model", "slot", "mesh", "microbatch"), campaign.some(EVERY, OF_ALL_KINDS), ids=str)
def test_every_mesh_gives_the_update_of_one_device(model, slot, mesh, microbatch, random_params):
    losses, params, start = train(config_of(model, slot), random_params)
    others, on_mesh, _ = train(config_of(model, slot, mesh, microbatch), random_params)
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    moved = {path: np.abs(params[path] - np.asarray(x, np.float64)).max() for path, x in _flat(start).items()}
    assert max(moved.values()) > 1e-3
    for path, value in params.items():
        np.testing.assert_allclose(
            on_mesh[path], value, rtol=2e-4, atol=2e-5 * max(moved.values()) + 1e-6, err_msg=path
        )


def _flat(tree):
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
