"""What a checkpoint says beside its arrays. It may come from somebody else, so all of it is data.

Every part is checked before it is used, and none of it chooses a folder to write to, a flag, a module or a URL: that is
for the command line, or for code that a person runs.
"""

import base64
import binascii
import dataclasses
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmjax import registry, tasks
from mmjax.config.field_values import fitting
from mmjax.config.schema import RunConfig
from mmjax.data.image import transforms
from mmjax.data.table_columns import TableColumns
from mmjax.errors import UserError
from mmjax.tasks import config_queries
from mmjax.training.checkpoint import DamagedCheckpoint

# Where programs, indexes and copies are written, and flags, some of which name files to write. A run's own fields of
# this kind are for the machine it ran on.
_MACHINE_FIELDS = ("compilation_cache", "xla_flags", "data.cache", "data.table_paths", "init_from")
# Sources that an evaluation opens.
_SOURCE_FIELDS = ("data.eval", "eval.train")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*|[A-Za-z][A-Za-z0-9+.-]*::")


def without_machine_fields(config: RunConfig, workdir: Any) -> tuple[RunConfig, dict[str, str]]:
    """A stored config as another machine may use it.

    Data in the store that the workdir itself is in may be read; what names another URL is left out.

    Returns:
      The config, and the values that it leaves out, by field.
    """
    left_out = {}
    allowed = _URL.findall(str(workdir))[:1]
    for field in (*_MACHINE_FIELDS, *_SOURCE_FIELDS):
        value, default = _value_and_default(config, field)
        is_foreign = field in _MACHINE_FIELDS or any(url not in allowed for url in _URL.findall(value))
        if value != default and is_foreign:
            left_out[field] = value
            config = _replaced(config, field.split("."), default)
    return config, left_out


def _value_and_default(config: Any, field: str) -> tuple[Any, Any]:
    *groups, name = field.split(".")
    for group in groups:
        config = getattr(config, group)
    return getattr(config, name), type(config).__dataclass_fields__[name].default


def _replaced(group: Any, path: Sequence[str], value: Any) -> Any:
    name, *inner = path
    return dataclasses.replace(group, **{name: _replaced(getattr(group, name), inner, value) if inner else value})


def check(meta: Mapping[str, Any], where: str) -> None:
    """Checks the parts of a checkpoint's metadata, but for its config and its plugins.

    Args:
      meta: as JSON has it.
      where: the checkpoint's folder; messages begin with it.

    Raises:
      DamagedCheckpoint: a part is missing, or is not what mmjax writes.
    """
    if missing := {"config", "position", "preprocessing", "tokenizer", "versions"} - meta.keys():
        raise _damaged(where, f"lacks {', '.join(sorted(missing))}")
    for name, (is_right, what) in _PARTS.items():
        if name in meta and not is_right(meta[name]):
            raise _damaged(where, f"has {name}={meta[name]!r:.80}, which is not {what}")


def _damaged(where: str, problem: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(f"{where} is no whole checkpoint: meta/metadata {problem}; move it away to use another")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_described_tokenizer(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and isinstance(value.get("spec"), str)
        and _is_count(value.get("vocab_size"))
        and _is_count(value.get("context_length"))
    )


def _is_base64(value: Any) -> bool:
    try:
        return value is None or (isinstance(value, str) and bool(base64.b64decode(value, validate=True)))
    except (binascii.Error, ValueError):
        return False


def _is_shapes(value: Any) -> bool:
    """Whether this is a list of (name, shape) pairs."""
    return isinstance(value, list) and all(
        isinstance(item, list)
        and len(item) == 2
        and isinstance(item[0], str)
        and isinstance(item[1], list)
        and all(map(_is_count, item[1]))
        for item in value
    )


def _is_facts(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_shapes(value.get("shapes", [])):
        return False
    if not all(_is_texts(value.get(name, [])) for name in ("answers", "class_names")):
        return False
    try:
        return value.get("table") is None or bool(TableColumns.from_dict(value["table"], where="table"))
    except UserError:
        return False


_PARTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "config": (lambda value: isinstance(value, dict), "a group of fields"),
    "position": (_is_count, "a number of examples"),
    "preprocessing": (lambda value: value is None or isinstance(value, dict), "a group of fields, or null"),
    "tokenizer": (_is_described_tokenizer, "spec, vocab_size and context_length of a tokenizer, or null"),
    "tokenizer_file": (_is_base64, "a file in base64, or null"),
    "versions": (
        lambda value: isinstance(value, dict) and all(isinstance(version, str) for version in value.values()),
        "versions by package",
    ),
    "facts": (_is_facts, "answers, shapes, columns and class names of the training data"),
    "evaluated": (lambda value: isinstance(value, bool), "true or false"),
    "bad_examples": (
        lambda value: isinstance(value, dict) and all(map(_is_count, value.values())),
        "numbers of examples by reason",
    ),
    "data": (lambda value: isinstance(value, list), "a list of sources"),
    "plugins": (lambda value: isinstance(value, list), "a list of plugins"),
    "base": (lambda value: isinstance(value, dict) and isinstance(value.get("digest"), str), "a digest"),
    "remat": (lambda value: isinstance(value, dict), "a group of fields"),
    "text_packing": (lambda value: value is None or isinstance(value, dict), "a group of fields, or null"),
}


def check_sizes(config: RunConfig, origin: str) -> None:
    """Checks the sizes within a stored config's model.

    Args:
      config: as stored.
      origin: what messages begin with.

    Raises:
      UserError: one cannot be.
    """
    try:
        tasks.check_sizes(config)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from error


def read_preprocessing(meta: Mapping[str, Any], config: RunConfig, where: str) -> dict[str, Any] | None:
    """How a checkpoint's images are prepared, as fields of `ImageSpec`; None for a model that sees none.

    Args:
      meta: of the checkpoint, checked.
      config: of the checkpoint.
      where: the checkpoint; messages begin with it.

    Raises:
      DamagedCheckpoint: it is no `ImageSpec`, or not one of this model.
    """
    stored = meta["preprocessing"]
    if stored is None and config_queries.has_image(config):
        raise _damaged(where, "has preprocessing=null, but its model sees images")
    if stored is None:
        return None
    hints = typing.get_type_hints(transforms.ImageSpec)
    for name, value in stored.items():
        if name not in hints or not _fits(hints[name], value):
            raise _damaged(where, f"has preprocessing.{name}={value!r:.80}, which cannot be")
    size = config_queries.image_size(config) if config_queries.has_image(config) else None
    if stored.get("size") != size:
        raise _damaged(where, f"has preprocessing.size={stored.get('size')}, but the model's images have {size}")
    try:
        transforms.ImageSpec(**stored)
    except UserError as error:
        raise _damaged(where, f"has a preprocessing that cannot be ({error})") from error
    return stored


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value of JSON, which has lists, is of a field's type."""
    if typing.get_origin(hint) is Sequence:
        (item,) = typing.get_args(hint)
        hint = tuple[item, ...]
    return any(True for _ in fitting(hint, value))


def check_columns(columns: Any, config: RunConfig, where: str) -> None:
    """Checks that a checkpoint has the statistics of the columns that its model reads.

    Args:
      columns: that it has; None for none.
      config: of the checkpoint.
      where: the checkpoint; messages begin with it.

    Raises:
      DamagedCheckpoint: it has none.
    """
    named = config.data.table.columns
    if columns is None and named and "table" in config_queries.encoders(config.model):
        raise _damaged(where, f"has data.table.columns={named!r}, and no statistics of them")


def read_tokenizer_file(meta: Mapping[str, Any], config: RunConfig, where: str) -> bytes | None:
    """A checkpoint's tokenizer file; None where its tokenizer has none.

    A path in a stored config is not read: the file is in the checkpoint.

    Raises:
      DamagedCheckpoint: the tokenizer has a file, and the checkpoint does not hold it.
    """
    if meta.get("tokenizer_file"):
        return base64.b64decode(meta["tokenizer_file"])
    kind = re.split("[:+]", config.data.tokenizer)[0]
    reads_texts = tasks.has_text(config) or config_queries.encoder_of_texts(config) is not None
    if reads_texts and kind in ("words", "sentencepiece", "json") and kind in registry.tokenizers:
        raise _damaged(where, f"has data.tokenizer={config.data.tokenizer!r}, and not the file of that tokenizer")
    return None
