"""`mmjax search`: the images of a folder that are nearest to a text or an image."""

from collections.abc import Sequence

from mmjax.cli import runtime
from mmjax.data.bad_example import BadExample
from mmjax.data.image.image_file import decode, read_image
from mmjax.errors import UserError, validate_choice
from mmjax.io import paths as paths_lib
from mmjax.io.reader import Reader
from mmjax.search import index as index_lib
from mmjax.search.contact_sheet import SHEET_FORMATS, write_sheet
from mmjax.search.searcher import Searcher
from mmjax.utils import terminal


def main(argv: Sequence[str] | None = None) -> int:
    """`search --workdir=DIR|--model=PATH --images=DIR [TEXT ...] [--image=FILE ...] [--top=K] [--output=SHEET]`."""
    parser = runtime.make_parser(
        "search",
        "Finds the images of a folder that are nearest to a text or to another image. The folder's images are embedded"
        " once and kept in an index, which follows when images are added, changed or removed.",
    )
    parser.add_argument("queries", nargs="*", metavar="TEXT", help='such as "a red circle above a blue square"')
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="an image to find others like it")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder or URL, with its sub-folders")
    runtime.add_model_flags(parser)
    parser.add_argument("--top", type=int, default=10, metavar="K", help="answers to a query; 10")
    parser.add_argument("--output", metavar="FILE", help="contact sheet (.html, .png) or the answers as .json")
    parser.add_argument("--index", metavar="DIR", help=f"where the index is kept; DIR/{index_lib.FOLDER} of --images")
    parser.add_argument("--rebuild", action="store_true", help="make the index anew")

    def command(options, overrides):
        model_flags = runtime.ModelFlags(options)
        if not options.queries and not options.image:
            raise UserError('nothing to search for: give a TEXT, such as "a red circle", or --image=FILE')
        if any(not query.strip() for query in options.queries):
            raise UserError("a TEXT is empty; give words, or --image=FILE alone")
        if options.top < 1:
            raise UserError(f"--top={options.top} must be at least 1")
        if options.output:
            validate_choice("--output: ending", options.output.rpartition(".")[2].lower(), SHEET_FORMATS)
        images = index_lib.list_images(options.images)
        pictures = [_read_query(path) for path in options.image]
        runtime.prepare(model_flags.read_config(overrides))
        searcher = Searcher(model_flags.open())
        where = options.index or f"{options.images.rstrip('/')}/{index_lib.FOLDER}"
        if options.index is None:
            _check_writable(where, options.images)
        index = index_lib.Index(where, searcher.identity, rebuild=options.rebuild)
        dropped, added = searcher.update(index, options.images, images)
        bad = index.unreadable()
        terminal.show(f"{len(images) - len(bad):,} images in {where}: {added:,} new, {dropped:,} removed or changed")
        if bad:
            path, why = next(iter(sorted(bad.items())))
            terminal.show_error(f"{len(bad):,} cannot be read, such as {path}: {why}")
        try:
            answers = searcher.search(index, options.queries, pictures, top=options.top)
        except BadExample as error:
            raise UserError(f"a TEXT cannot be encoded ({error})") from error
        names = [*options.queries, *options.image]
        for name, matches in zip(names, answers, strict=True):
            terminal.show(f"\n{name}")
            for rank, match in enumerate(matches, start=1):
                terminal.show(f"{rank:4}  {match.score:7.4f}  {match.path}")
        if options.output:
            write_sheet(options.output, options.images, names, answers)
            terminal.show(f"\nwritten: {options.output}")
        return 0

    return runtime.run(parser, argv, command)


def _check_writable(where: str, images: str) -> None:
    """Says that an index can lie elsewhere, where it cannot lie beside the images."""
    try:
        paths_lib.make_folder(paths_lib.as_path(where), "index")
    except UserError as error:
        raise UserError(
            f"--images={images}: the index cannot be kept there ({error.__cause__ or 'not writable'}); name another"
            " folder for it with --index=DIR"
        ) from error


def _read_query(path: str) -> bytes:
    try:
        content = read_image(Reader(), path)
        decode(content)
        return content
    except (BadExample, OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise UserError(f"--image={path}: cannot be read as an image ({reason})") from error
