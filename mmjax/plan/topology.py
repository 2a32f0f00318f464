"""Topologies that are not there: TPU slices and GPU hosts, whose devices can be compiled for and nothing else."""

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

from mmjax.errors import UserError, did_you_mean
from mmjax.plan import gpu_targets

# TPU chip -> axes of its interconnect, an example, and options for jax.experimental.topologies.
CHIPS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "v4": (3, "v4:4x4x4", {"chip_config_name": "megacore"}),  # both cores of a chip as one device, as on Cloud TPU
    "v5e": (2, "v5e:16x16", {}),
    "v5p": (3, "v5p:4x4x4", {}),
    "v6e": (2, "v6e:16x16", {}),
}
GPUS = gpu_targets.TARGETS
EXAMPLES = ", ".join([*(example for _, example, _ in CHIPS.values()), *(f"{gpu}:8" for gpu in GPUS), "h100:4x8"])
# libtpu looks for a TPU's surroundings unless these are set, and warns at length that there are none.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # two plans may run at once; none of them holds a TPU
}
# jax's CUDA plugin looks for a driver and for every library that running needs, unless these are set.
_GPU_ENVIRONMENT = {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
# There is no GPU to time matrix products on.
_GPU_FLAGS = "--xla_gpu_autotune_level=0"
PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")


def is_gpu(name: str) -> bool:
    """Whether a topology's name is one of GPUs."""
    return name.partition(":")[0] in GPUS


def set_environment(name: str) -> None:
    """Sets what must be set before jax starts: arrays live on the CPU, whatever there is; the others only compile.

    Args:
      name: of the topology.

    Raises:
      UserError: as `check_name`.
    """
    check_name(name)
    os.environ["JAX_PLATFORMS"] = "cpu"
    _set_compilers_environment(name)


def _set_compilers_environment(name: str) -> None:
    for variable, value in (_GPU_ENVIRONMENT if is_gpu(name) else _TPU_ENVIRONMENT).items():
        os.environ.setdefault(variable, value)
    if is_gpu(name) and _GPU_FLAGS not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_GPU_FLAGS}".strip()


def check_name(name: str) -> str:
    """Checks the form of a topology's name: `CHIP:AxB` or `CHIP:AxBxC` of TPUs, `GPU:N` or `GPU:HOSTSxN` of GPUs.

    Raises:
      UserError: an unknown chip, or the wrong number of axes.
    """
    chip, _, sizes = name.partition(":")
    if chip not in CHIPS and chip not in GPUS:
        raise UserError(
            f"--topology={name}: the chip {chip!r} is not known{did_you_mean(chip, [*CHIPS, *GPUS])}; e.g. {EXAMPLES}"
        )
    numbers = re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes)
    if chip in GPUS:
        if not numbers or sizes.count("x") > 1:
            raise UserError(
                f"--topology={name}: give the GPUs of a host, or hosts x GPUs; write it like {chip}:8 or {chip}:4x8"
            )
        return name
    axes, example, _ = CHIPS[chip]
    if not numbers or sizes.count("x") != axes - 1:
        raise UserError(f"--topology={name}: a slice of {chip} has {axes} sides; write it like {example}")
    return name


def devices(name: str) -> Sequence[Any]:
    """Devices of a topology, in its order; of GPUs, `process_index` is the host.

    Args:
      name: such as `v5e:16x16` or `h100:8`.

    Raises:
      UserError: no such topology, no compiler for it, or a jax that cannot do this.
    """
    check_name(name)
    gpu = is_gpu(name)
    extra = "plan-gpu" if gpu else "tpu"
    if gpu and not any(importlib.util.find_spec(plugin) for plugin in PLUGINS):
        raise UserError("the GPU compiler (jax's CUDA plugin) is not installed; it needs no GPU: pip install"
                        " 'mmjax[plan-gpu]'")  # fmt: skip
    if not gpu and importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise UserError("the TPU compiler (libtpu) is not installed; it needs no TPU: pip install 'mmjax[tpu]'")
    _set_compilers_environment(name)
    try:
        from jax.experimental import topologies
    except ImportError as error:
        raise UserError(f"this jax has no jax.experimental.topologies; pip install -U 'mmjax[{extra}]'") from error
    chip, _, sizes = name.partition(":")
    try:
        if gpu:
            # Slices x hosts x GPUs of a host.
            shape = f"1x{sizes}" if "x" in sizes else f"1x1x{sizes}"
            target = GPUS[chip].text()
            return topologies.get_topology_desc(name, "cuda", target_config=target, topology=shape).devices
        return topologies.get_topology_desc(name, "tpu", **CHIPS[chip][2]).devices
    except Exception as error:  # whatever the compiler raises, it is about the name or about the installation
        reason = str(error).splitlines()[0]
        divisible = re.search(r'chips_per_host_bounds "(\d+)x(\d+)x\d+"', reason)
        if divisible:
            raise UserError(
                f"--topology={name}: a host has {divisible[1]}x{divisible[2]} chips, and the slice is made of whole"
                f" hosts; e.g. {CHIPS[chip][1]}"
            ) from error
        compiler = "jax's CUDA plugin" if gpu else "libtpu"
        raise UserError(f"--topology={name}: {compiler} says {reason}; known are, e.g., {EXAMPLES}") from error
