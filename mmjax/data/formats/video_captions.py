"""JSON of videos' captions that is no array of objects: MSR-VTT's `videos` and `sentences`, captions by name."""

import logging
from typing import Any

from mmjax.data.formats.json_fields import field_of, text_field
from mmjax.errors import UserError

log = logging.getLogger("mmjax.data")


def video_rows(content: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """A row for each sentence of MSR-VTT's file, in the order of the videos: its fields and its video's.

    `video` is the name of the file, VIDEO_ID.mp4.

    Args:
      content: {"videos": [{"video_id", "split", "start time", "end time", ...}], "sentences": [{"video_id",
        "caption"}]}.
      where: the config field and its value, to begin errors with.

    Raises:
      UserError: it is not of this form.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    videos: dict[str, dict[str, Any]] = {}
    for position, video in enumerate(content["videos"]):
        name = text_field(video, "video_id", f"{where}: video {position}", "video_id")
        videos[name], rows[name] = video, []
    for position, sentence in enumerate(content["sentences"]):
        what, needs = f"{where}: sentence {position}", "video_id and caption"
        name = text_field(sentence, "video_id", what, needs)
        field_of(sentence, "caption", what, needs)
        if name not in rows:
            raise UserError(f"{what} is of video {name!r}, which is none of 'videos'; add it there")
        rows[name].append({**videos[name], **sentence, "video": f"{name}.mp4"})
    if without := sum(not captions for captions in rows.values()):
        log.warning("%s: %s of %s videos have no sentence and are left out", where, f"{without:,}", f"{len(rows):,}")
    return [row for captions in rows.values() for row in captions]


def is_captions_by_name(content: dict[str, Any]) -> bool:
    """Whether an object has a list of texts for every name, as {"video1": ["a cat runs", ...]}."""
    is_texts = lambda value: isinstance(value, list) and value and all(isinstance(text, str) for text in value)
    return bool(content) and all(map(is_texts, content.values()))


def rows_by_name(content: dict[str, list[str]]) -> list[dict[str, Any]]:
    """A row for each name, which is its `name`, with its captions as `caption`."""
    return [{"name": name, "caption": captions} for name, captions in content.items()]
