"""Every test process: eight simulated devices, quick compilation, shapes and types checked at run time."""

import gc
import importlib.util
import os
import sys
import types
from pathlib import Path

# A GPU test is run with JAX_PLATFORMS=cuda; all others are for the CPU, wherever they run.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jaxlib

# The tests compile many small programs and run each a few times. Without LLVM's optimisation and without this code
# generator of jaxlib 0.10 a training step compiles in 3 s instead of 17 s. Unknown flags are fatal, hence the version.
if jaxlib.__version__.startswith("0.10."):
    # The threads of eight devices may wait for a busy core for longer than the 40 s after which XLA ends the process.
    flags_of_xla = ["--xla_cpu_collective_call_terminate_timeout_seconds=600"]
    if not os.environ.get("MMJAX_ORDINARY_XLA"):
        flags_of_xla.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags_of_xla])

# torchvision's build for CUDA beside PyTorch's for CPUs: this module of it registers operators that are not there.
if importlib.util.find_spec("torchvision"):
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")

import jax
import jaxtyping
import numpy as np
import pytest
from absl import flags

from tests.helpers import typecheck  # the import hook below finds its `check` by name

jax.config.update("jax_num_cpu_devices", 8)
# `make smoke` compiles as users do.
jax.config.update("jax_disable_most_optimizations", not os.environ.get("MMJAX_ORDINARY_XLA"))

# Arrays' shapes and types are checked against the annotations at every call. `training.state` stays out: its fields
# hold shapes and shardings as well as arrays.
jaxtyping.jaxtyped = typecheck.jaxtyped
jaxtyping.install_import_hook(
    [
        "mmjax.nn",
        "mmjax.models",
        "mmjax.objectives",
        "mmjax.tasks",
        "mmjax.parallel",
        "mmjax.models.generation",
        "mmjax.training.optimizer",
        "mmjax.training.schedules",
        "mmjax.training.step",
        "mmjax.evaluation",
        "mmjax.metrics",
        "mmjax.data",
        "mmjax.io",
        "mmjax.utils",
        "mmjax.search",
        "mmjax.report",
    ],
    "tests.helpers.typecheck.check",
)
flags.FLAGS.mark_as_parsed()
# Tracing makes many objects that live on, which the collector would look through again and again.
gc.set_threshold(50_000, 20, 50)


def pytest_configure(config):
    config.addinivalue_line("markers", "full: too slow for `make test`; run by `make test-full`")
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU")


# Files that take longest. They go first, so that no process is busy with one of them when the others are done.
_LONGEST = ["packing_length_groups", "loop_meshes", "loop_resume", "packing", "task_objectives", "step"]
_LONGEST += ["docs_blocks", "examples"]
_LONGEST += ["old_checkpoints", "published_towers", "published_towers_values", "wheel", "step_lean", "evaluate_kinds"]
_LONGEST += ["program_kinds", "recipes", "initialisation", "export_live", "loop", "plugin_runs", "packing_choice"]


def pytest_collection_finish():
    gc.freeze()  # modules and collected tests, which stay to the end


def pytest_collection_modifyitems(items):
    order = {f"test_{name}.py": number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


_MAPS = Path("/proc/self/maps")
_MANY_MAPS, _COMPILES_BETWEEN_LOOKS = 20_000, 50
_compiles = 0


def _count_compile(event, *_, **__):
    global _compiles
    _compiles += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count_compile)


@pytest.fixture(autouse=True)
def few_memory_maps():
    """Compiled programs are dropped in time: a process has 65,530 memory maps; without one, jaxlib crashes."""
    global _compiles
    yield
    if _compiles >= _COMPILES_BETWEEN_LOOKS and _MAPS.exists():
        _compiles = 0
        if _MAPS.read_bytes().count(b"\n") > _MANY_MAPS:
            jax.clear_caches()
            gc.collect()


@pytest.fixture(scope="session")
def random_params():
    """Returns a function that fills a tree of shapes with random float32 numbers; nothing is compiled for it."""

    def fill(shapes, seed=0, std=0.15):
        rng = np.random.default_rng(seed)

        def leaf(path, x):
            values = std * rng.standard_normal(x.shape)
            return (values + (path[-1].key == "scale")).astype(np.float32)

        return jax.tree_util.tree_map_with_path(leaf, shapes)

    return fill
