"""mmjax: image-text learning in JAX, from one laptop core to a pod."""

from typing import Any

from mmjax.utils import version

__version__ = version.VERSION


def load(path: Any, **options: Any) -> Any:
    """A model from a workdir, or from OpenCLIP's, Hugging Face's or big_vision's files: `mmjax.inference.load`."""
    from mmjax.inference import load as load_lib  # imports jax, which `import mmjax` does not

    return load_lib.load(path, **options)
