"""Whether the shards that are there are those that an index speaks of, and whole."""

import logging
import math

import numpy as np

from mmjax.data.record import SourceOptions
from mmjax.data.webdataset.index_file import MISSING, Shards
from mmjax.data.webdataset.shard_list import ShardList
from mmjax.data.webdataset.versions import current_sizes
from mmjax.errors import UserError
from mmjax.io.reader import Reader

_NO_FAULT = "no examples"  # what the index says of a tar that is whole and empty, as where no download succeeded

log = logging.getLogger("mmjax.data")


def check_shards(shards: ShardList, told: Shards, *, path: str, options: SourceOptions, where: str) -> None:
    """Compares an index with the shards that are there, and tells what is wrong with them in one line of the log.

    Shards that are missing, cut off, damaged or no tars are borne while their share of all shards is at most
    `options.max_bad_fraction`: by default one in a hundred, so that sets of fewer than a hundred shards must be whole.
    A cut shard counts like a missing one, whatever can still be read of it.

    Args:
      shards: as the pattern names them.
      told: what their index says.
      path: the pattern, for the remedy.
      options: `max_bad_fraction` and `keys_field`.
      where: the config field and its value, to begin errors with.

    Raises:
      UserError: the index is of other shards, a shard has grown or been replaced since, or too many are not whole.
    """
    again = f"run mmjax index {path!r} again"
    known = set(told.names)
    new = [name for name in shards.names if name not in known]
    lost = known.difference(shards.names)
    if new or (lost and not shards.listed):
        what = f"{new[0]!r} is not in it" if new else f"{min(lost)!r} is in it alone"
        raise UserError(f"{where}: its index is of other shards ({what}); {again}")
    sizes, replaced = current_sizes(shards, told, reader=Reader(options.retry_seconds))
    changed = np.flatnonzero((sizes > told.sizes) | replaced)
    if len(changed):
        name = told.names[changed[0]]
        raise UserError(f"{where}: {len(changed)} shards are not what their index says, such as {name!r}; {again}")
    faults = _faults(told, sizes)
    if not faults:
        return
    gone = int((sizes == MISSING).sum())
    total = len(told.names)
    name, problem = next(iter(faults.items()))
    found = (
        f"{gone:,} of {total:,} shards are missing, {len(faults) - gone:,} are cut off or no tars"
        f" (first: {name}: {problem})"
    )
    share = len(faults) / total
    if share > options.max_bad_fraction:
        if options.keys_field == "eval":
            raise UserError(f"{where}: {found}; evaluation is on all of a set: repair or fetch them, and {again}")
        allowed = math.ceil(100 * share) / 100
        raise UserError(
            f"{where}: {found}; repair or fetch them and {again}, or allow as many by data.max_bad_fraction={allowed:g}"
        )
    log.warning("%s: %s", shards.name, found)


def _faults(told: Shards, sizes: np.ndarray) -> dict[str, str]:
    """What is wrong, by name. `sizes` are those of now."""
    faults = {}
    for name, size, before in zip(told.names, sizes.tolist(), told.sizes.tolist(), strict=True):
        problem = told.problems.get(name, _NO_FAULT)
        if size == MISSING:
            faults[name] = "missing"
        elif size < before:
            faults[name] = "shorter than when it was indexed"
        elif problem != _NO_FAULT:
            faults[name] = problem
    return faults
