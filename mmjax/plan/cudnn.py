"""jax's checks of the GPU for fused attention, passed for a GPU that is not there."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from mmjax.errors import UserError
from mmjax.plan import gpu_targets

_MODULE = "jax._src.cudnn.fused_attention_stablehlo"


def _version(numbers: tuple[int, ...]) -> int:
    """cuDNN's own way to write 9.20: 92000."""
    return numbers[0] * 10000 + numbers[1] * 100


@contextlib.contextmanager
def answers_for(device: Any) -> Iterator[None]:
    """Within it, jax checks fused attention against a topology's device.

    jax lowers attention to cuDNN's kernel only after it has read the compute capability of the first real GPU and the
    driver's version of cuDNN. Compiling ahead needs neither. For other devices nothing is changed.

    Args:
      device: a device of a topology.

    Raises:
      UserError: this jax has no such questions under these names, so that the plan would be of another program.
    """
    if device.platform != "gpu":
        yield
        return
    capability = _parse(device.compute_capability)
    answers = {
        "check_cudnn_version": lambda: _version(gpu_targets.CUDNN),
        "check_compute_capability": lambda least: capability >= _parse(least),
        "is_cuda_compute_capability_equal": lambda other: capability == _parse(other),
    }
    try:
        module = importlib.import_module(_MODULE)
        originals = {name: getattr(module, name) for name in answers}
    except (ImportError, AttributeError) as error:
        import jax

        raise UserError(
            f"jax {jax.__version__} checks fused attention in a way that mmjax plan does not know ({error}); plan for a"
            " GPU with jax 0.10.2, or with --config.attention=xla on another topology"
        ) from error
    for name, answer in answers.items():
        setattr(module, name, answer)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(module, name, original)


def _parse(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))
