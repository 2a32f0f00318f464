"""Contact sheets of search results, as a page, a picture or JSON."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from mmjax.data.audio.waveform import decode_audio
from mmjax.data.image.image_file import apply_orientation, decode
from mmjax.data.loading.inputs import InputSpecs
from mmjax.data.record import Record
from mmjax.data.video import clips
from mmjax.data.video.frame_reader import open_video
from mmjax.evaluation.pictures import picture, thumbnail
from mmjax.io import paths as paths_lib
from mmjax.report.markup import render
from mmjax.search.gallery import Gallery, Span, show_span
from mmjax.search.searcher import SearchResult

_THUMBNAIL = 192  # pixels of a contact sheet's images
_MARGIN, _LINE = 8, 18
_COLUMNS = 5
SHEET_FORMATS = ("html", "png", "json")


def write_sheet(
    output: str, gallery: Gallery, specs: InputSpecs, queries: Sequence[str], answers: Sequence[Sequence[SearchResult]]
) -> None:
    """Writes search results: a self-contained page (.html), a picture (.png) or JSON.

    A video is shown by its middle frame, a sound by its spectrogram as the model has it, each with its seconds.

    Raises:
      UserError: it cannot be written.
    """
    kind = output.rpartition(".")[2].lower()
    path = paths_lib.as_path(output)
    paths_lib.make_folder(path.parent, "--output")
    if kind == "json":
        records = [
            {"query": query, "results": [_record(match) for match in matches]}
            for query, matches in zip(queries, answers, strict=True)
        ]
        paths_lib.write_atomically(path, json.dumps(records, indent=2) + "\n")
        return
    entries = dict.fromkeys(match.entry for matches in answers for match in matches)
    previews = {entry: _preview(gallery.record(entry), specs) for entry in entries}
    captions = {
        match.entry: f"{match.path}{'' if span is None else f' {show_span(span)}'}"
        for matches in answers
        for match in matches
        for span in [previews[match.entry].span]
    }
    if kind == "html":
        page = render(
            "search.html",
            title="mmjax search",
            width=_THUMBNAIL,
            answers=list(zip(queries, answers, strict=True)),
            captions=captions,
            thumbnails={entry: preview.picture for entry, preview in previews.items()},
        )
        paths_lib.write_atomically(path, page)
        return
    thumbnails = {entry: Image.fromarray(preview.picture) for entry, preview in previews.items()}
    stream = io.BytesIO()
    _draw_sheet(queries, answers, thumbnails, captions).save(stream, "PNG")
    paths_lib.write_atomically(path, stream.getvalue())


def _record(match: SearchResult) -> dict[str, Any]:
    """A result as JSON has it."""
    span = {} if match.span is None else {"span": list(match.span)}
    return {"path": match.path, **span, "score": match.score}


class _Preview(NamedTuple):
    """A small picture, and the seconds that it is of; None for what has none."""

    picture: UInt8[np.ndarray, "h w 3"]
    span: Span | None


def _preview(record: Record, specs: InputSpecs) -> _Preview:
    image = record.get("image")
    if specs.image is not None and image is not None:
        return _Preview(_thumbnail(decode(image)), None)
    (spec,) = specs.others
    entry, span = ((record.get(field) or {}).get(spec.name) for field in ("modalities", "spans"))
    if isinstance(entry, bytes) and spec.name == "video":
        with open_video(entry) as video:
            indices = clips.timeline(video.times, video.end, span=span)
            (frame,) = video.read([int(indices[len(indices) // 2])])
            span = span or (float(video.times[0]), round(video.end, 2))
        return _Preview(_thumbnail(apply_orientation(Image.fromarray(frame.pixels), frame.orientation)), span)
    array = spec.array(record, None)
    if isinstance(entry, bytes) and spec.name == "audio" and span is None:
        samples, rate = decode_audio(entry)
        span = (0.0, round(len(samples) / rate, 2))
    shown = picture(spec.name, spec.blank() if array is None else array)
    return _Preview(_thumbnail(Image.fromarray(shown)), span)


def _thumbnail(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if max(image.size) < _THUMBNAIL // 2:
        image = image.resize([side * (_THUMBNAIL // max(image.size)) for side in image.size], Image.Resampling.NEAREST)
    return thumbnail(np.asarray(image), _THUMBNAIL)


def _draw_sheet(
    queries: Sequence[str],
    answers: Sequence[Sequence[SearchResult]],
    thumbnails: Mapping[str, Image.Image],
    captions: Mapping[str, str],
) -> Image.Image:
    font = ImageFont.load_default(13)
    cell = _THUMBNAIL + _MARGIN, _THUMBNAIL + 2 * _LINE + _MARGIN
    heights = [2 * _LINE + -(-len(matches) // _COLUMNS) * cell[1] for matches in answers]
    sheet = Image.new("RGB", (_COLUMNS * cell[0] + _MARGIN, max(1, sum(heights)) + _MARGIN), "white")
    draw, top = ImageDraw.Draw(sheet), _MARGIN
    for query, matches, height in zip(queries, answers, heights, strict=True):
        draw.text((_MARGIN, top), _cut(draw, query, sheet.width - 2 * _MARGIN, font), "black", font)
        for i, match in enumerate(matches):
            row, column = divmod(i, _COLUMNS)
            corner = _MARGIN + column * cell[0], top + 2 * _LINE + row * cell[1]
            sheet.paste(thumbnails[match.entry], corner)
            for line, caption in enumerate((f"{match.score:.4f}", captions[match.entry].rpartition("/")[2])):
                position = corner[0], corner[1] + _THUMBNAIL + line * _LINE
                draw.text(position, _cut(draw, caption, _THUMBNAIL, font), "black", font)
        top += height
    return sheet


def _cut(draw: ImageDraw.ImageDraw, text: str, width: int, font: Any) -> str:
    """The text, or as much of its beginning as fits."""
    text = text.encode("utf-8", "replace").decode()
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}...", font) > width:
        text = text[:-1]
    return f"{text}..."
