"""The command line that all campaigns share."""

import argparse
import collections
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from mmjax.utils import terminal


def make_parser(description: str | None, count: int) -> argparse.ArgumentParser:
    """A parser of `--count` and `--seed`; the first of them is `count` by default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=count, help=f"how many to try; {count}")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random; 0")
    return parser


def show(outcomes: collections.Counter[str], is_fine: Callable[[str], bool]) -> int:
    """Prints how often each outcome occurred; returns the exit status, 1 where one of them is not fine."""
    for outcome, number in outcomes.most_common():
        terminal.show(f"{number:5} {outcome}")
    return int(not all(map(is_fine, outcomes)))


def compare_seeds(
    description: str | None, count: int, differences: Callable[[int, Path], Mapping[str, float]], tolerance: float
) -> int:
    """The command of a campaign of random models: prints how many are equal; returns the exit status.

    Args:
      description: of the command.
      count: models by default.
      differences: (seed, an empty folder) -> the largest difference of what is compared, by its name.
      tolerance: up to which difference it is equal.
    """
    options = make_parser(description, count).parse_args()
    outcomes: collections.Counter[str] = collections.Counter()
    for seed in range(options.seed, options.seed + options.count):
        with tempfile.TemporaryDirectory(prefix="mmjax-campaign-") as folder:
            for what, difference in differences(seed, Path(folder)).items():
                is_equal = difference <= tolerance
                outcomes[f"{what}: {'equal' if is_equal else f'seed {seed} differs by {difference:.1e}'}"] += 1
    return show(outcomes, lambda outcome: outcome.endswith("equal"))
