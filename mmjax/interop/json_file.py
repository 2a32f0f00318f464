"""Config files of other libraries."""

import json
from pathlib import Path
from typing import Any

from mmjax.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Raises:
      UserError: it does not.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path}: not JSON ({str(error).splitlines()[0]}); fetch it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a config, which is a JSON object")
    return content
