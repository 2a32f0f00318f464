"""Convolutional image towers in training: by the trainer, on one device and on many, with statistics that stay."""

import math
import shutil

import jax
import numpy as np
import pytest

from mmjax import tasks
from mmjax.config import parse, set_group
from mmjax.errors import UserError
from mmjax.models.variants.two_tower import variant
from mmjax.nn.config import STATISTICS
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import partition
from mmjax.parallel.make_mesh import make_mesh
from mmjax.training import build_step, param_roles
from tests.helpers import mesh_steps, runs

SIDE = 32
KINDS = {
    "resnet": dict(blocks=(1, 1, 1, 1), stem_width=4, pool_heads=4),
    "convnext": dict(blocks=(1, 1, 1, 1), widths=(8, 8, 16, 16), drop_path=0.5, remat="full", projection="mlp"),
}


def change(config, kind, **changes):
    """Puts a convolutional tower in the place of the image tower."""
    image = variant(f"tiny-{kind}")["image"] | dict(image_size=SIDE) | changes
    set_group(config, "model.image", image)
    config.data.mean_std = "clip"
    return config


class Steps(mesh_steps.Steps):
    """As there, but with images of one token of a convolutional tower."""

    def __init__(self, kind, mesh, **changes):
        self.config = mesh_steps.tiny_recipe.get_config()
        self.config.mesh.update(data=mesh[0], fsdp=mesh[1], tensor=mesh[2])
        self.config.model.text.update(context_length=mesh_steps.LENGTH, heads=8)
        self.config.optimizer.update({"name": "sgd", "learning_rate": 0.02, "b1": 0.9, "weight_decay": 0.1} | changes)
        self.config.schedule.warmup = 0
        change(self.config, kind, **KINDS[kind])
        run = parse(self.config)
        self.mesh = make_mesh(run.mesh, jax.devices()[: math.prod(mesh)])
        self.task = tasks.Task(run, tasks.make_image_spec(run), mesh=self.mesh)
        setup = build_step.make_setup(run, self.task, self.mesh)
        self.abstract, self.shardings, self.step = setup.state, setup.shardings, setup.step
        self.rows = mesh_lib.local_rows(self.mesh, mesh_steps.BATCH)

    def start(self):
        positive = lambda path, x: abs(x) + 0.5 if path.endswith("running_var") else x
        state = super().start()
        return state.replace(params=partition.map_with_path(positive, state.params))

    def train(self, state, steps):
        losses = []
        for k in range(steps):
            local = mesh_steps.batch(k)
            local["image"] = local["image"].repeat(SIDE // 16, axis=1).repeat(SIDE // 16, axis=2)
            state, metrics = self.step(state, mesh_lib.to_global(self.mesh, local))
            losses.append(float(metrics["loss"]))
        return np.array(losses), mesh_steps.flat(state.params), state


@pytest.mark.parametrize("kind", KINDS)
def test_eight_devices_compute_what_one_does(kind):
    """Statistics of batch norm stay bit for bit, under weight decay, too, and all else is trained."""
    one, many = Steps(kind, (1, 1, 1)), Steps(kind, (2, 2, 2))
    start = mesh_steps.flat(one.start().params)
    losses, params, _ = one.train(one.start(), 2)
    others, other_params, _ = many.train(many.start(), 2)
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    assert mesh_steps.relative(other_params, params) <= 1e-5
    fixed = {path for path in params if path.endswith(STATISTICS)}
    assert len(fixed) == (38 if kind == "resnet" else 0) and fixed == set(filter(param_roles.is_statistic, params))
    changed = {path for path in params if (params[path] != start[path]).any()}
    # A key's bias changes no softmax.
    assert changed == set(params) - fixed


def test_a_run_stopped_and_resumed(tmp_path):
    """A ConvNeXt, from nothing; a ResNet from it would not start."""
    sizes = dict(KINDS["convnext"], remat="none")
    config = change(runs.config(steps=4, checkpoint__every=2, eval__every=4, checkpoint__keep=9), "convnext", **sizes)
    runs.train(config, tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for path in (tmp_path / "b").rglob("*"):
        if path.is_dir() and path.name == "4":
            shutil.rmtree(path)
    runs.train(config, tmp_path / "b")
    runs.assert_same_arrays(runs.arrays(tmp_path / "a", 4), runs.arrays(tmp_path / "b", 4))


def test_a_resnet_needs_weights_and_is_tuned_with_fixed_statistics(tmp_path):
    config = change(runs.config(steps=2), "resnet")
    with pytest.raises(UserError, match="model.image.kind='resnet' without init_from"):
        runs.train(config, tmp_path / "refused")


def test_mistakes():
    config = runs.config()
    for kind, fields, message in (
        ("convnext", dict(image_size=40), r"model.image.image_size=40 is not a multiple of 32"),
        ("convnext", dict(blocks=(1, 2)), r"model.image.blocks=\(1, 2\) wants 4 numbers"),
        ("convnext", dict(widths=(1, 2, 3, 0)), r"model.image.widths=.*: 0 is out of range"),
        ("resnet", dict(pool_heads=3), r"model.image.pool_heads=3 does not divide the tower's width of 128"),
        ("resnet", dict(stem_width=5), r"model.image.stem_width=5 is odd"),
        ("convnext", dict(projection="none"), r"model.image.projection='none' needs model.image.width=64"),
    ):
        wrong = parse(change(config, kind, **fields))
        with pytest.raises(UserError, match=message):
            tasks.check_model(wrong)
    with pytest.raises(UserError, match="model.image.kind='video' is not known|model.image.kind: .*video"):
        set_group(config, "model.image", dict(kind="video"))


def test_no_attention_is_shown():
    run = parse(change(runs.config(), "convnext"))
    assert tasks.Task(run, tasks.make_image_spec(run)).available_attention_maps == ()
