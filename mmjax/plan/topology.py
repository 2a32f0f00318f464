"""TPU topologies that are not there: their devices, for compiling only, out of libtpu."""

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any

from mmjax.errors import UserError, did_you_mean

# Chip name -> axes of its interconnect, an example, and options for jax.experimental.topologies.
CHIPS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "v4": (3, "v4:4x4x4", {"chip_config_name": "megacore"}),  # both cores of a chip as one device, as on Cloud TPU
    "v5e": (2, "v5e:16x16", {}),
    "v5p": (3, "v5p:4x4x4", {}),
    "v6e": (2, "v6e:16x16", {}),
}
EXAMPLES = ", ".join(example for _, example, _ in CHIPS.values())
# libtpu looks for a TPU's surroundings unless it is told about them, and warns at length that there are none.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # two plans may run at once; none of them holds a TPU
}


def set_environment() -> None:
    """Sets what must be set before jax starts: arrays live on the CPU, whatever there is; libtpu only compiles."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    _set_libtpu_environment()


def _set_libtpu_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def check_name(name: str) -> str:
    """Checks the form of a topology's name, `CHIP:AxB` or `CHIP:AxBxC`.

    Raises:
      UserError: an unknown chip, or the wrong number of axes.
    """
    chip, _, sizes = name.partition(":")
    if chip not in CHIPS:
        raise UserError(
            f"--topology={name}: the chip {chip!r} is not known{did_you_mean(chip, CHIPS)}; e.g. {EXAMPLES}"
        )
    axes, example, _ = CHIPS[chip]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes) or sizes.count("x") != axes - 1:
        raise UserError(f"--topology={name}: a slice of {chip} has {axes} sides; write it like {example}")
    return name


def devices(name: str) -> Sequence[Any]:
    """Devices of a topology, in its order; they can be compiled for and nothing else.

    Args:
      name: such as `v5e:16x16`.

    Raises:
      UserError: no such topology, no libtpu, or a jax that cannot do this.
    """
    check_name(name)
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise UserError("the TPU compiler (libtpu) is not installed; it needs no TPU: pip install 'mmjax[tpu]'")
    _set_libtpu_environment()
    try:
        from jax.experimental import topologies
    except ImportError as error:
        raise UserError("this jax has no jax.experimental.topologies; pip install -U 'mmjax[tpu]'") from error
    chip = name.partition(":")[0]
    try:
        return topologies.get_topology_desc(name, "tpu", **CHIPS[chip][2]).devices
    except Exception as error:  # whatever libtpu raises, it is about the name or about the installation
        reason = str(error).splitlines()[0]
        divisible = re.search(r'chips_per_host_bounds "(\d+)x(\d+)x\d+"', reason)
        if divisible:
            raise UserError(
                f"--topology={name}: a host has {divisible[1]}x{divisible[2]} chips, and the slice is made of whole"
                f" hosts; e.g. {CHIPS[chip][1]}"
            ) from error
        raise UserError(f"--topology={name}: libtpu says {reason}; known are, e.g., {EXAMPLES}") from error
