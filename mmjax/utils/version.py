"""The version of mmjax."""

from importlib import metadata

try:
    VERSION = metadata.version("mmjax")
except metadata.PackageNotFoundError:  # a checkout that is not installed
    VERSION = "0+checkout"
