"""LoRA in training: which kernels, on meshes and in microbatches, small checkpoints that resume, merged when read."""

import json
import shutil

import jax
import numpy as np
import pytest

import mmjax
from mmjax import tasks
from mmjax.config import parse
from mmjax.errors import UserError
from mmjax.inference import convert
from mmjax.parallel.partition import flattened, nested
from mmjax.training import lora, param_roles
from mmjax.training.config import LoraConfig, OptimizerConfig
from tests.helpers import campaign, mesh_steps, runs

SHAPES = {
    "image/patch_embed/kernel": (8, 8, 3, 16),
    "image/transformer/layers/attention/qkv/kernel": (2, 16, 3, 4, 4),
    "image/transformer/layers/attention/out/kernel": (2, 4, 4, 16),
    "image/transformer/layers/mlp/fc1/kernel": (2, 16, 32),
    "image/transformer/layers/mlp/fc1/bias": (2, 32),
    "image_head/pool/attention/kv/kernel": (16, 2, 4, 4),
    "image_head/projection/kernel": (16, 8),
}
LORA = dict(rank=3, alpha=6.0)


def of(*which, rank=3):
    return lora.adapters(SHAPES, LoraConfig(rank=rank, which=which))


class TestWhich:
    def test_queries_keys_and_values_have_one_each(self):
        shapes = {x.a: (x.a_shape, x.b_shape) for x in of(*LoraConfig().which)}
        attention, pool = "image/transformer/layers/attention", "image_head/pool/attention"
        qkv = {f"{attention}/qkv/lora_{letter}_a": ((2, 16, 3), (2, 3, 4, 4)) for letter in "qkv"}
        kv = {f"{pool}/kv/lora_{letter}_a": ((16, 3), (3, 4, 4)) for letter in "kv"}
        out = {f"{attention}/out/lora_a": ((2, 4, 4, 3), (2, 3, 16))}
        assert shapes == qkv | out | {"image/transformer/layers/mlp/fc1/lora_a": ((2, 16, 3), (2, 3, 32))} | kv
        assert [x.a for x in of(".*qkv/kernel")] == list(qkv)
        assert [x.index for x in of("image/.*attention/(q|v)/kernel")] == [0, 2]
        assert [x.a for x in of("image_head/projection/kernel")] == ["image_head/projection/lora_a"]

    @pytest.mark.parametrize(
        "which, rank, message",
        [
            (("nothing/.*",), 3, "optimizer.lora.which='nothing/.*' matches no parameter path"),
            (
                (".*patch_embed/kernel",),
                3,
                "names image/patch_embed/kernel .*, and adapters are for the kernels of line",
            ),
            ((), 2, r"which=\(\) names no kernel; name some"),
            ((".*projection/kernel",), 9, "rank=9 is more than the 8 that image_head/projection/kernel can have"),
        ],
    )
    def test_mistakes(self, which, rank, message):
        with pytest.raises(UserError, match=message):
            of(*which, rank=rank)

    def test_what_is_trained(self):
        params = {path: np.zeros(shape, np.float32) for path, shape in SHAPES.items()}
        settings = LoraConfig(rank=3, which=(".*fc1/kernel",), full=("image_head",))
        params = lora.with_adapters(nested(params), settings, jax.random.key(0))

        def trained(**changes):
            frozen = flattened(lora.find_frozen(params, OptimizerConfig(lora=settings, **changes)))
            return [path for path in frozen if not frozen[path]]

        adapters = ["image/transformer/layers/mlp/fc1/lora_a", "image/transformer/layers/mlp/fc1/lora_b"]
        assert trained() == [*adapters, *(path for path in SHAPES if path.startswith("image_head/"))]
        assert trained(freeze=("image_head/pool/.*",)) == [*adapters, "image_head/projection/kernel"]
        with pytest.raises(UserError, match="freezes every adapter"):
            trained(freeze=(".*/lora_.*", "image_head"))
        assert param_roles.expand(("image", "text"), list(SHAPES)) == ("image/.*", "image_head/.*", "text")

    def test_fresh_ones_change_nothing(self):
        params = {path: np.ones(shape, np.float32) for path, shape in SHAPES.items()}
        settings = LoraConfig(**LORA)
        begun = lora.with_adapters(nested(params), settings, jax.random.key(0))
        flat = flattened(begun)
        for adapter in lora.adapters(SHAPES, settings):
            assert not flat[adapter.b].any()
            assert 0.5 < abs(flat[adapter.a]).max() * adapter.fan_in**0.5 <= 1
        placed = jax.device_put(begun, jax.devices()[0])
        runs.assert_same_arrays(flattened(lora.merged(placed, settings)), params)
        assert lora.with_adapters(params, LoraConfig(), None) is params


def test_a_layer_of_a_plugin_that_reads_no_adapter():
    params = nested({"dense/kernel": jax.numpy.ones((4, 3)), "other/kernel": jax.numpy.ones((4, 3))})
    params = lora.with_adapters(params, LoraConfig(rank=2, which=(".*",)), jax.random.key(0))

    def reading(*names):
        layer = lambda params: (params["kernel"] + params["lora_a"] @ params["lora_b"]).sum()
        return lambda params: sum(layer(params[name]) for name in names)

    lora.check_read(reading("dense", "other"), params)
    with pytest.raises(UserError, match="which names other/kernel, of a layer that reads no adapter"):
        lora.check_read(reading("dense"), params)


def change(**fields):
    """Changes of a config by dotted path, with `__` for dots."""

    def apply(config):
        config.optimizer.lora.update(LORA | {"full": ("logit_scale",)})
        with config.ignore_type():
            config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})

    return apply


@pytest.fixture(scope="module")
def reference():
    one = mesh_steps.Steps((1, 1, 1), change())
    return one, one.train(one.start(), 3)


MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)]
RUNS = [
    *((mesh, {}) for mesh in MESHES),
    ((2, 2, 2), dict(microbatch=2, model__image__remat="full", model__text__remat="dots")),
    ((2, 2, 2), dict(model__image__scan=False, model__text__scan=False)),
    ((8, 1, 1), dict(mesh__shard_optimizer=True)),
]


@pytest.mark.parametrize("mesh, fields", campaign.some(RUNS, [RUNS[4], RUNS[5]]))
def test_the_same_on_any_mesh_and_in_microbatches(mesh, fields, reference):
    _, (losses, gradient, end) = reference
    other = mesh_steps.Steps(mesh, change(**fields))
    their_losses, their_gradient, their_end = other.train(other.start(), 3)
    np.testing.assert_allclose(their_losses, losses, rtol=1e-5)
    assert mesh_steps.relative(their_gradient, gradient) < 1e-5
    assert mesh_steps.relative(mesh_steps.flat(their_end.params), mesh_steps.flat(end.params)) < 1e-5


def test_the_base_stays_and_has_no_moments(reference):
    one, (_, gradient, end) = reference
    start, after = mesh_steps.flat(one.start().params), mesh_steps.flat(end.params)
    trained = [path for path in start if "lora_" in path or path == "logit_scale"]
    assert sorted(gradient) == sorted(trained) and len(trained) == 1 + 2 * 2 * 6
    for path in start:
        assert np.array_equal(start[path], after[path]) == (path not in trained), path


def test_a_layer_computes_what_it_does_once_merged(reference):
    """Also where the last layer is computed for one token, of which queries alone are wanted."""
    one, _ = reference
    config = mesh_steps.config_of((1, 1, 1))
    for tower in (config.model.image, config.model.text):
        tower.scan = False
    task = tasks.Task(parse(config), tasks.make_image_spec(parse(config)))
    settings, params = LoraConfig(**LORA), one.start().params
    batch = mesh_steps.batch(0)

    def embed(params):
        images = task.embed_images(params, jax.numpy.asarray(batch["image"]))
        return images, task.embed_text(params, jax.numpy.asarray(batch["text"]), jax.numpy.asarray(batch["text_mask"]))

    adapted, merged = embed(lora.scaled(params, settings)), embed(lora.merged(params, settings))
    base = embed(lora.without_adapters(params))
    for a, b, c in zip(adapted, merged, base, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
        assert abs(a - c).max() > 1e-2


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and one with adapters from it: in one go, and killed in between."""
    folder = tmp_path_factory.mktemp("lora")
    base, at_once, resumed = (folder / name for name in ("base", "at_once", "resumed"))
    classes = runs.write_classes(folder / "classes")
    assert runs.train(runs.config(steps=2, checkpoint__every=2), base) is None
    changes = dict(
        init_from=str(base), ema_decay=0.5, checkpoint__every=2, optimizer__learning_rate=0.02, eval__every=0
    )
    config = runs.config(**changes, **{f"optimizer__lora__{name}": value for name, value in LORA.items()})
    config.optimizer.lora.full = ("logit_scale",)
    config.steps, config.data.eval = 4, f"folder:{classes}"
    assert runs.train(config, at_once) is None
    config.steps = 2
    assert runs.train(config, resumed) is None
    config.steps = 4
    assert runs.train(config, resumed) is None
    return base, at_once, resumed, config


class TestCheckpoints:
    def test_resumed_bit_for_bit(self, trained):
        _, at_once, resumed, _ = trained
        runs.assert_same_arrays(runs.arrays(at_once, 4), runs.arrays(resumed, 4))
        assert runs.numbers(at_once, "train")[("train", 4)] == runs.numbers(resumed, "train")[("train", 4)]

    def test_they_hold_adapters_and_the_base_is_stored_once(self, trained):
        base, at_once, *_ = trained
        parts = [name for name in runs.arrays(at_once, 4) if name.startswith(("['params']", "['ema_params']"))]
        assert len(parts) == 2 * 25 and all("lora_" in name or "logit_scale" in name for name in parts)
        theirs = {name: x for name, x in runs.arrays(base, 2).items() if name.startswith("['params']")}
        runs.assert_same_arrays(
            _arrays_of_base(at_once), {name: x for name, x in theirs.items() if "logit_scale" not in name}
        )

    def test_loaded_it_is_the_model_with_the_average_of_its_adapters_merged(self, trained):
        base, at_once, _, config = trained
        params = flattened(mmjax.load(at_once).params)
        arrays = runs.arrays(at_once, 4)
        plain = {name: x for name, x in runs.arrays(base, 2).items() if name.startswith("['params']")}
        path = "['image']['transformer']['layers']['mlp']['fc1']"
        a, b = (arrays[f"['ema_params']{path}['lora_{letter}']"].astype(np.float64) for letter in "ab")
        want = plain[f"['params']{path}['kernel']"] + 2.0 * np.einsum("ldr,lrf->ldf", a, b)
        assert abs(a @ b).max() > 1e-4
        np.testing.assert_allclose(params["image/transformer/layers/mlp/fc1/kernel"], want, atol=1e-6)
        assert sorted(params) == sorted(name[len("['params']['") : -2].replace("']['", "/") for name in plain)

    @pytest.mark.full
    def test_converted_and_started_from_it_is_merged(self, trained, tmp_path):
        _, at_once, _, _ = trained
        expected = flattened(mmjax.load(at_once).params)
        convert.convert(at_once, tmp_path / "mmjax", to="mmjax")
        convert.convert(at_once, tmp_path / "openclip", to="openclip")
        for folder in ("mmjax", "openclip"):
            runs.assert_same_arrays(flattened(mmjax.load(tmp_path / folder).params), expected)
        config = runs.config(init_from=str(at_once), steps=2, checkpoint__every=2, optimizer__freeze=("image",))
        assert runs.train(config, tmp_path / "next") is None
        arrays = runs.arrays(tmp_path / "next", 2)
        name, path = "['params']['image']['transformer']['layers']['mlp']['fc1']['kernel']", "image/transformer/layers/"
        np.testing.assert_array_equal(arrays[name], expected[f"{path}mlp/fc1/kernel"])

    @pytest.mark.full
    def test_its_own_evaluation_is_of_the_merged_model(self, trained, tmp_path):
        _, at_once, _, _ = trained
        (line,) = runs.lines(at_once, "eval")
        assert runs.eval_cli(f"--workdir={at_once}", f"--output={tmp_path / 'r.json'}") == 0
        records = json.loads((tmp_path / "r.json").read_text())
        metrics = {f"{r['dataset']}/{name}": x for r in records for name, x in r["metrics"].items()}
        assert metrics and metrics == {name: value for name, value in line.items() if "/" in name}

    def test_a_base_that_is_missing_or_anothers(self, trained, tmp_path):
        base, at_once, resumed, config = trained
        shutil.copytree(at_once, tmp_path / "run")
        shutil.rmtree(tmp_path / "run" / "base")
        with pytest.raises(
            UserError, match="hold adapters alone .*, and .*base, what they were trained on, is not there"
        ):
            mmjax.load(tmp_path / "run")
        shutil.copytree(base / "checkpoints" / "2", tmp_path / "run" / "base" / "0")
        config.steps = 6
        for read in (mmjax.load, lambda folder: runs.train(config, folder)):
            with pytest.raises(UserError, match="base is not what the adapters of this checkpoint were trained on"):
                read(tmp_path / "run")
        with pytest.raises(UserError, match="holds another model .*optimizer.lora.rank: 3 -> 2"):
            config.optimizer.lora.rank = 2
            runs.train(config, resumed)


def _arrays_of_base(workdir):
    """What lies in the base of a run, by path."""
    shutil.copytree(workdir / "base", workdir / "copy" / "checkpoints", dirs_exist_ok=True)
    return runs.arrays(workdir / "copy", 0)


def test_fields_that_are_not_read_and_values_that_cannot_be(tmp_path):
    for changes, message in (
        (dict(optimizer__lora__alpha=8.0), "optimizer.lora.alpha=8.0 is not read with optimizer.lora.rank=0"),
        (dict(optimizer__lora__rank=-1), "optimizer.lora.rank=-1 must not be negative"),
        (dict(optimizer__lora__rank=2, optimizer__lora__alpha=0.0), "optimizer.lora.alpha=0.0 must be positive"),
        (dict(optimizer__lora__rank=2, optimizer__lora__full=("x",)), "optimizer.lora.full='x' matches no parameter"),
    ):
        with pytest.raises(UserError, match=message):
            runs.train(runs.config(**changes), tmp_path)


@pytest.mark.full
def test_what_is_locked_and_fresh_is_said(trained, tmp_path, capsys):
    base, *_ = trained
    config = runs.config(init_from=str(base), steps=2, init_paths=("image",), optimizer__lora__rank=2)
    assert runs.train(config, tmp_path) is None
    output = capsys.readouterr().out
    assert "note: optimizer.lora locks what init_from has not: logit_scale, text (" in output
    assert "; name them in optimizer.lora.full" in output
