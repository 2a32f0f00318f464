"""Mutated and hostile files of every kind that mmjax reads: each is read, or refused in one line.

No traceback, no case of more than 5 seconds or a gigabyte, no counts of bad examples that are wrong. Each case runs in
a process that a hang or a crash does not outlive.

python -m campaigns.mutate_inputs --count=2000 --seed=0
"""

import collections
import functools
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from campaigns import cases
from mmjax.errors import UserError

FINE = cases.FINE


def run(count: int, seed: int) -> collections.Counter[str]:
    """Reads `count` files; counts those that were `read` or refused in `one line`, and others by what happened."""
    return cases.run(__file__, count, seed)


def _cases(first: int, count: int, seed: int) -> Iterator[cases.Case]:
    """The cases from `first` on; what one reads is there until the next is asked for."""
    from campaigns import hostile_files

    kinds = list(hostile_files.kinds().items())
    with tempfile.TemporaryDirectory(prefix="mmjax-hostile-") as temporary:
        good = Path(temporary) / "good"
        for name, kind in kinds:
            (good / name).mkdir(parents=True)
            kind.make(good / name)
        for number in range(first, count):
            name, kind = kinds[number % len(kinds)]
            folder = Path(temporary) / "case"
            shutil.copytree(good / name, folder)
            rng = random.Random(f"{seed}/{number}")
            pointer = folder / "name"
            path = folder / (pointer.read_text() if pointer.exists() else kind.name)
            path.write_bytes(hostile_files.mutate(path.read_bytes(), rng))
            yield number, name, functools.partial(kind.read, folder)
            shutil.rmtree(folder)


def main() -> int:
    return cases.main(__file__, __doc__, 2000, _cases, UserError)


if __name__ == "__main__":
    sys.exit(main())
