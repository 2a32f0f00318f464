"""Tiny runs for the tests of the trainer, the command line and evaluation."""

import contextlib
import csv
import functools
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from PIL import Image

from mmjax import tasks
from mmjax.cli import eval
from mmjax.cli import train as train_lib
from mmjax.config import serialize
from mmjax.evaluation.embedding import embedder as embedder_lib
from mmjax.evaluation.evaluators import attention_maps
from mmjax.inference import eval_model
from mmjax.io import paths
from mmjax.parallel.make_mesh import make_mesh
from mmjax.report import page
from mmjax.training import build_step
from mmjax.training import step as step_lib
from mmjax.training import train as training
from tests.helpers import tiny_recipe

ROOT = Path(__file__).parents[2]
RECIPE = tiny_recipe.__file__
# Test files, test processes and the processes they start share what they compile.
_CACHE = {
    "jax_compilation_cache_dir": str(ROOT / ".pytest_cache" / "xla"),
    "jax_persistent_cache_min_compile_time_secs": 0.3,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
for _name, _value in _CACHE.items():
    jax.config.update(_name, _value)
# What differs from run to run on the same machine.
TIMES = {f"{name}_per_second" for name in ("images", "videos", "sounds", "rows", "examples")} | {
    "step_time",
    "data_wait",
    "eval_seconds",
    "mfu",
}


def config(**changes):
    """The tiny recipe with changes; `__` stands for a dot: `optimizer__freeze=("image/.*",)`."""
    result = tiny_recipe.get_config()
    with result.ignore_type():
        result.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return result


# -- runs in this process ----------------------------------------------------------------------------------------------

_made = {}


class _Task(tasks.Task):
    """Remembers how its parameters are made, so that asking for their shapes again traces nothing."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.init = jax.jit(super().init)
        self._by_remat = {}

    def rematerialised(self, remat):
        """The same object for the same choice, by which `shared_compilation` knows the step."""
        choice = str(sorted(remat.items()))
        if choice not in self._by_remat:
            self._by_remat[choice] = super().rematerialised(remat)
        return self._by_remat[choice]


def _shared(make, key):
    """Wraps a constructor so that equal keys get one object, and with it what has been compiled for it."""

    @functools.wraps(make)
    def wrapped(*args, **kwargs):
        name = (make, key(*args, **kwargs))
        if name not in _made:
            _made[name] = make(*args, **kwargs)
        return _made[name]

    return wrapped


def _groups(config, *groups):
    return json.dumps(
        {name: value for name, value in serialize.flatten(config).items() if name.startswith(groups)}, sort_keys=True
    )


# The schedule of the tiny recipe is constant: `steps` is no part of what is compiled.
_MODEL = (
    "model.",
    "objectives.",
    "data.positives",
    "data.context_length",
    "data.caption_prompt",
    "data.texts",
    "data.question_template",
    "data.video.",
    "data.audio.",
    "data.separation.",
    "attention",
    "precision",
    "loss.",
)
_STEP = (*_MODEL, "optimizer.", "schedule.", "microbatch", "ema_decay", "mesh.")


@contextlib.contextmanager
def shared_compilation():
    """Runs of one config share their compiled functions: compiling takes far longer than the few steps of a test."""

    def task(config, spec, tokenizer=None, mesh=None, facts=None):
        return _groups(config, *_MODEL), spec, str(tokenizer), mesh, facts

    init = lambda task, config, tx: (task, _groups(config, *_STEP))
    step = lambda task, config, tx, schedule, mesh, shardings: (task, _groups(config, *_STEP), mesh)
    embedder = lambda task, mesh, tokenizer, batch_size: (
        task,
        mesh,
        tokenizer and str(tokenizer.describe()),
        batch_size,
    )
    view = lambda task, mesh, tokenizer, patch_size: (task, mesh, str(tokenizer.describe()), patch_size)
    with (
        mock.patch.object(tasks, "Task", _shared(_Task, task)),
        mock.patch.object(build_step, "make_init", _shared(build_step.make_init, init)),
        mock.patch.object(step_lib, "make_train_step", _shared(step_lib.make_train_step, step)),
        mock.patch.object(embedder_lib, "MeshEmbedder", _shared(embedder_lib.MeshEmbedder, embedder)),
        mock.patch.object(attention_maps, "AttentionMapRenderer", _shared(attention_maps.AttentionMapRenderer, view)),
        mock.patch.dict(os.environ),  # the command line sets XLA_FLAGS
    ):
        yield


@contextlib.contextmanager
def on_devices(count):
    """Meshes are made of the first `count` devices."""
    of_first = lambda settings: make_mesh(settings, jax.devices()[:count])
    with mock.patch.object(training, "make_mesh", of_first), mock.patch.object(eval_model, "make_mesh", of_first):
        yield


_View = attention_maps.AttentionMapRenderer


@contextlib.contextmanager
def without_report():
    """Nothing is drawn, nor looked at for it."""
    with mock.patch.object(page, "write_report"), mock.patch.object(_View, "__call__", lambda *_: []):
        yield


def train(config, workdir, flags=(), *, write_report=False, devices=1, start=None):
    """`training.train.train`, by default without the report, whose drawing takes longer than the rest."""
    without = contextlib.nullcontext() if write_report else without_report()
    with shared_compilation(), on_devices(devices), without:
        return training.train(config, workdir, flags, start)


def train_cli(*argv, devices=1):
    """`mmjax train` with the tiny recipe; returns the exit status."""
    recipe = [] if any(str(arg).startswith("--config=") for arg in argv) else [f"--config={RECIPE}"]
    with shared_compilation(), on_devices(devices), without_report():
        return train_lib.main([*recipe, *map(str, argv)])


def eval_cli(*argv, devices=1):
    """`mmjax eval`; returns the exit status."""
    with shared_compilation(), on_devices(devices):
        return eval.main([*map(str, argv)])


# -- what a run leaves -------------------------------------------------------------------------------------------------


def lines(workdir, kind=None):
    """The lines of metrics.jsonl, every one of which must be JSON."""
    text = (paths.as_path(workdir) / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    return [line for line in map(json.loads, text.splitlines()) if kind in (None, line["kind"])]


def whole_lines(workdir):
    """The lines of a run that was killed, whose last one may be cut off."""
    return [line for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines(keepends=True) if "\n" in line]


def numbers(workdir, kind=None):
    """The lines without times, by (kind, step); fails when a step stands there twice."""
    result = {}
    for line in lines(workdir, kind):
        key = (line["kind"], line["step"])
        assert key not in result, f"{key} stands twice in metrics.jsonl"
        result[key] = {name: value for name, value in line.items() if name not in TIMES}
    return result


def steps(workdir):
    """The complete checkpoints."""
    folder = Path(workdir) / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def arrays(workdir, step):
    """All arrays of a checkpoint by path, as numpy."""
    folder = epath.Path(workdir) / "checkpoints" / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(folder).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(state)}


def assert_same_arrays(a, b):
    """Fails unless two states have the same arrays, bit for bit."""
    assert sorted(a) == sorted(b)
    different = [name for name in a if a[name].tobytes() != b[name].tobytes() or a[name].dtype != b[name].dtype]
    assert not different


def snapshot(folder):
    """Every file under a folder, on any file system, with its content."""
    files = {}
    for path in paths.as_path(folder).iterdir():
        if path.is_dir():
            files |= {f"{path.name}/{name}": content for name, content in snapshot(path).items()}
        else:
            files[path.name] = path.read_bytes()
    return files


# -- data --------------------------------------------------------------------------------------------------------------


def write_pairs(folder, count=9):
    """Writes JPEGs and a TSV of captions; returns the TSV's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with (folder / "captions.tsv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["filepath", "title"])
        for i in range(count):
            _jpeg(folder / f"{i}.jpg", rng)
            table.writerow([f"{i}.jpg", f"picture number {i}"])
    return folder / "captions.tsv"


def write_classes(folder, classes=("cat", "dog"), count=4):
    """Writes a folder of JPEGs by class; returns it."""
    rng = np.random.default_rng(1)
    for name in classes:
        (Path(folder) / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            _jpeg(Path(folder) / name / f"{i}.jpg", rng)
    return Path(folder)


def _jpeg(path, rng):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue())


# -- processes ---------------------------------------------------------------------------------------------------------


def environment(**changes):
    """For a Python that finds this checkout and compiles quickly, on one CPU device."""
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    cache = {name.upper(): str(value) for name, value in _CACHE.items()}
    return os.environ | quick | cache | changes


def python(*args, **options):
    """Runs Python and waits for its end."""
    return subprocess.run(
        [sys.executable, *map(str, args)], capture_output=True, text=True, env=environment(), **options
    )
