"""mmjax: image-text learning in JAX, from one laptop core to a pod."""

from importlib import metadata
from typing import Any

try:
    __version__ = metadata.version("mmjax")
except metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+checkout"


def load(path: Any, **options: Any) -> Any:
    """Loads a model from a workdir, or from OpenCLIP's, Hugging Face's or big_vision's files; see `mmjax.hub.load`."""
    from mmjax import hub  # imports jax, which `import mmjax` does not

    return hub.load(path, **options)
