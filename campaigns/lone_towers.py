"""Random lone towers of transformers and timm: read, computed within 1e-5, written and loaded strictly there.

python -m campaigns.lone_towers --count=12 --seed=0     of each class and of each kind of timm's; needs the extra `full`
"""

import collections
import functools
import sys
import tempfile
from pathlib import Path

from campaigns import command, hf_families
from tests.helpers import lone_towers, timm_vits

FINE = "equal"


def run(count: int, seed: int) -> collections.Counter[str]:
    """Counts configurations that were equal there and back, and others by what went wrong."""
    outcomes: collections.Counter[str] = collections.Counter()
    checks = {name: functools.partial(hf_families.check, case) for name, case in lone_towers.CASES.items()}
    checks |= {f"timm's {name}": functools.partial(timm_vits.check, name) for name in timm_vits.CASES}
    for name, check in checks.items():
        for index in range(count):
            try:
                with tempfile.TemporaryDirectory() as folder:
                    check(seed + index, Path(folder))
            except Exception as error:  # whatever it is, it is counted
                outcomes[f"{name}, seed {seed + index}: {type(error).__name__}: {str(error)[:200]}"] += 1
            else:
                outcomes[FINE] += 1
    return outcomes


if __name__ == "__main__":
    options = command.make_parser(__doc__, 12).parse_args()
    sys.exit(command.show(run(options.count, options.seed), lambda outcome: outcome == FINE))
