"""`mmjax search`: the images of a folder that are nearest to a text or an image, exactly."""

import base64
import dataclasses
import html
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from mmjax import cli, evaluate, override, storage
from mmjax import config as config_lib
from mmjax.data.examples import EvalExamples
from mmjax.data.faults import BadExample
from mmjax.data.images import ImageSpec, decode
from mmjax.data.reading import Reader
from mmjax.data.source import Record
from mmjax.errors import UserError, choose
from mmjax.evaluation import embed, exact
from mmjax.evaluation import index as index_lib
from mmjax.tasks import abilities

_THUMBNAIL = 192  # pixels of a contact sheet's images
_MARGIN, _LINE = 8, 18
_COLUMNS = 5
SHEETS = ("html", "png", "json")


@dataclasses.dataclass(frozen=True)
class Found:
    """An answer to a query: the image's path within the folder and its cosine similarity."""

    path: str
    score: float


def search_main(argv: Sequence[str] | None = None) -> int:
    """`search --workdir=DIR|--model=PATH --images=DIR [TEXT ...] [--image=FILE ...] [--top=K] [--output=SHEET]`."""
    parser = cli.make_parser(
        "search",
        "Finds the images of a folder that are nearest to a text or to another image. The folder's images are embedded"
        " once and kept in an index, which follows when images are added, changed or removed.",
    )
    parser.add_argument("queries", nargs="*", metavar="TEXT", help='such as "a red circle above a blue square"')
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="an image to find others like it")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder or URL, with its sub-folders")
    parser.add_argument("--workdir", help="of a trained run")
    parser.add_argument("--step", type=int, default=None, help="checkpoint; the latest by default")
    parser.add_argument("--model", metavar="PATH", help="instead: weights that mmjax.load reads")
    cli.add_model_flags(parser)
    parser.add_argument("--top", type=int, default=10, metavar="K", help="answers to a query; 10")
    parser.add_argument("--output", metavar="FILE", help="contact sheet (.html, .png) or the answers as .json")
    parser.add_argument("--index", metavar="DIR", help=f"where the index is kept; DIR/{index_lib.FOLDER} of --images")
    parser.add_argument("--rebuild", action="store_true", help="make the index anew")

    def command(options, overrides):
        if (options.workdir is None) == (options.model is None):
            raise UserError("--workdir or --model: give one of them")
        cli.check_model_flags(options)
        if not options.queries and not options.image:
            raise UserError('nothing to search for: give a TEXT, such as "a red circle", or --image=FILE')
        if any(not query.strip() for query in options.queries):
            raise UserError("a TEXT is empty; give words, or --image=FILE alone")
        if options.top < 1:
            raise UserError(f"--top={options.top} must be at least 1")
        if options.output:
            choose("--output: ending", options.output.rpartition(".")[2].lower(), SHEETS)
        images = index_lib.list_images(options.images)
        pictures = [_read_query(path) for path in options.image]
        if options.workdir is not None:
            meta = evaluate.read_meta(options.workdir, options.step)
            config = config_lib.from_json(json.dumps(meta["config"]))
            evaluate.apply_overrides(config, overrides)
            cli.prepare(config)
            model = evaluate.open_workdir(config, options.workdir, meta, step=options.step)
        else:
            if options.step is not None:
                raise UserError(f"--step={options.step} needs --workdir; a file has one set of weights")
            config = config_lib.base_config()
            override.apply(config, overrides)
            cli.prepare(config)
            model = evaluate.open_model(options.model, overrides, **cli.model_flags(options))
        searcher = Searcher(model)
        where = options.index or f"{options.images.rstrip('/')}/{index_lib.FOLDER}"
        if options.index is None:
            _check_writable(where, options.images)
        index = index_lib.Index(where, searcher.identity, rebuild=options.rebuild)
        dropped, added = searcher.update(index, options.images, images)
        bad = index.unreadable()
        print(f"{len(images) - len(bad):,} images in {where}: {added:,} new, {dropped:,} removed or changed")
        if bad:
            path, why = next(iter(sorted(bad.items())))
            print(f"{len(bad):,} cannot be read, such as {path}: {why}", file=sys.stderr)
        answers = searcher.answer(index, options.queries, pictures, top=options.top)
        names = [*options.queries, *options.image]
        for name, found in zip(names, answers, strict=True):
            print(f"\n{name}")
            for rank, each in enumerate(found, start=1):
                print(f"{rank:4}  {each.score:7.4f}  {each.path}")
        if options.output:
            write_sheet(options.output, options.images, names, answers)
            print(f"\nwritten: {options.output}")
        return 0

    return cli.run(parser, argv, command)


def _check_writable(where: str, images: str) -> None:
    """Says that an index can lie elsewhere, where it cannot lie beside the images."""
    try:
        storage.make_folder(storage.as_path(where), "index")
    except UserError as error:
        raise UserError(
            f"--images={images}: the index cannot be kept there ({error.__cause__ or 'not writable'}); name another"
            " folder for it with --index=DIR"
        ) from error


class Searcher:
    """Embeds a folder's images and queries with a model over its mesh.

    Args:
      model: see `evaluate.Model`; its parameters are read here.

    Attributes:
      identity: what an index must have been made with: the parameters' digest and the images' preparation.

    Raises:
      UserError: the model embeds no images.
    """

    def __init__(self, model: evaluate.Model):
        abilities.check(model.task, "encode_image", "search, which embeds images and texts,")
        self.image_spec: ImageSpec = model.image_spec
        params = model.restore()
        self.embedder = embed.MeshEmbedder(model.task, model.mesh, model.tokenizer, model.config.eval.batch_size)
        self.embedder.bind(params)
        self.identity = {
            "name": f"{model.config.name}, {model.pretrained}",
            "params": evaluate.digest(params),
            "preprocessing": json.loads(json.dumps(model.image_spec.of_evaluation())),
        }

    def update(self, index: index_lib.Index, folder: str, images: Mapping[str, str]) -> tuple[int, int]:
        """Brings an index in step with the folder; see `Index.update`."""
        bar = None

        def embed_paths(paths: Sequence[str]):
            nonlocal bar
            bar = bar or tqdm(total=len(images), unit="image", desc="embedding", smoothing=0.1, file=sys.stderr)
            source = _Files(folder, paths)
            places, reasons = [], {}

            def stream() -> Iterator[np.ndarray]:
                for place, example in enumerate(_Readable(source, self.image_spec).read(range(len(paths)))):
                    bar.update()
                    if isinstance(example, str):
                        reasons[place] = example
                    else:
                        places.append(place)
                        yield example.image

            return self._embed(stream()), places, reasons

        try:
            return index.update(images, embed_paths)
        finally:
            if bar is not None:
                bar.close()

    def answer(
        self, index: index_lib.Index, texts: Sequence[str], pictures: Sequence[bytes], *, top: int
    ) -> list[list[Found]]:
        """The nearest images of the index for each text and then each picture, best first.

        Similarities are exact (see `exact`); among equal ones the first path comes first.

        Raises:
          UserError: the index has no image.
        """
        if not texts and not pictures:
            return []
        paths, gallery = index.gallery()
        if not paths:
            raise UserError("--images: none of the images can be read, so there is nothing to search in")
        rows = [self.embedder.texts(list(texts))] if texts else []
        if pictures:
            spec = self.image_spec
            prepared = EvalExamples(_Queries(pictures), spec).read(range(len(pictures)))
            rows.append(self._embed(example.image for example in prepared))
        at, scores = exact.top_matches(np.concatenate(rows), gallery, top)
        return [
            [Found(paths[i], float(score)) for i, score in zip(places, values, strict=True)]
            for places, values in zip(at.tolist(), scores, strict=True)
        ]

    def _embed(self, images: Iterable[np.ndarray]) -> np.ndarray:
        images = iter(images)
        first = next(images, None)
        if first is None:
            return np.empty((0, self.embedder.texts([""]).shape[1]), np.float32)

        def all_of_them():
            yield first
            yield from images

        return self.embedder.images(all_of_them())


class _Files:
    """Image files as a source."""

    class_names = None
    templates = None

    def __init__(self, folder: str, paths: Sequence[str]):
        self.name, self.folder, self.paths = folder, folder.rstrip("/"), paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        return Record(image=Reader().read(f"{self.folder}/{self.paths[index]}"), captions=[], id=index)


class _Queries(_Files):
    """Image files that were read before, as a source."""

    def __init__(self, pictures: Sequence[bytes]):
        super().__init__("--image", [""] * len(pictures))
        self.pictures = pictures

    def __getitem__(self, index: int) -> Record:
        return Record(image=self.pictures[index], captions=[], id=index)


class _Readable(EvalExamples):
    """Examples of which one that cannot be read is the reason why, a string."""

    def __getitem__(self, index: int) -> Any:
        try:
            return super().__getitem__(index)
        except UserError as error:
            return str(error.__cause__ or error)


def _read_query(path: str) -> bytes:
    try:
        content = Reader().read(path)
        decode(content)
        return content
    except (BadExample, OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise UserError(f"--image={path}: cannot be read as an image ({reason})") from error


# -- contact sheets ----------------------------------------------------------------------------------------------------


def write_sheet(output: str, folder: str, queries: Sequence[str], answers: Sequence[Sequence[Found]]) -> None:
    """Writes the answers: a self-contained page (.html), a picture (.png) or JSON.

    Raises:
      UserError: it cannot be written.
    """
    kind = output.rpartition(".")[2].lower()
    path = storage.as_path(output)
    storage.make_folder(path.parent, "--output")
    if kind == "json":
        told = [
            {"query": query, "results": [dataclasses.asdict(each) for each in found]}
            for query, found in zip(queries, answers, strict=True)
        ]
        storage.write_atomically(path, json.dumps(told, indent=2) + "\n")
        return
    thumbnails = {each.path: _thumbnail(f"{folder.rstrip('/')}/{each.path}") for found in answers for each in found}
    if kind == "html":
        storage.write_atomically(path, _page(queries, answers, thumbnails))
        return
    stream = io.BytesIO()
    _sheet(queries, answers, thumbnails).save(stream, "PNG")
    path.write_bytes(stream.getvalue())


def _thumbnail(path: str) -> Image.Image:
    image = decode(Reader().read(path))
    if max(image.size) < _THUMBNAIL // 2:
        image = image.resize([side * (_THUMBNAIL // max(image.size)) for side in image.size], Image.Resampling.NEAREST)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return image


def _page(queries: Sequence[str], answers: Sequence[Sequence[Found]], thumbnails: Mapping[str, Image.Image]) -> str:
    sections = []
    for query, found in zip(queries, answers, strict=True):
        figures = ""
        for each in found:
            stream = io.BytesIO()
            thumbnails[each.path].save(stream, "PNG")
            uri = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
            name = _text(each.path)
            figures += f'<figure><img alt="{name}" src="{uri}"><figcaption>{each.score:.4f}<br>{name}</figcaption>'
            figures += "</figure>"
        sections.append(f"<h2>{_text(query)}</h2><div>{figures}</div>")
    style = (
        "body{font:15px/1.4 system-ui,sans-serif;margin:32px;color-scheme:light dark}div{display:flex;flex-wrap:wrap;"
        f"gap:16px}}figure{{margin:0;width:{_THUMBNAIL}px;font-size:12px;overflow-wrap:anywhere}}img{{display:block}}"
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>mmjax search</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{style}</style></head>'
        f"<body>{''.join(sections)}</body></html>\n"
    )


def _text(value: str) -> str:
    return html.escape(value.encode("utf-8", "replace").decode())


def _sheet(
    queries: Sequence[str], answers: Sequence[Sequence[Found]], thumbnails: Mapping[str, Image.Image]
) -> Image.Image:
    font = ImageFont.load_default(13)
    cell = _THUMBNAIL + _MARGIN, _THUMBNAIL + 2 * _LINE + _MARGIN
    heights = [2 * _LINE + -(-len(found) // _COLUMNS) * cell[1] for found in answers]
    sheet = Image.new("RGB", (_COLUMNS * cell[0] + _MARGIN, max(1, sum(heights)) + _MARGIN), "white")
    draw, top = ImageDraw.Draw(sheet), _MARGIN
    for query, found, height in zip(queries, answers, heights, strict=True):
        draw.text((_MARGIN, top), _cut(draw, query, sheet.width - 2 * _MARGIN, font), "black", font)
        for place, each in enumerate(found):
            row, column = divmod(place, _COLUMNS)
            corner = _MARGIN + column * cell[0], top + 2 * _LINE + row * cell[1]
            sheet.paste(thumbnails[each.path], corner)
            for line, told in enumerate((f"{each.score:.4f}", each.path.rpartition("/")[2])):
                at = corner[0], corner[1] + _THUMBNAIL + line * _LINE
                draw.text(at, _cut(draw, told, _THUMBNAIL, font), "black", font)
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
