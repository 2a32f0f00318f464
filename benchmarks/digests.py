"""Time of the digests of a checkpoint's arrays, against that of the save which they are part of.

  python benchmarks/digests.py                      a gigabyte of float32 parameters, on the local disk
  python benchmarks/digests.py --megabytes=100 --folder=/mnt/shared

A save is timed from its start until the checkpoint is on the disk, with its digests, which are timed alone within it;
`ratio` is the digests' share of the rest of the save, the median over the rounds. One JSON line.
"""

import argparse
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
    seconds = {"save": [], "digests": []}
    compute = digests.compute

    def timed(tree):
        start = time.perf_counter()
        result = compute(tree)
        seconds["digests"].append(time.perf_counter() - start)
        return result

    for number in range(options.rounds + 1):  # the first one warms up
        folder = Path(tempfile.mkdtemp(prefix="mmjax-digests-", dir=options.folder))
        try:
            start = time.perf_counter()
            with mock.patch.object(digests, "compute", timed):
                checkpoints = checkpoint.Checkpoints(folder / "checkpoints", CheckpointConfig())
                checkpoints.save(number + 1, state, {}, None)
                checkpoints.close()
            seconds["save"].append(time.perf_counter() - start)
        finally:
            shutil.rmtree(folder)
    saves, parts = seconds["save"][1:], seconds["digests"][1:]
    common.emit(
        benchmark="digests",
        bytes=sum(x.nbytes for x in state.values()),
        save=common.spread(saves),
        digests=common.spread(parts),
        ratio=statistics.median(part / (save - part) for save, part in zip(saves, parts, strict=True)),
        device=jax.devices()[0].device_kind,
        versions=common.versions("jax", "orbax-checkpoint", "numpy"),
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
