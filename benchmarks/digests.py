"""Time of the digests of a checkpoint's arrays, against that of the save which they are part of.

  python benchmarks/digests.py                      a gigabyte of float32 parameters, on the local disk
  python benchmarks/digests.py --megabytes=100 --folder=/mnt/shared

A save is timed from its start until the checkpoint is on the disk, with its digests and without them in turn, since the
disk's speed changes from one minute to the next. `ratio` is what digests add to it: the median over the pairs of
neighbouring saves, less 1. `training_waits` is the time until the next step may begin, `alone` that of digests where
nothing is written meanwhile. One JSON line.
"""

import argparse
import contextlib
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import common

from mmjax.cli import runtime

_LAYER = (4096, 2048)  # parameters of 33.6 MB


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="of parameters")
    parser.add_argument("--folder", default=None, help="to save in; a temporary one by default")
    parser.add_argument("--rounds", type=int, default=5)
    return parser


def main():
    return runtime.run(make_parser(), None, measure)


def measure(options, overrides):
    """Prints the time of saves and of their digests."""
    common.refuse_config(overrides)
    common.require_positive(options, "megabytes", "rounds")
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mmjax.training import checkpoint, digests
    from mmjax.training.config import CheckpointConfig

    rng = np.random.default_rng(0)
    rows = [min(_LAYER[0], left) for left in range(options.megabytes * 10**6 // (4 * _LAYER[1]), 0, -_LAYER[0])]
    state = {f"layer{i}": jnp.asarray(rng.standard_normal((n, _LAYER[1]), np.float32)) for i, n in enumerate(rows)}
    blank = mock.Mock(return_value=mock.Mock(wait=lambda: {}))
    seconds = {"with": [], "without": [], "alone": []}
    blocked = {"with": [], "without": []}
    for number in range(2 * options.rounds + 2):  # the first two warm up
        kind = ("with", "without")[(number + number // 2) % 2]  # either comes first as often
        folder = Path(tempfile.mkdtemp(prefix="mmjax-digests-", dir=options.folder))
        try:
            start = time.perf_counter()
            with contextlib.nullcontext() if kind == "with" else mock.patch.object(digests, "Digests", blank):
                checkpoints = checkpoint.Checkpoints(folder / "checkpoints", CheckpointConfig())
                began = time.perf_counter()
                checkpoints.save(number + 1, state, {}, None)
                blocked[kind].append(time.perf_counter() - began)
                checkpoints.close()
            seconds[kind].append(time.perf_counter() - start)
        finally:
            shutil.rmtree(folder)
        start = time.perf_counter()
        digests.compute(state)
        seconds["alone"].append(time.perf_counter() - start)
    pairs = list(zip(seconds["with"][1:], seconds["without"][1:], strict=True))
    common.emit(
        benchmark="digests",
        bytes=sum(x.nbytes for x in state.values()),
        save=common.spread([first for first, _ in pairs]),
        without=common.spread([second for _, second in pairs]),
        training_waits=common.spread(blocked["with"][1:]),
        training_waits_without=common.spread(blocked["without"][1:]),
        alone=common.spread(seconds["alone"][2:]),
        ratio=statistics.median(first / second for first, second in pairs) - 1,
        device=jax.devices()[0].device_kind,
        versions=common.versions("jax", "orbax-checkpoint", "numpy"),
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
