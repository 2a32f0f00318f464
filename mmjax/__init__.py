"""mmjax: image-text learning in JAX, from one laptop core to a pod."""

import importlib
from typing import Any

from mmjax.utils import version

__version__ = version.VERSION


def load(path: Any, **options: Any) -> Any:
    """A model from a workdir, or from OpenCLIP's, Hugging Face's or big_vision's files: `mmjax.inference.load`."""
    # By its name: what imports mmjax needs neither jax nor the rooms of inference.
    return importlib.import_module("mmjax.inference.load").load(path, **options)


def create_model(name: str, weights: Any = None, **options: Any) -> Any:
    """A model by OpenCLIP's name, such as `ViT-B-32`, fresh or with weights: `mmjax.inference.load.create_model`."""
    if "pretrained" in options:
        raise importlib.import_module("mmjax.errors").UserError(
            f"pretrained={options['pretrained']!r}: give weights=PATH or weights='hf-hub:NAME'; tags of pretrained"
            " weights have no meaning here"
        )
    return importlib.import_module("mmjax.inference.load").create_model(name, weights, **options)


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` takes, or those that match a pattern such as `ViT-B*`."""
    return importlib.import_module("mmjax.interop.named_models").names(pattern)
