"""Random ViTs and DINOv2s of transformers: read, computed within 1e-5, written back and loaded strictly there.

python -m campaigns.lone_towers --count=12 --seed=0     of each of six classes; needs the extra `full`
"""

import collections
import sys
import tempfile
from pathlib import Path

from campaigns import command, hf_families
from tests.helpers import lone_towers

FINE = "equal"


def run(count: int, seed: int) -> collections.Counter[str]:
    """Counts configurations that were equal there and back, and others by what went wrong."""
    outcomes: collections.Counter[str] = collections.Counter()
    for name, case in lone_towers.CASES.items():
        for index in range(count):
            try:
                with tempfile.TemporaryDirectory() as folder:
                    hf_families.check(case, seed + index, Path(folder))
            except Exception as error:  # whatever it is, it is counted
                outcomes[f"{name}, seed {seed + index}: {type(error).__name__}: {str(error)[:200]}"] += 1
            else:
                outcomes[FINE] += 1
    return outcomes


if __name__ == "__main__":
    options = command.make_parser(__doc__, 12).parse_args()
    sys.exit(command.show(run(options.count, options.seed), lambda outcome: outcome == FINE))
