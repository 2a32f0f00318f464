"""Examples that show a class or several: their records, names of classes, prompt templates.

Several classes are the `.npy` of CLIP_benchmark's multi-label tars, a 0/1 vector over the classes.
"""

import collections
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.input_files import TEMPLATES, record_fields
from mmjax.data.record import Record, stable_id
from mmjax.errors import UserError
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader
from mmjax.utils.python_literals import PARSING

log = logging.getLogger("mmjax.data")

FOLDER_TEMPLATES = TEMPLATES["image"]


def make_class_record(
    inputs: Mapping[str, Any],
    class_names: Sequence[str],
    templates: Sequence[str],
    label: int,
    path: str,
    class_id: int | None = None,
    span: tuple[float, float] | None = None,
) -> Record:
    """Makes the record of an example that has a class: prompts for captions, the class for its id.

    Args:
      inputs: the image, and what else there is, by modality.
      class_names, templates: of the source.
      label: number of the class.
      path: see `Record`.
      class_id: the record's; by default that of the class's name.
      span: of a video or sound, in seconds.
    """
    name = class_names[label]
    return Record(
        **record_fields(inputs, span),
        captions=[template.replace("{c}", name) for template in templates],
        id=stable_id("class", name) if class_id is None else class_id,
        label=label,
        path=path,
    )


def read_lines(folders: Sequence[str], name: str, *, reader: Reader, where: str) -> list[str]:
    """Lines that are not blank of a small file in the first of some folders that has it; none where none does.

    Raises:
      UserError: the file cannot be read, or is not UTF-8.
    """
    for folder in folders:
        path = f"{folder}/{name}"
        try:
            text = reader.read(path).decode("utf-8-sig")
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # some stores forbid what they do not have
            continue
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: {path} is not UTF-8 at byte {error.start}; save it as UTF-8") from error
        except (OSError, ValueError, ImportError) as error:
            raise UserError(f"{where}: {path} cannot be read ({error_reason(error)})") from error
        return [line.strip() for line in text.splitlines() if line.strip()]
    return []


def check_templates(templates: Sequence[str], where: str, kind: str = "image") -> list[str]:
    """Returns prompt templates, the usual ones of a kind of files where there are none.

    Raises:
      UserError: one has no {c}.
    """
    for template in templates:
        if "{c}" not in template:
            raise UserError(f"{where}: template {template!r} has no {{c}} for the class name")
    return list(templates) or list(TEMPLATES[kind])


def log_equal_names(names: Sequence[str], where: str) -> None:
    """Logs that classes have the same name, where some have: no text can tell them apart."""
    equal = [name for name, count in collections.Counter(names).items() if count > 1]
    if equal:
        log.warning(
            "%s: classes have the same name (%s), so that no prompt tells one from the other and images of both are"
            " positives of one another; give each a name of its own, in classnames.txt",
            where,
            ", ".join(map(repr, equal[:3])) + (", ..." if len(equal) > 3 else ""),
        )


def read_labels(content: bytes | None, classes: int, where: str) -> list[int]:
    """The classes that a vector marks, ascending.

    Args:
      content: a .npy file; nothing pickled is loaded.
      classes: how many there are.
      where: the example, for errors.

    Raises:
      BadExample: `no_caption` (as for any example without its class), when it is missing, is no vector of `classes`
        numbers, or holds other numbers than 0 and 1.
    """
    if content is None:
        raise BadExample("no_caption", f"{where}: has no .npy of its classes")
    try:
        with PARSING:
            vector = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise BadExample("no_caption", f"{where}: its .npy cannot be read ({' '.join(str(error).split())})") from error
    if vector.shape != (classes,) or vector.dtype.kind not in "biuf" or not np.isin(vector, (0, 1)).all():
        raise BadExample(
            "no_caption", f"{where}: its .npy is {vector.dtype} {vector.shape}, no 0 or 1 for each of {classes} classes"
        )
    return np.flatnonzero(vector).tolist()


def multilabel_record(
    members: Mapping[str, bytes],
    inputs: Mapping[str, Any],
    path: str,
    *,
    class_names: Sequence[str],
    templates: Sequence[str],
    where: str,
) -> Record:
    """Makes the record of an example with a `.npy`: the prompts of every class it shows for captions, the image's id.

    An image that shows none of the classes counts in evaluation; its one caption is blank, with which it cannot be
    trained on.

    Args:
      members: the example's files by ending.
      inputs: the image, and what else there is, by modality.
      path: see `Record`.
      class_names, templates: of the source.
      where: the example, for errors and the id.

    Raises:
      BadExample: see `read_labels`.
    """
    labels = read_labels(members.get("npy"), len(class_names), where)
    return record_of_labels(
        inputs, path, labels, class_names=class_names, templates=templates, image_id=stable_id("image", where)
    )


def record_of_labels(
    inputs: Mapping[str, Any],
    path: str,
    labels: Sequence[int],
    *,
    class_names: Sequence[str],
    templates: Sequence[str],
    image_id: int,
    span: tuple[float, float] | None = None,
) -> Record:
    """Makes the record of an example of several classes, see `multilabel_record`.

    Args:
      inputs: the image, and what else there is, by modality.
      path: see `Record`.
      labels: numbers of its classes.
      class_names, templates: of the source.
      image_id: the record's.
      span: of a video or sound, in seconds.
    """
    labels = sorted(labels)
    captions = [template.replace("{c}", class_names[label]) for label in labels for template in templates]
    return Record(**record_fields(inputs, span), captions=captions or [""], id=image_id, labels=labels, path=path)
