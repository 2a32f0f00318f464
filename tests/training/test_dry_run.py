"""`mmjax train --dry-run`: what a run would be, of which nothing is made."""

import jax
import pytest

from mmjax.errors import UserError
from mmjax.training import dry_run, train
from tests import test_old_checkpoints
from tests.helpers import runs


@pytest.fixture
def compiled():
    """How many programs were compiled."""
    events = []

    def count(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    yield events
    jax.monitoring.unregister_event_duration_listener(count)


def describe(config, workdir=None, devices=1):
    with runs.on_devices(devices):
        return dry_run.describe(config, workdir)


def test_data_examples_and_epochs_are_those_of_the_run(tmp_path):
    table = runs.write_pairs(tmp_path / "pairs", count=20)
    config = runs.config(steps=10, batch_size=16, data__train=f"pairs:{table}@3+shapes@1", data__eval="digits/test")
    lines = describe(config)
    assert lines[1] == "training: 10 steps of 16 examples: 160 examples"
    assert lines[2].endswith(": 20 examples, 75% of the examples; 6 epochs")
    assert lines[3].startswith("  shapes/train: 1,000,000 examples, 25%")
    image = 16 * config.model.image.image_size**2 * 3
    assert lines[4].startswith("a batch on the host of each process: ") and f"(image {image / 1e3:.2f} kB" in lines[4]
    assert lines[5:7] == ["evaluation:", "  digits: 355 examples"]
    assert "evaluation: none, as data.eval is empty" in describe(runs.config())


@pytest.mark.parametrize(
    ("devices", "mesh"), [pytest.param(1, {}, marks=pytest.mark.full), (8, dict(mesh__fsdp=4, mesh__tensor=2))]
)
def test_parameters_and_memory_are_those_of_the_state(devices, mesh, monkeypatch):
    monkeypatch.setattr("mmjax.parallel.partition.MIN_SHARDED_SIZE", 1)
    monkeypatch.setattr(dry_run, "_GB", 1.0)  # bytes
    config = runs.config(ema_decay=0.9, optimizer__freeze=("image/.*",), **mesh)
    with runs.on_devices(devices):
        opened = train.open_run(config, None)
        state = opened.setup.make_state(0)
        lines = dry_run.describe(config)
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    frozen = count(state.params["image"])
    assert f"parameters: {count(state.params):,}, {count(state.params) - frozen:,} of them trained" in lines
    assert f"  image: {frozen:,}" in lines
    held = lambda tree: sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))
    assert f"  parameters: {held(state.params):,.3f} GB" in lines
    assert f"  optimizer: {held(state.opt_state):,.3f} GB" in lines
    assert f"  moving average: {held(state.ema_params):,.3f} GB" in lines
    assert any(line.startswith(f"memory of a device ({devices} x cpu; mesh data 1 x ") for line in lines)


def test_nothing_is_written_or_compiled(tmp_path, monkeypatch, capsys, compiled):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    runs.train_cli("--dry-run")
    compiled.clear()  # the key of the parameters' shapes is made by a small program of jax
    assert runs.train_cli("--dry-run", f"--workdir={tmp_path / 'run'}", "--config.steps=7") == 0
    assert "training: 7 steps of 16 examples: 112 examples" in capsys.readouterr().out
    assert not list(tmp_path.iterdir()) and not compiled


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.data.train=folder:nowhere"], "nowhere"),
        (["--config.batch_size=15", "--config.microbatch=2"], "batch_size=15 does not divide"),
        (["--config.checkpoint.keep_best=1"], "checkpoint.best_metric"),
        (["--config.optimizer.freeze=imagee/.*"], "matches no parameter path"),
        (["--config.init_from=nowhere"], "init_from='nowhere'"),
    ],
)
def test_mistakes_are_those_of_training(flags, message, capsys):
    assert runs.train_cli("--dry-run", *flags) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "workdir", "message"),
    [
        ({"seed": 0}, "run", "config is a dict; give a ConfigDict"),
        (None, "run", "config is a NoneType; give a ConfigDict"),
        (runs.config(optimizer__learning_rate=float("inf")), "run", "learning_rate=inf must be positive and finite"),
        (runs.config(), None, "path None: give a path"),
    ],
)
def test_what_python_gives_to_training_is_checked(config, workdir, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        train.train(config, workdir)
    assert not list(tmp_path.iterdir())


def test_parameters_to_start_from_fit(tmp_path):
    test_old_checkpoints.unpack("clip", tmp_path)
    config = test_old_checkpoints.config_of(tmp_path)
    config.init_from = str(tmp_path)
    assert dry_run.describe(config)
    config.model.embed_dim *= 2
    with pytest.raises(UserError, match="init_from=.* has shape .* here"):
        dry_run.describe(config)


def test_a_workdir_of_another_run_is_refused_and_left(tmp_path):
    runs.train(runs.config(steps=2), tmp_path / "run")
    before = runs.snapshot(tmp_path)
    assert describe(runs.config(steps=3), tmp_path / "run")[1] == "training: 3 steps of 16 examples: 48 examples"
    with pytest.raises(UserError, match="holds another model"):
        describe(runs.config(model__image__width=64), tmp_path / "run")
    assert runs.snapshot(tmp_path) == before
