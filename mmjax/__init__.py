"""mmjax: image-text learning in JAX, from one laptop core to a pod."""

from importlib import metadata

try:
    __version__ = metadata.version("mmjax")
except metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+checkout"
