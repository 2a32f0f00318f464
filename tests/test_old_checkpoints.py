"""Checkpoints written by older code are restored, evaluated and trained on as that code would have done.

`fixtures/make_checkpoints.py` made them, and beside them what the code of its commit said. Parameters are the same bits
now; what is computed from them may differ by what float32 does in another order.
"""

import importlib.util
import json
import re
import tarfile
from pathlib import Path

import jax
import pytest

import mmjax
from mmjax.config import parse, serialize
from mmjax.parallel.make_mesh import make_mesh
from tests.helpers import campaign, runs


def _script():
    """The script that made the checkpoints."""
    path = Path(__file__).parent / "fixtures" / "make_checkpoints.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made = _script()
QUICK = ("clip",)
# Each with the devices that it is restored on; the sharded one was written by eight.
RUNS = [(name, devices) for name in made.CONFIGS for devices in ((1, 8) if name in made.DEVICES else (1,))]
# One of most kinds of models, and what a mesh and an optimizer of its own have written; all of them in a campaign.
OF_ALL_KINDS = [run for run in RUNS if run[0] in ("clip", "sharded", "captioner", "coca", "albef")]
OF_ALL_KINDS += [run for run in RUNS if run[0] in ("adafactor", "captioner-lstm", "prefix_lm", "fused-joint")]


def cases_of(of):
    marks = lambda name: [] if name in QUICK else pytest.mark.full
    params = [pytest.param(*run, id=f"{run[0]} on {run[1]}", marks=marks(run[0])) for run in of]
    return pytest.mark.parametrize(("name", "devices"), params)


EVERY, SOME = cases_of(RUNS), cases_of(campaign.some(RUNS, OF_ALL_KINDS))
# Of these `make smoke` runs the quick one, with XLA's ordinary optimisations.
FULL = pytest.mark.full
# Where an example counts or does not, two in a thousand may stand so near the border that rounding decides.
RELATIVE, GRADIENT, COUNTED = 1e-5, 1e-4, 2e-3


def unpack(name, folder):
    """Lays a workdir out; returns what is expected of it."""
    with tarfile.open(made.FOLDER / f"{name}.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return json.loads((made.FOLDER / f"{name}.json").read_text())


def config_of(workdir):
    return serialize.from_json((workdir / "config.json").read_text())


def assert_near(result, expected, where):
    """Numbers, lists and dictionaries of them; what is no number is the same."""
    if isinstance(expected, dict):
        assert sorted(result) == sorted(expected), where
        for key, value in expected.items():
            assert_near(result[key], value, f"{where}, {key}")
    elif isinstance(expected, list):
        assert len(result) == len(expected), where
        for i, value in enumerate(expected):
            assert_near(result[i], value, f"{where}[{i}]")
    elif isinstance(expected, float):
        assert result == pytest.approx(expected, rel=RELATIVE, abs=RELATIVE / 10), where
    else:
        assert result == expected, where


def assert_same_metrics(result, expected):
    """Losses are sums; all others count examples, or words that were written."""
    assert set(result) >= set(expected)
    for name, value in expected.items():
        summed = name.endswith(("loss", "perplexity"))
        assert result[name] == pytest.approx(
            value, rel=RELATIVE if summed else COUNTED, abs=0 if summed else COUNTED
        ), name


@EVERY
def test_parameters_and_what_they_say(name, devices, tmp_path):
    expected = unpack(name, tmp_path)
    mesh = make_mesh(parse(config_of(tmp_path)).mesh) if devices > 1 else None
    model = mmjax.load(tmp_path, mesh=mesh)
    if devices > 1:
        assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(model.params))
    assert made.digests(model.params) == expected["params"]
    assert_near(made.values(model), expected["values"], name)


@FULL
@SOME
def test_evaluation(name, devices, tmp_path):
    expected = unpack(name, tmp_path)
    flags = ["--config.mesh.fsdp=1", "--config.mesh.tensor=1"] if devices == 1 else []
    output = tmp_path / "result.json"
    with runs.without_report():  # nothing of it is compared
        assert runs.eval_cli(f"--workdir={tmp_path}", f"--output={output}", *flags, devices=devices) == 0
    records = json.loads(output.read_text())
    for record, wanted in zip(records, expected["evaluation"], strict=True):
        assert (record["dataset"], record["task"]) == (wanted["dataset"], wanted["task"])
        assert_same_metrics(record["metrics"], wanted["metrics"])


@FULL
@SOME
def test_training_goes_on(name, devices, tmp_path):
    """The steps that follow have the losses that they had: parameters, optimizer, average, noise and data go on."""
    expected = unpack(name, tmp_path)
    config = config_of(tmp_path)
    config.steps, config.data.eval, config.log.every = made.STEPS + made.MORE, "", 1
    if devices == 1:
        config.mesh.update(fsdp=1, tensor=1)
    assert runs.train(config, tmp_path, devices=devices) is None
    steps = made.train_lines(tmp_path)
    for result, wanted in zip(steps, expected["steps"], strict=True):
        assert result["step"] == wanted["step"]
        fields = [field for field in wanted if field.startswith(("loss", "logit_", "learning_rate"))]
        assert "loss" in fields
        for field in fields:
            assert result[field] == pytest.approx(wanted[field], rel=RELATIVE), (wanted["step"], field)
        assert result["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=GRADIENT), wanted["step"]


# What recipes have today that did not exist then, by run.
TODAY = {
    "clip": {"optimizer.decay": ("open_clip",), "optimizer.decay_scaled_by_lr": False, "model.max_logit_scale": None},
    "adafactor": {"optimizer.b2_cap": 0.999, "optimizer.update_clip": 0.0, "schedule.from_zero": True},
}


@FULL
@pytest.mark.parametrize("name", TODAY)
def test_training_goes_on_under_a_recipe_of_today(name, tmp_path, capsys):
    """Decay, clamp and second moments stay what they were, and that is told in one line at each start."""
    expected = unpack(name, tmp_path)
    for step in (made.STEPS + 1, made.STEPS + made.MORE):
        config = config_of(tmp_path)
        with config.ignore_type():
            config.update_from_flattened_dict(TODAY[name])
        config.steps, config.data.eval, config.log.every = step, "", 1
        config.schedule.warmup, config.checkpoint.every = 2, 1
        assert runs.train(config, tmp_path) is None
        assert capsys.readouterr().out.count("goes on as it began") == 1
    for result, wanted in zip(made.train_lines(tmp_path), expected["steps"], strict=True):
        assert result["loss"] == pytest.approx(wanted["loss"], rel=RELATIVE), wanted["step"]


def test_fields_that_an_old_config_lacks(tmp_path):
    """Fields that came to exist later have their defaults, in the workdir's config and in the checkpoint's."""
    expected = unpack("clip", tmp_path)
    meta = tmp_path / "checkpoints" / str(made.STEPS) / "meta" / "metadata"
    stored = json.loads(meta.read_text())
    for config in (stored["config"], json.loads((tmp_path / "config.json").read_text())):
        del config["decoding"], config["attention"], config["data"]["draft"], config["model"]["image"]["patch_dropout"]
        if config is not stored["config"]:
            (tmp_path / "config.json").write_text(json.dumps(config))
    meta.write_text(json.dumps(stored))
    assert config_of(tmp_path).data.draft is True
    assert_near(made.values(mmjax.load(tmp_path)), expected["values"], "clip")


@pytest.mark.parametrize("name", made.CONFIGS)
def test_no_file_names_a_machine(name):
    words = rb"/(tmp|home|work|root|Users|mnt)/"
    assert not re.search(words, (made.FOLDER / f"{name}.json").read_bytes())
    with tarfile.open(made.FOLDER / f"{name}.tar.xz") as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):
            assert not re.search(words, tar.extractfile(member).read()), member.name
