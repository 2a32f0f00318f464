"""Files of results: a list of CLIP_benchmark's records, and the parts of the report that belong to them.

Records of a suite have three fields more: `n` (images), `settings` (what the outcome depends on) and `identity` (of the
model), by which a suite that goes on knows what is finished.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from mmjax.errors import UserError
from mmjax.io import paths


def record_key(record: dict[str, Any]) -> tuple[str, ...]:
    """The key of a record, of which a file has one: dataset, task and model."""
    return record["dataset"], record["task"], record.get("identity", "")


def has_same_settings(finished: dict[str, Any] | None, record: dict[str, Any]) -> bool:
    """Whether a finished record exists and was made with the settings of another."""
    return finished is not None and finished.get("settings") == record["settings"]


def read(path: Any) -> list[dict[str, Any]]:
    """The records of a results file; none where the file does not exist.

    Raises:
      UserError: it is not a list of records.
    """
    if not path.exists():
        return []
    try:
        records = json.loads(path.read_text())
        for record in records:
            record_key(record)
        return records
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a list of results; move it away, or give another --output") from error


def merge(
    old: list[dict[str, Any]], new: list[dict[str, Any]], keep: Callable[[dict[str, Any]], bool] = lambda _: True
) -> list[dict[str, Any]]:
    """The old records without those that are made anew (or are not to be kept), then the new ones."""
    keys = {record_key(record) for record in new} | {(record["dataset"], record["task"], "") for record in new}
    return [record for record in old if record_key(record) not in keys and keep(record)] + new


def write(path: Any, records: list[dict[str, Any]]) -> None:
    """Writes a results file whole."""
    paths.write_atomically(path, json.dumps(records, indent=2) + "\n")


def _section_path(path: Any, record: dict[str, Any]) -> Any:
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join((*record_key(record)[:2], record_key(record)[2][:8])))
    return path.parent / f"{path.stem}.sections" / f"{name}.html"


def write_section(path: Any, record: dict[str, Any], text: str) -> None:
    """Keeps an evaluation's section of the report, for a suite that goes on later."""
    file = _section_path(path, record)
    file.parent.mkdir(parents=True, exist_ok=True)
    paths.write_atomically(file, text)


def read_section(path: Any, record: dict[str, Any]) -> str:
    """A kept section of the report; "" without one."""
    file = _section_path(path, record)
    return file.read_text() if file.exists() else ""
