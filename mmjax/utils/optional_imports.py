"""Imports of packages that only some sources need."""

import importlib
import re
from types import ModuleType

import fsspec

from mmjax.errors import UserError, did_you_mean

_SCHEME = re.compile(r"(?:^|::|,images=|,annotations=)([A-Za-z][A-Za-z0-9+.-]*)://")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}


def require(module: str, *, extra: str, where: str) -> ModuleType:
    """Imports a module of an optional package.

    Args:
      module: such as "pyarrow.parquet".
      extra: of mmjax, that brings the package.
      where: the config field and its value, to begin the error with.

    Raises:
      UserError: when it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        detail = "" if getattr(error, "name", None) == package else f" ({' '.join(str(error).split())})"
        raise UserError(f"{where}: needs {package}{detail}; pip install 'mmjax[{extra}]'") from error


def check_storage(path: str, *, where: str) -> None:
    """Checks that the URLs in a source's path are of kinds that can be read here.

    Args:
      path: paths, URLs, or patterns joined by "::".
      where: the config field and its value, to begin the error with.

    Raises:
      UserError: a scheme is unknown, or its package is missing, with the command that installs it.
    """
    for scheme in _SCHEME.findall(path):
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as error:
            extra = _EXTRAS.get(scheme)
            remedy = f"; pip install 'mmjax[{extra}]'" if extra else ""
            raise UserError(f"{where}: {scheme}:// cannot be read ({' '.join(str(error).split())}){remedy}") from error
        except ValueError as error:
            near = did_you_mean(scheme, ["file", *_EXTRAS])
            raise UserError(
                f"{where}: {scheme}:// is no storage that is known{near}; write a path, or a URL that fsspec reads"
            ) from error
