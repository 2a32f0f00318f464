"""Imports of packages that only some sources need."""

import importlib
from types import ModuleType

from mmjax.errors import UserError


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
