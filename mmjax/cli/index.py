"""`mmjax index`: an index of the examples of WebDataset shards, and a list of what is wrong with the shards."""

import argparse
import errno
import os
import tempfile
from collections.abc import Sequence

from mmjax.cli import runtime
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.webdataset.build import build_index
from mmjax.data.webdataset.index_file import MISSING, Shards, TarIndex
from mmjax.data.webdataset.shard_list import ShardList, list_shards
from mmjax.errors import UserError
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader, is_local, local_path
from mmjax.utils import terminal

_MAX_LISTED = 20  # problems and key sets that are listed


def main(argv: Sequence[str] | None = None) -> int:
    """`index PATTERN [--output FILE] [--workers N] [--force] [--cache DIR]`."""
    parser = runtime.make_parser(
        "index",
        "Finds where each example of WebDataset shards lies, writes that beside them (into the cache folder where that"
        " cannot be written), and prints"
        " what is in them and what is wrong. Shards that have not changed since the last time are not read again.",
    )
    parser.epilog = "example: mmjax index 'gs://bucket/laion/{00000..41455}.tar'"
    parser.add_argument("pattern", metavar="PATTERN", help="what follows wds: in data.train; quote it for the shell")
    parser.add_argument("--output", metavar="FILE", default="", help="where to write; a path or a URL")
    parser.add_argument("--workers", type=_positive, default=0, metavar="N", help="shards read at a time; one per core")
    parser.add_argument("--force", action="store_true", help="read all shards again")
    parser.add_argument("--cache", metavar="DIR", default="", help="data.cache of the runs; the user's by default")
    parser.add_argument("--retry-seconds", type=float, default=120.0, metavar="S", help="patience with storage; 120")

    def command(options, overrides):
        runtime.refuse_fields(overrides)
        return build_and_print(options)

    return runtime.run(parser, argv, command)


def build_and_print(options: argparse.Namespace) -> int:
    """Builds the index and prints a summary.

    Raises:
      UserError: no shards, a storage that fails, or nowhere to write.
    """
    pattern = options.pattern.removeprefix("wds:")
    where = f"PATTERN={pattern!r}"
    shards = list_shards(pattern, reader=Reader(options.retry_seconds), where=where)
    source_options = SourceOptions(cache=options.cache, retry_seconds=options.retry_seconds)
    build = lambda output: build_index(
        shards, options=source_options, where=where, output=output, workers=options.workers, force=options.force
    )
    try:
        if options.output and not is_local(options.output):
            with tempfile.TemporaryDirectory() as folder:
                index = TarIndex(build(os.path.join(folder, "index")))
                _print_summary(index.shards(), shards)
                Reader(options.retry_seconds).upload(index.path, options.output)
            terminal.show(f"index: {options.output}")
        else:
            index = TarIndex(build(local_path(options.output)))
            _print_summary(index.shards(), shards)
            beside = "" if options.output or shards.is_local else shards.index_beside()
            failure = _upload_beside(index.path, beside, shards, options) if beside else ""
            terminal.show(f"index: {beside if beside and not failure else index.path}{failure}")
    except (OSError, ValueError, ImportError, NotImplementedError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where}: {error_reason(error)}") from error
    lookup_paths = shards.index_beside(), shards.index_in(options.cache)
    output = os.path.abspath(local_path(options.output)) if is_local(options.output) else options.output
    if options.output and output not in lookup_paths:
        terminal.show_error(f"runs look for it in {' or '.join(filter(None, lookup_paths))}")
    return 0


def _upload_beside(path: str, beside: str, shards: ShardList, options: argparse.Namespace) -> str:
    """Uploads an index to where its shards are; returns "", or why it lies in the cache alone."""
    try:
        if beside.startswith(("http://", "https://")):
            raise PermissionError(errno.EROFS, "HTTP is for reading")
        Reader(options.retry_seconds).upload(path, beside)
    except (OSError, NotImplementedError, ValueError) as error:
        return f" (in this machine's cache: {beside} cannot be written: {error_reason(error)})"
    # What is there now is also what other hosts take: one copy is enough.
    os.replace(path, shards.index_copy_in(options.cache))
    return ""


def _print_summary(index: Shards, shards: ShardList) -> None:
    sizes = index.sizes[index.sizes != MISSING]
    terminal.show(f"shards: {len(sizes):,} of {len(index.names):,}, {sizes.sum() / 1e9:,.3f} GB")
    terminal.show(f"examples: {index.rows.sum():,}")
    sets = index.all_key_sets
    for endings, count in list(sets.items())[:_MAX_LISTED]:
        terminal.show(f"  {count:,} with {endings.replace(';', ', ')}")
    if len(sets) > _MAX_LISTED:
        terminal.show(f"  and {len(sets) - _MAX_LISTED} other sets of members")
    terminal.show(f"shards with something wrong: {len(index.problems):,}")
    for name, problem in list(index.problems.items())[:_MAX_LISTED]:
        terminal.show(f"  {shards.path(name)}: {problem}")
    if len(index.problems) > _MAX_LISTED:
        terminal.show(f"  and {len(index.problems) - _MAX_LISTED} others")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)
