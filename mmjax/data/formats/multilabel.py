"""Images that show several classes: the `.npy` of CLIP_benchmark's multi-label tars, a 0/1 vector over the classes."""

import io
from collections.abc import Mapping, Sequence

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.record import Record, stable_id


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
    image: bytes,
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
      image, path: see `Record`.
      class_names, templates: of the source.
      where: the example, for errors and the id.

    Raises:
      BadExample: see `read_labels`.
    """
    labels = read_labels(members.get("npy"), len(class_names), where)
    captions = [template.replace("{c}", class_names[label]) for label in labels for template in templates]
    return Record(image=image, captions=captions or [""], id=stable_id("image", where), labels=labels, path=path)
