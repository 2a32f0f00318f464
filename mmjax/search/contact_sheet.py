"""Contact sheets of search results, as a page, a picture or JSON."""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmjax.data.image.image_file import decode
from mmjax.evaluation.pictures import thumbnail
from mmjax.io import paths as paths_lib
from mmjax.io.reader import Reader
from mmjax.report.markup import render
from mmjax.search.searcher import SearchResult

_THUMBNAIL = 192  # pixels of a contact sheet's images
_MARGIN, _LINE = 8, 18
_COLUMNS = 5
SHEET_FORMATS = ("html", "png", "json")


def write_sheet(output: str, folder: str, queries: Sequence[str], answers: Sequence[Sequence[SearchResult]]) -> None:
    """Writes search results: a self-contained page (.html), a picture (.png) or JSON.

    Raises:
      UserError: it cannot be written.
    """
    kind = output.rpartition(".")[2].lower()
    path = paths_lib.as_path(output)
    paths_lib.make_folder(path.parent, "--output")
    if kind == "json":
        records = [
            {"query": query, "results": [dataclasses.asdict(match) for match in matches]}
            for query, matches in zip(queries, answers, strict=True)
        ]
        paths_lib.write_atomically(path, json.dumps(records, indent=2) + "\n")
        return
    thumbnails = {
        match.path: _thumbnail(f"{folder.rstrip('/')}/{match.path}") for matches in answers for match in matches
    }
    if kind == "html":
        page = render(
            "search.html",
            title="mmjax search",
            width=_THUMBNAIL,
            answers=list(zip(queries, answers, strict=True)),
            thumbnails={name: np.asarray(thumbnail) for name, thumbnail in thumbnails.items()},
        )
        paths_lib.write_atomically(path, page)
        return
    stream = io.BytesIO()
    _draw_sheet(queries, answers, thumbnails).save(stream, "PNG")
    paths_lib.write_atomically(path, stream.getvalue())


def _thumbnail(path: str) -> Image.Image:
    image = decode(Reader().read(path))
    if max(image.size) < _THUMBNAIL // 2:
        image = image.resize([side * (_THUMBNAIL // max(image.size)) for side in image.size], Image.Resampling.NEAREST)
    return Image.fromarray(thumbnail(np.asarray(image), _THUMBNAIL))


def _draw_sheet(
    queries: Sequence[str], answers: Sequence[Sequence[SearchResult]], thumbnails: Mapping[str, Image.Image]
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
            sheet.paste(thumbnails[match.path], corner)
            for line, caption in enumerate((f"{match.score:.4f}", match.path.rpartition("/")[2])):
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
