"""mmjax: image-text learning in JAX, from one laptop core to a pod."""

import importlib
from typing import Any

from mmjax.utils import version

__version__ = version.VERSION


def load(path: Any, **options: Any) -> Any:
    """A model from a workdir, or from OpenCLIP's, Hugging Face's or big_vision's files: `mmjax.inference.load`."""
    # By its name: what imports mmjax needs neither jax nor the rooms of inference.
    return importlib.import_module("mmjax.inference.load").load(path, **options)
