"""mmjax: image-text learning in JAX, from one laptop core to a pod."""

from importlib import metadata
from typing import Any

try:
    __version__ = metadata.version("mmjax")
except metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+checkout"


def load(path: Any, **options: Any) -> Any:
    """A model from a workdir, or from OpenCLIP's, Hugging Face's or big_vision's files: `mmjax.inference.load`."""
    from mmjax.inference import load as load_lib  # imports jax, which `import mmjax` does not

    return load_lib.load(path, **options)
