"""XLA flags, memory and compilation cache, set before the devices start."""

import importlib.metadata
import importlib.util
import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from mmjax.config.schema import RunConfig
from mmjax.errors import UserError

# XLA ends the process at a flag that it does not know. jaxlib from this version on has not been looked at.
_UNKNOWN_FROM = (0, 13)
# Flag: (value, first jaxlib that knows it). XLA leaves these off; asynchronous collectives and command buffers are on
# without being asked for. Read off the schedule of B/32 on eight H100, the gradients' bytes whose reduction starts when
# the backward pass has no product left to run beside: 2 % with all of them (docs/scaling.md has the others).
_GPU_FLAGS = {
    # Moves what computes between a collective's start and its end; gathers the next layer's weights ahead under fsdp.
    "--xla_gpu_enable_latency_hiding_scheduler": ("true", (0, 10)),
    # Else a collective is not started before the one before it has been waited for. They run in order all the same.
    "--xla_gpu_experimental_parallel_collective_overlap_limit": ("128", (0, 10)),
    "--xla_gpu_experimental_collective_start_as_early_as_possible": ("true", (0, 10, 2)),
    # XLA joins the same parameter's gradients of several layers, 30 MB of them, and reduces them when it has the last.
    "--xla_gpu_all_reduce_combine_threshold_bytes": (str(8 << 20), (0, 10)),
}
_DETERMINISTIC = "--xla_gpu_deterministic_ops"
# Share of a GPU's memory that a training run takes; jax's own default is 0.75. The rest is for the driver, cuDNN, NCCL.
GPU_MEMORY = 0.92
MEMORY_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
_PCI_DEVICES, _GOOGLE = Path("/sys/bus/pci/devices"), "0x1ae0"  # the maker of all TPUs
_GPU_PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


def is_deterministic(value: bool | str, platform: str) -> bool:
    """Whether a run is deterministic on a platform: `auto` is off on GPUs, where it costs speed."""
    return platform != "gpu" if value == "auto" else bool(value)


def xla_flags(
    platform: str, jaxlib: str, *, deterministic: bool | str = "auto", from_config: str = "", environment: str = ""
) -> str:
    """The value of XLA_FLAGS for a run.

    Args:
      platform: `gpu`, `tpu` or `cpu`.
      jaxlib: its version.
      deterministic: `config.deterministic`.
      from_config: `config.xla_flags`, without those of TPUs.
      environment: what XLA_FLAGS is already; it wins over `from_config`, and both over what is set here.
    """
    wanted = gpu_flags(jaxlib) if platform == "gpu" else {}
    if deterministic is True:
        wanted[_DETERMINISTIC] = "true"
    named = {flag.partition("=")[0] for flag in [*from_config.split(), *environment.split()]}
    added = [f"{name}={value}" for name, value in wanted.items() if name not in named]
    return " ".join([*added, *from_config.split(), *environment.split()])  # XLA takes the last of several


def gpu_flags(jaxlib: str) -> dict[str, str]:
    """Flags for GPUs that a jaxlib knows, by name; none of a version that is not known here."""
    version = tuple(int(part) for part in re.findall(r"\d+", jaxlib)[:3])
    return {name: value for name, (value, since) in _GPU_FLAGS.items() if since <= version < _UNKNOWN_FROM}


def expected_platform(environment: Mapping[str, str]) -> str:
    """The platform that jax will choose, as far as is known without starting it: `gpu`, `tpu` or `cpu`."""
    first = (environment.get("JAX_PLATFORMS") or environment.get("JAX_PLATFORM_NAME") or "").split(",")[0]
    if first:
        return {"cuda": "gpu"}.get(first, first)
    return "gpu" if any(importlib.util.find_spec(plugin) for plugin in _GPU_PLUGINS) else "cpu"


def _only_cpus(environment: Mapping[str, str]) -> bool:
    """Whether jax can find nothing but CPUs: nobody names a platform, and there is neither a TPU nor another plugin."""
    if environment.get("JAX_PLATFORMS") or environment.get("JAX_PLATFORM_NAME") or "JAX_FORCE_TPU_INIT" in environment:
        return False
    if importlib.util.find_spec("jax_plugins") or importlib.metadata.entry_points(group="jax_plugins"):
        return False
    return not any(path.read_text().strip() == _GOOGLE for path in _PCI_DEVICES.glob("*/vendor"))


def set_environment(config: RunConfig, platform: str | None = None, *, training: bool = False) -> None:
    """Sets what jax and XLA read when the devices start.

    Args:
      config: the run's config.
      platform: what is compiled for; by itself, what jax is expected to choose.
      training: whether the process may take nearly all of a GPU's memory.
    """
    if platform is None and _only_cpus(os.environ):
        os.environ["JAX_PLATFORMS"] = "cpu"  # libtpu, where it is installed, would complain that it finds no TPU
        if "jax" in sys.modules:  # which has read the variable
            sys.modules["jax"].config.update("jax_platforms", "cpu")
    platform = platform or expected_platform(os.environ)
    # libtpu reads its flags elsewhere. It hides latency and overlaps collectives by itself.
    from_config = config.xla_flags.split()
    tpu_flags = [flag for flag in from_config if flag.startswith("--xla_tpu")]
    if tpu_flags:
        os.environ["LIBTPU_INIT_ARGS"] = " ".join([*tpu_flags, os.environ.get("LIBTPU_INIT_ARGS", "")]).strip()
    os.environ["XLA_FLAGS"] = xla_flags(
        platform,
        importlib.metadata.version("jaxlib"),
        deterministic=config.deterministic,
        from_config=" ".join(flag for flag in from_config if flag not in tpu_flags),
        environment=os.environ.get("XLA_FLAGS", ""),
    )
    if training and platform == "gpu" and not any(os.environ.get(name) for name in MEMORY_VARIABLES):
        os.environ[MEMORY_VARIABLES[0]] = str(GPU_MEMORY)


def gpu_memory_share() -> float:
    """The share of a GPU's memory that a training run takes.

    Raises:
      UserError: the environment asks for another than one from 0 to 1.
    """
    named = [(name, os.environ[name]) for name in MEMORY_VARIABLES if os.environ.get(name)]
    name, text = (named or [("", str(GPU_MEMORY))])[0]
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise UserError(f"{name}={text}: give the share of the GPU's memory that jax may use, such as 0.92")
    return share


def set_compilation_cache(config: RunConfig) -> None:
    """Chooses where compiled programs are kept, and with them (jax's default) what a GPU's kernels were tuned to.

    It may start the devices.
    """
    import jax

    folder = config.compilation_cache
    if folder == "auto":
        # On CPU loading is no faster than compiling and warns about machine features.
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mmjax" / "xla"
        folder = "" if jax.default_backend() == "cpu" else str(cache)
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)


def describe(config: RunConfig, platform: str) -> str:
    """The line of a run's log on determinism, and on flags where there are none."""
    if is_deterministic(config.deterministic, platform):
        line = "deterministic: the same bits on the same devices"
    else:
        line = "not deterministic: repeated or resumed, a run differs in the last bits; deterministic=True costs speed"
    version = importlib.metadata.version("jaxlib")
    if platform == "gpu" and not gpu_flags(version):
        line += f"; no XLA flags are known here for jaxlib {version}: gradients may be reduced while nothing else runs"
    return line
