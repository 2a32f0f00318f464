"""Checkpoints: what is kept, restored bit for bit on any mesh, complete or not there, on any file system."""

import json
import os
import uuid

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import upath
from jax.sharding import NamedSharding, PartitionSpec

from mmjax import tasks
from mmjax.config import parse, to_dict
from mmjax.data.image import transforms
from mmjax.errors import UserError
from mmjax.io import paths
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from mmjax.training import checkpoint, stored_meta
from mmjax.training.config import CheckpointConfig
from tests.helpers import runs

P = PartitionSpec


@pytest.fixture
def remote():
    """A folder on fsspec's memory:// file system."""
    folder = paths.as_path(f"memory://mmjax-{uuid.uuid4().hex}")
    yield folder
    if folder.exists():
        paths.remove_tree(folder)


def small_state(value=0.0, ema=False):
    params = {"image": {"kernel": jnp.arange(12.0).reshape(3, 4) + value}, "logit_scale": jnp.float32(value)}
    average = jax.tree.map(lambda x: x + 100, params) if ema else None
    return {"step": jnp.int32(value), "params": params, "opt_state": ({}, params), "ema_params": average}


def save_all(folder, steps, metrics=None, **settings):
    """Saves small states; `metrics` by step."""
    checkpoints = checkpoint.Checkpoints(folder, CheckpointConfig(**settings))
    for step in steps:
        checkpoints.save(step, small_state(step), {"step": step}, (metrics or {}).get(step))
    checkpoints.wait()
    kept = checkpoints.all_steps()
    checkpoints.close()
    return kept


def abstract_of(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


@pytest.mark.parametrize("storage", ["local", "remote"])
class TestWhatIsKept:
    """The latest N and the best K; the latest always survives."""

    @pytest.fixture
    def folder(self, storage, tmp_path, remote):
        return tmp_path / "checkpoints" if storage == "local" else remote / "checkpoints"

    def test_latest(self, folder):
        assert save_all(folder, [1, 2, 3, 4, 5], keep=2) == [4, 5]
        assert save_all(folder, [6], keep=2) == [5, 6]  # another process goes on
        assert save_all(folder, [7], keep=1) == [7]

    def test_best(self, folder):
        accuracy = {1: {"d/acc1": 0.1}, 2: {"d/acc1": 0.9}, 3: {"d/acc1": 0.5}, 5: {"d/acc1": 0.3}}
        settings = dict(keep=1, keep_best=2, best_metric="d/acc1")
        assert save_all(folder, [1, 2, 3], accuracy, **settings) == [2, 3]
        # Not evaluated at 4: kept as the latest, and no longer than that.
        assert save_all(folder, [4], accuracy, **settings) == [2, 3, 4]
        assert save_all(folder, [5, 6], accuracy, **settings) == [2, 3, 6]
        # Better ones take the places, of two equal ones the later.
        assert save_all(folder, [7, 8], {7: {"d/acc1": 0.9}}, **settings) == [2, 7, 8]

    def test_a_metric_that_there_is_not(self, folder):
        with pytest.raises(UserError, match=r"checkpoint.best_metric='d/acc' .*did you mean 'd/acc1'"):
            save_all(folder, [1], {1: {"d/acc1": 0.1, "d/loss": 1.0}}, keep_best=1, best_metric="d/acc")

    def test_restored_by_another_process(self, folder):
        save_all(folder, [1, 2], keep=2)
        checkpoints = checkpoint.Checkpoints(folder, CheckpointConfig(keep=2))
        for step in (2, 1):
            state = small_state(step)
            restored = checkpoints.restore(step, abstract_of(state))
            jax.tree.map(np.testing.assert_array_equal, restored, state)
            assert checkpoints.read_meta(step) == {"step": step}
        # What has been read does not keep a later save from removing it.
        checkpoints.save(3, small_state(3), {})
        checkpoints.wait()
        assert checkpoints.all_steps() == [2, 3]
        checkpoints.close()

    def test_half_a_checkpoint_is_none(self, folder):
        save_all(folder, [1, 2], keep=5)
        if paths.scheme(paths.as_path(folder)):  # copied in part: the marker comes last
            (paths.as_path(folder) / "2" / "COMPLETE").unlink()
        else:  # written in part: renamed last
            (folder / "2").rename(folder / "2.orbax-checkpoint-tmp-1")
        reader = checkpoint.Checkpoints(folder, read_only=True)
        assert reader.all_steps() == [1] and reader.latest() == 1
        reader.close()
        assert save_all(folder, [2], keep=5) == [1, 2]
        assert sorted(path.name for path in paths.as_path(folder).iterdir()) == ["1", "2"]

    def test_reading_changes_nothing(self, folder):
        save_all(folder, [1, 2], keep=2)
        before = runs.snapshot(folder)
        reader = checkpoint.Checkpoints(folder, read_only=True)
        assert reader.latest() == 2 and reader.read_meta(2) == {"step": 2}
        abstract = abstract_of(small_state()["params"])
        np.testing.assert_array_equal(reader.restore_params(1, abstract)["image"]["kernel"][0], np.arange(4.0) + 1)
        reader.close()
        assert runs.snapshot(folder) == before


class TestRestore:
    def test_onto_another_mesh(self, tmp_path):
        rng = np.random.default_rng(0)
        values = {name: rng.standard_normal((16, 8)).astype(np.float32) for name in "abc"}
        values["d"] = values["a"].astype(jnp.bfloat16)
        specs = {"a": P("fsdp"), "b": P(None, "fsdp"), "c": P(), "d": P("fsdp")}

        def shapes(data, fsdp, tensor):
            devices = jax.devices()[: data * fsdp * tensor]
            mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor), devices)
            return {
                name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, specs[name]))
                for name, x in values.items()
            }

        saved = {name: jax.device_put(x, shapes(1, 8, 1)[name].sharding) for name, x in values.items()}
        checkpoints = checkpoint.Checkpoints(tmp_path)
        checkpoints.save(1, saved, {})
        checkpoints.wait()
        for shape in ((1, 8, 1), (2, 4, 1), (4, 1, 2), (1, 2, 1), (1, 1, 1)):
            target = shapes(*shape)
            restored = checkpoints.restore(1, target)
            for name, x in restored.items():
                assert x.sharding == target[name].sharding, (shape, name)
                assert np.asarray(x).tobytes() == values[name].tobytes(), (shape, name)
        checkpoints.close()

    @pytest.mark.parametrize(("ema", "prefer_average", "added"), [(0, 1, 0), (1, 1, 100), (1, 0, 0)])
    def test_parameters_alone(self, tmp_path, ema, prefer_average, added):
        state = small_state(5.0, ema=bool(ema))
        checkpoints = checkpoint.Checkpoints(tmp_path)
        checkpoints.save(1, state, {})
        checkpoints.close()
        reader = checkpoint.Checkpoints(tmp_path, read_only=True)
        params = reader.restore_params(1, abstract_of(state["params"]), prefer_average=bool(prefer_average))
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + added), params, state["params"])
        assert reader.param_shapes(1) == {"image/kernel": (3, 4), "logit_scale": ()}

    def test_a_save_in_the_background_is_not_reached_by_later_steps(self, tmp_path):
        """Steps that are given the state's memory run while it is being written."""
        step = jax.jit(lambda state: jax.tree.map(lambda x: x * 1.5 + 1, state), donate_argnums=0)
        state = {f"{i}": jnp.full((512, 1024), i, jnp.float32) for i in range(8)}
        checkpoints = checkpoint.Checkpoints(tmp_path, CheckpointConfig(keep=10))
        expected = {}
        for number in range(1, 31):
            state = step(state)
            if number % 10 == 0:
                expected[number] = jax.tree.map(lambda x: np.array(x, copy=True), state)
                checkpoints.save(number, state, {})
        checkpoints.wait()
        for number, values in expected.items():
            restored = checkpoints.restore(number, abstract_of(state))
            jax.tree.map(np.testing.assert_array_equal, restored, values)
        checkpoints.close()


class TestMeta:
    """A checkpoint alone tells how to evaluate with it."""

    def test_content(self):
        config = runs.config(data__eval="digits/test")
        spec = transforms.ImageSpec(size=16, resize="squash", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
        tokenizer = tasks.make_tokenizer(parse(config))
        meta = json.loads(
            json.dumps(checkpoint.make_meta(parse(config), 48, spec, tokenizer, bad_examples={"read": 2}))
        )
        assert transforms.ImageSpec(**meta["preprocessing"]) == spec
        assert meta["config"] == json.loads(json.dumps(to_dict(parse(config))))
        assert meta["config"]["data"]["eval"] == "digits/test"
        assert meta["position"] == 48 and meta["bad_examples"] == {"read": 2}
        assert meta["tokenizer"]["spec"] == "bytes" and meta["tokenizer"]["vocab_size"] == 259
        assert meta["tokenizer_file"] is None
        assert meta["versions"]["jax"] == jax.__version__ and "orbax-checkpoint" in meta["versions"]
        assert meta["device"] == "cpu"

    def test_the_tokenizers_file_travels_with_it(self, tmp_path):
        """Rebuilt from the checkpoint when the file is gone, it gives the same ids."""
        from tokenizers import Tokenizer, models, pre_tokenizers

        words = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "red": 2, "square": 3}, unk_token="[UNK]"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        file = tmp_path / "tokenizer.json"
        words.save(str(file))
        spec = f"json:{file}"
        config = runs.config(data__tokenizer=spec, model__text__eos_id=1)
        made = tasks.make_tokenizer(parse(config))
        checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")
        checkpoints.save(
            1, small_state(), checkpoint.make_meta(parse(config), 0, tasks.make_image_spec(parse(config)), made)
        )
        checkpoints.close()
        file.unlink()
        with pytest.raises(UserError, match="cannot read"):
            tasks.make_tokenizer(parse(config))

        meta = checkpoint.Checkpoints(tmp_path / "checkpoints", read_only=True).read_meta(1)
        stored = parse(meta["config"])
        again = tasks.make_tokenizer(stored, file=stored_meta.read_tokenizer_file(meta, stored, "here"))
        texts = ["red square", "a blue square", ""]
        np.testing.assert_array_equal(again(texts)[0], made(texts)[0])
        assert again.describe() == made.describe() == meta["tokenizer"]

    def test_reading_it_starts_no_device(self, tmp_path):
        """`mmjax eval` reads the config before XLA's flags, which the config holds, are set."""
        save_all(tmp_path, [1])
        code = (
            "import sys; from jax._src import xla_bridge; from mmjax.training import checkpoint;"
            f"print(checkpoint.Checkpoints({str(tmp_path)!r}, read_only=True).read_meta(1));"
            "sys.exit(bool(xla_bridge._backends))"
        )
        assert runs.python("-c", code).returncode == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(keep=0), "checkpoint.keep=0 must be at least 1"),
        (dict(keep_best=-1), "checkpoint.keep_best=-1 must not be negative"),
        (dict(keep_best=1), "checkpoint.keep_best=1 needs checkpoint.best_metric"),
    ],
)
def test_settings(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        checkpoint.Checkpoints(tmp_path / "new", CheckpointConfig(**settings))
    assert not (tmp_path / "new").exists()


def test_paths():
    assert isinstance(paths.as_path("memory://a/b"), upath.UPath)
    assert paths.scheme(paths.as_path("memory://a/b")) == "memory"
    assert paths.scheme(paths.as_path("/a/b")) == "" and paths.is_direct("/a/b") and paths.is_direct("gs://b")
    assert not paths.is_direct(paths.as_path("memory://a"))
    with pytest.raises(UserError, match="foo"):
        paths.as_path("foo://a/b")


def test_a_workdir_whose_name_is_not_utf_8_is_refused(tmp_path):
    with pytest.raises(UserError, match="its name is not UTF-8"):
        checkpoint.check_folder(tmp_path / os.fsdecode(b"caf\xe9"))
