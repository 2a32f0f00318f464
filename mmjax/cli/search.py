"""`mmjax search`: the images, videos or sounds that are nearest to a text, or to another of them."""

import argparse
from collections.abc import Sequence

from mmjax import tasks
from mmjax.cli import runtime
from mmjax.data.bad_example import BadExample
from mmjax.data.formats.input_files import read_input
from mmjax.data.image.image_file import decode
from mmjax.errors import UserError, validate_choice
from mmjax.io import paths as paths_lib
from mmjax.io.reader import Reader
from mmjax.search import index as index_lib
from mmjax.search.contact_sheet import SHEET_FORMATS, write_sheet
from mmjax.search.gallery import INDEX_FOLDER, KINDS, Gallery, Kind, open_gallery, show_span
from mmjax.search.searcher import Query, Searcher
from mmjax.utils import terminal


def main(argv: Sequence[str] | None = None) -> int:
    """`search --workdir=DIR|--model=PATH --images=|--videos=|--sounds=WHERE [TEXT ...] [--image=FILE ...] ...`."""
    parser = runtime.make_parser(
        "search",
        "Finds the images, videos or sounds that are nearest to a text, or to another of them. What is searched is"
        " embedded once and kept in an index, which follows when files are added, changed or removed. WHERE is a folder"
        " or URL with its sub-folders, a file, tars as wds: takes them, or a table of files as pairs: does.",
    )
    parser.add_argument("queries", nargs="*", metavar="TEXT", help='such as "a red circle above a blue square"')
    for kind in KINDS.values():
        named = kind.unit.removesuffix("s")
        parser.add_argument(kind.flag, metavar="WHERE", help=f"{kind.unit} to search in")
        parser.add_argument(
            kind.example, action="append", default=[], metavar="FILE", help=f"a file of {kind.unit} like this {named}"
        )
    runtime.add_model_flags(parser)
    parser.add_argument("--top", type=int, default=10, metavar="K", help="answers to a query; 10")
    parser.add_argument("--output", metavar="FILE", help="contact sheet (.html, .png) or the answers as .json")
    parser.add_argument("--index", metavar="DIR", help=f"where the index is kept; {INDEX_FOLDER} beside the files")
    parser.add_argument("--rebuild", action="store_true", help="make the index anew")

    def command(options, overrides):
        model_flags = runtime.ModelFlags(options)
        kind, where = _searched(options)
        examples = {of: getattr(options, of.example.removeprefix("--")) for of in KINDS.values()}
        if not options.queries and not any(examples.values()):
            raise UserError(f'nothing to search for: give a TEXT, such as "a red circle", or {kind.example}=FILE')
        if any(not query.strip() for query in options.queries):
            raise UserError(f"a TEXT is empty; give words, or {kind.example}=FILE alone")
        if options.top < 1:
            raise UserError(f"--top={options.top} must be at least 1")
        if options.output:
            validate_choice("--output: ending", options.output.rpartition(".")[2].lower(), SHEET_FORMATS)
        queries = [_read_query(of, path) for of, paths in examples.items() for path in paths]
        config = model_flags.read_config(overrides)
        gallery = open_gallery(kind, where, tasks.source_options(config, evaluation=True))
        runtime.prepare(config)
        kinds = list(dict.fromkeys(query.kind for query in queries))
        searcher = Searcher(model_flags.open(), kind, kinds, with_texts=bool(options.queries))
        prepared = [(query.kind, searcher.prepare(query)) for query in queries]
        index = index_lib.Index(_index_folder(options, kind, gallery), searcher.identity, rebuild=options.rebuild)
        _update(searcher, index, gallery)
        try:
            answers = searcher.search(index, gallery, options.queries, prepared, top=options.top)
        except BadExample as error:
            raise UserError(f"a TEXT cannot be encoded ({error})") from error
        names = [*options.queries, *(query.path for query in queries)]
        for name, matches in zip(names, answers, strict=True):
            terminal.show(f"\n{name}")
            for rank, match in enumerate(matches, start=1):
                span = "" if match.span is None else f"  {show_span(match.span)}"
                terminal.show(f"{rank:4}  {match.score:7.4f}  {match.path}{span}")
        if options.output:
            write_sheet(options.output, gallery, searcher.specs_of(kind, in_views=False), names, answers)
            terminal.show(f"\nwritten: {options.output}")
        return 0

    return runtime.run(parser, argv, command)


def _searched(options: argparse.Namespace) -> tuple[Kind, str]:
    """What is searched in."""
    flags = {kind: getattr(options, kind.flag.removeprefix("--")) for kind in KINDS.values()}
    named = [(kind, where) for kind, where in flags.items() if where is not None]
    if len(named) != 1:
        raise UserError(f"{', '.join(kind.flag for kind in flags)}: give one of them, such as --images=DIR")
    return named[0]


def _update(searcher: Searcher, index: index_lib.Index, gallery: Gallery) -> None:
    """Brings the index in step, and says what has changed."""
    dropped, added = searcher.update(index, gallery)
    bad = index.unreadable()
    count, unit = len(gallery.entries) - len(bad), searcher.kind.unit
    terminal.show(f"{count:,} {unit} in {index.folder}: {added:,} new, {dropped:,} removed or changed")
    if bad:
        path, why = next(iter(sorted(bad.items())))
        terminal.show_error(f"{len(bad):,} cannot be read, such as {path}: {why}")


def _index_folder(options: argparse.Namespace, kind: Kind, gallery: Gallery) -> str:
    """Where the index is kept; says that it can lie elsewhere, where it cannot lie beside what is searched."""
    if options.index is not None:
        return options.index
    where = f"{gallery.folder}/{gallery.index_name}"
    try:
        paths_lib.make_folder(paths_lib.as_path(where), "index")
    except UserError as error:
        raise UserError(
            f"{kind.flag}={gallery.name}: the index cannot be kept there ({error.__cause__ or 'not writable'}); name"
            " another folder for it with --index=DIR"
        ) from error
    return where


def _read_query(kind: Kind, path: str) -> Query:
    try:
        content = read_input(Reader(), path)
        if kind.modality == "image":
            decode(content)
        return Query(kind, path, content)
    except (BadExample, OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise UserError(f"{kind.example}={path}: cannot be read as {kind.one} ({reason})") from error
