"""Training images resized on the device or on the host: the same run, whatever the mesh; chosen once, told and kept."""

import json
import shutil
from unittest import mock

import numpy as np
import pytest

from mmjax import tasks
from mmjax.config import parse, schema, serialize
from mmjax.data.image import frames
from mmjax.data.loading import example_transforms, modality_transform
from mmjax.errors import UserError
from mmjax.parallel.make_mesh import make_mesh
from mmjax.tasks import image_fields
from mmjax.training import checkpoint
from tests.helpers import processes, runs
from tests.helpers.evaluated_sources import array_specs

STEPS = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Drawn scenes as arrays, and JPEGs, which are smaller than the model's images on one side."""
    pairs = runs.write_pairs(tmp_path_factory.mktemp("pairs"))
    return f"shapes@0.5+pairs:{pairs}@0.5"


def config_of(data, resize_on, **changes):
    changes = {"data__flip": True, "eval__every": 0, "checkpoint__every": 2, **changes}
    return runs.config(steps=STEPS, data__train=data, data__resize_on=resize_on, **changes)


def losses(workdir):
    return [line["loss"] for line in runs.lines(workdir, "train")]


def preprocessing(workdir, step):
    return json.loads((workdir / "checkpoints" / str(step) / "meta" / "metadata").read_text())["preprocessing"]


@pytest.fixture(scope="module")
def on_host(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("host")
    assert runs.train(config_of(data, "host"), workdir) is None
    assert preprocessing(workdir, STEPS)["frame"] == 0
    return workdir


@pytest.fixture(scope="module")
def on_device(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("device")
    assert runs.train(config_of(data, "device"), workdir) is None
    return workdir


def test_the_losses_are_those_of_the_host(on_host, on_device):
    assert preprocessing(on_device, STEPS)["frame"] > 0
    np.testing.assert_allclose(losses(on_device), losses(on_host), rtol=1e-4)
    assert losses(on_host)[0] > 0 and len(losses(on_host)) == STEPS


@pytest.mark.full
def test_on_a_mesh_and_in_pieces(data, on_device, tmp_path):
    changes = {"mesh__data": 4, "mesh__fsdp": 2, "microbatch": 2}
    assert runs.train(config_of(data, "device", **changes), tmp_path, devices=8) is None
    np.testing.assert_allclose(losses(tmp_path), losses(on_device), rtol=1e-5)


@pytest.mark.full
def test_by_two_processes(data, on_device, tmp_path):
    config = serialize.flatten(config_of(data, "device"))
    fields = ("steps", "data.train", "data.resize_on", "data.flip", "eval.every", "checkpoint.every")
    argv = ["train", f"--config={runs.RECIPE}", f"--workdir={tmp_path / 'run'}"]
    argv += [f"--config.{field}={config[field]}" for field in fields]
    statuses, message = processes.command(tmp_path, *argv)
    assert statuses == [0, 0], message
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(on_device), rtol=1e-5)
    assert preprocessing(tmp_path / "run", STEPS) == preprocessing(on_device, STEPS)


@pytest.mark.parametrize("resize_on", ["device", pytest.param("host", marks=pytest.mark.full)])
def test_a_resumed_run_keeps_its_choice(resize_on, data, request, tmp_path, capsys):
    """`auto` means the host on a CPU, but not for a run that has begun on the device."""
    undisturbed = request.getfixturevalue(f"on_{resize_on}")
    begun = config_of(data, resize_on)
    begun.steps = 2
    assert runs.train(begun, tmp_path) is None
    capsys.readouterr()
    assert runs.train(config_of(data, "auto"), tmp_path) is None
    message = capsys.readouterr().out
    assert f"training images are resized on the {resize_on}" in message and "as when this run began" in message
    assert preprocessing(tmp_path, STEPS) == preprocessing(undisturbed, STEPS)
    runs.assert_same_arrays(runs.arrays(tmp_path, STEPS), runs.arrays(undisturbed, STEPS))


def test_a_run_from_before_there_was_a_choice_goes_on_on_the_host(on_host):
    stored = json.loads((on_host / "config.json").read_text())
    del stored["data"]["resize_on"]
    assert serialize.from_json(json.dumps(stored)).data.resize_on == "host"
    stored["data"]["resize_on"] = "auto"
    assert serialize.from_json(json.dumps(stored)).data.resize_on == "auto"
    assert schema.base_config().data.resize_on == "auto"


def test_what_a_checkpoint_says_of_it(on_device, on_host, tmp_path):
    assert checkpoint.stored_frame(on_device / "checkpoints") == preprocessing(on_device, STEPS)["frame"] > 0
    assert checkpoint.stored_frame(on_host / "checkpoints") == 0
    assert checkpoint.stored_frame(tmp_path / "checkpoints") is None
    # One from before there was a choice.
    shutil.copytree(on_device / "checkpoints", tmp_path / "checkpoints")
    path = tmp_path / "checkpoints" / str(STEPS) / "meta" / "metadata"
    meta = json.loads(path.read_text())
    del meta["preprocessing"]["frame"], meta["digest"], meta["digests"]
    path.write_text(json.dumps(meta))
    assert checkpoint.stored_frame(tmp_path / "checkpoints") == 0


# -- the choice --------------------------------------------------------------------------------------------------------


class Pictures:
    """A source of arrays of these sizes."""

    def __init__(self, *sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        return {"image": np.zeros((*self.sizes[index], 3), np.uint8)}


def choose(resize_on="auto", sizes=((20, 20),) * 10, platform="gpu", stored=None, **changes):
    config = config_of("shapes", resize_on, **changes)
    spec = tasks.make_image_spec(parse(config))
    return tasks.choose_frame(parse(config), spec, [(Pictures(*sizes), 1)], platform, stored)


def test_auto_is_the_device_where_it_is_no_cpu():
    assert choose()[0] == 32 and choose(platform="tpu")[0] == 32
    side, message = choose(platform="cpu")
    assert side == 0 and message == "training images are resized on the host (the devices are CPUs)"
    assert choose("device", platform="cpu")[0] == 32
    assert choose("host")[0] == 0


def test_auto_is_the_host_where_most_pictures_fit_no_frame():
    side, message = choose(sizes=[(20, 20)] * 4 + [(500, 500)] * 6)
    assert side == 0 and message.endswith("(6 of 10 pictures fit no frame)")
    assert choose("device", sizes=[(500, 500)] * 10)[0] == 32  # asked for
    assert choose(sizes=[(20, 20)] * 6 + [(500, 500)] * 4)[0] == 32


def test_without_a_picture_to_look_at_the_side_follows_from_the_model():
    assert choose(sizes=[])[0] == frames.default_side(16)


def test_the_stored_choice_is_kept():
    assert choose(stored=64)[0] == 64 and choose(stored=64, platform="cpu")[0] == 64
    assert choose(stored=0)[0] == 0
    assert choose("device", stored=0)[0] == 32 and choose("host", stored=64)[0] == 0


@pytest.mark.parametrize(
    ("field", "value"), [("randaugment", (2, 9)), ("color_jitter", (0.1, 0.0, 0.0, 0.0)), ("grayscale", 0.2)]
)
def test_what_works_on_resized_images_keeps_them_on_the_host(field, value):
    side, text = choose(**{f"data__{field}": value})
    assert side == 0 and f"data.{field}=" in text and "works on resized images" in text
    message = (
        rf"data\.resize_on='device': data\.{field}=.* works on resized images, on the host alone; .*data\.{field} to"
    )
    with pytest.raises(UserError, match=message):
        tasks.check_images(parse(config_of("shapes", "device", **{f"data__{field}": value})))


def test_an_unknown_place_is_a_mistake(tmp_path, capsys):
    assert runs.train_cli(f"--workdir={tmp_path / 'run'}", "--config.data.resize_on=divice") == 2
    assert "data.resize_on='divice'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_model_without_images_has_no_choice():
    assert tasks.choose_frame(parse(schema.base_config()), None, [], "gpu", None) == (0, "")


# -- batches -----------------------------------------------------------------------------------------------------------


def test_planned_batches_hold_frames_where_the_device_resizes():
    config = config_of("shapes", "device")
    mesh = make_mesh(parse(config).mesh)
    shapes = tasks.batch_shapes(parse(config), mesh)
    assert shapes["image"].shape == (16, 32, 32, 3) and shapes["image"].dtype == np.uint8
    assert shapes["image_box"].shape == (16, frames.BOX) and shapes["image_box"].dtype == np.int32
    assert "image_box" not in tasks.batch_shapes(parse(config_of("shapes", "auto")), mesh)  # on CPUs
    with mock.patch.object(image_fields, "planned_frame", lambda config, platform: 64):
        assert tasks.batch_shapes(parse(config), mesh)["image"].shape == (16, 64, 64, 3)


def test_examples_are_what_the_plan_says():
    config = config_of("shapes", "device")
    side, _ = choose("device")
    spec = tasks.make_image_spec(parse(config))
    spec = type(spec)(**{**spec.__dict__, "frame": side})
    pairs = example_transforms.PairTransform(spec, tasks.make_tokenizer(parse(config)))
    record = {"image": np.zeros((20, 20, 3), np.uint8), "captions": ["a"], "id": 1}
    example = pairs(record, np.random.default_rng(0))
    planned = tasks.batch_shapes(parse(config), make_mesh(parse(config).mesh))
    assert {name: (x.shape, x.dtype) for name, x in example.items()} == {
        name: (x.shape[1:], x.dtype) for name, x in planned.items()
    }
    # An image that is missing among several modalities is black, and has a box.
    fused = modality_transform.ModalityTransform(array_specs({"audio": (2,)}, spec))
    missing = fused({"modalities": {"audio": np.zeros(2)}, "label": 1, "id": 2}, np.random.default_rng(0))
    assert {name: missing[name].shape for name in ("image", "image_box")} == {
        name: example[name].shape for name in ("image", "image_box")
    }
    assert not missing["image"].any()
