"""COCO's own files of captions, `captions_train2017.json`: images with names, and annotations with captions."""

import logging
from typing import Any

from mmjax.data.formats.json_fields import field_of, shorten, text_field
from mmjax.errors import UserError

log = logging.getLogger("mmjax.data")


def caption_rows(content: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """A row for each caption, in the order of the images: the annotation with its image's `file_name`.

    Args:
      content: {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}.
      where: the config field and its value, to begin errors with.

    Raises:
      UserError: it is not of this form, such as Karpathy's file, or COCO's of boxes.
    """
    images, annotations = content["images"], content.get("annotations")
    if not isinstance(annotations, list):
        if any(isinstance(image, dict) and "sentences" in image for image in images[:1]):
            file = where.partition("'pairs:")[2].removesuffix("'")
            raise UserError(f"{where}: is Karpathy's file of splits; write karpathy:{file}/SPLIT")
        raise UserError(f"{where}: has no list 'annotations' beside 'images'; give COCO's captions_*.json")
    names = _names_by_id(images, where)
    rows: dict[Any, list[dict[str, Any]]] = {number: [] for number in names}
    for number, annotation in enumerate(annotations):
        try:
            image, _ = annotation["image_id"], annotation["caption"]
            rows[image].append({**annotation, "file_name": names[image]})
        except (KeyError, TypeError) as error:
            wrong = f"lacks {error}"
            if isinstance(annotation, dict) and {"image_id", "caption"} <= annotation.keys():
                wrong = f"is of image {annotation['image_id']!r}, which is none of 'images'"
            raise UserError(
                f"{where}: annotation {number} {wrong}; each needs image_id and caption, as in COCO's captions_*.json"
            ) from error
    without = sum(not captions for captions in rows.values())
    if without:
        log.warning("%s: %s of %s images have no caption and are left out", where, f"{without:,}", f"{len(rows):,}")
    return [row for captions in rows.values() for row in captions]


def _names_by_id(images: list[Any], where: str) -> dict[Any, str]:
    """The files' names by the images' ids.

    Raises:
      UserError: an image has no id or name, or the id of another one.
    """
    names: dict[Any, str] = {}
    for position, image in enumerate(images):
        what, needs = f"{where}: image {position}", "id and file_name"
        number, name = field_of(image, "id", what, needs), text_field(image, "file_name", what, needs)
        if not isinstance(number, int | str):
            raise UserError(f"{what} has id={shorten(number)}, which is no number or text; each needs {needs}")
        if names.setdefault(number, name) != name:
            raise UserError(
                f"{what} has id={number!r} as {names[number]!r} has; give each image an id of its own, and its"
                " annotations that image_id"
            )
    return names
