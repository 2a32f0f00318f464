"""`mmjax index`: finds the examples of WebDataset shards, and what is wrong with the shards."""

import argparse
import os
import sys
import tempfile

import fsspec

from mmjax.data.patterns import reason
from mmjax.data.reading import Reader, is_local, local_path
from mmjax.data.shard_list import ShardList, list_shards
from mmjax.data.source import SourceOptions
from mmjax.data.tar_index import GONE, Shards, TarIndex
from mmjax.data.tars import build_index
from mmjax.errors import UserError

_TOLD = 20  # problems and key sets that are listed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Finds where each example of WebDataset shards lies, writes that beside them or into the cache folder, and says"
        " what is in them and what is wrong. Shards that have not changed since the last time are not read again."
    )
    parser.epilog = "example: mmjax index 'gs://bucket/laion/{00000..41455}.tar'"
    parser.add_argument("pattern", metavar="PATTERN", help="what follows wds: in data.train; quote it for the shell")
    parser.add_argument("--output", metavar="FILE", default="", help="where to write; a path or a URL")
    parser.add_argument("--workers", type=_positive, default=0, metavar="N", help="shards read at a time; one per core")
    parser.add_argument("--force", action="store_true", help="read all shards again")
    parser.add_argument("--cache", metavar="DIR", default="", help="data.cache of the runs; the user's by default")
    parser.add_argument("--retry-seconds", type=float, default=120.0, metavar="S", help="patience with storage; 120")


def run(options: argparse.Namespace) -> int:
    """Builds the index and prints what was found.

    Raises:
      UserError: no shards, a storage that fails, or nowhere to write.
    """
    pattern = options.pattern.removeprefix("wds:")
    where = f"PATTERN={pattern!r}"
    shards = list_shards(pattern, reader=Reader(options.retry_seconds), where=where)
    read = SourceOptions(cache=options.cache, retry_seconds=options.retry_seconds)
    build = lambda output: build_index(
        shards, options=read, output=output, workers=options.workers, processes=True, force=options.force
    )
    try:
        if options.output and not is_local(options.output):
            with tempfile.TemporaryDirectory() as folder:
                index = TarIndex(build(os.path.join(folder, "index")))
                _tell(index.shards(), shards)
                fs, path = fsspec.core.url_to_fs(options.output)
                fs.put_file(index.path, path)
            print(f"index: {options.output}")
        else:
            index = TarIndex(build(local_path(options.output)))
            _tell(index.shards(), shards)
            print(f"index: {index.path}")
    except (OSError, ValueError, ImportError, NotImplementedError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where}: {reason(error)}") from error
    beside = shards.index_beside()
    if options.output and os.path.abspath(local_path(options.output)) not in (beside, shards.index_in(options.cache)):
        if options.output != beside:
            print(f"runs look for it in {beside or shards.index_in(options.cache)}", file=sys.stderr)
    elif not shards.is_local and beside:
        print(f"for other hosts: mmjax index ... --output {beside}", file=sys.stderr)
    return 0 if len(index) else 2


def _tell(told: Shards, shards: ShardList) -> None:
    there = told.sizes[told.sizes != GONE]
    print(f"shards: {len(there):,} of {len(told.names):,}, {there.sum() / 1e9:,.3f} GB")
    print(f"examples: {told.rows.sum():,}")
    sets = told.all_key_sets
    for endings, count in list(sets.items())[:_TOLD]:
        print(f"  {count:,} with {endings.replace(';', ', ')}")
    if len(sets) > _TOLD:
        print(f"  and {len(sets) - _TOLD} other sets of members")
    print(f"shards with something wrong: {len(told.problems):,}")
    for name, problem in list(told.problems.items())[:_TOLD]:
        print(f"  {shards.path(name)}: {problem}")
    if len(told.problems) > _TOLD:
        print(f"  and {len(told.problems) - _TOLD} others")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)
