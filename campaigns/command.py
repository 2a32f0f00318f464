"""The command line that all campaigns share."""

import argparse
import collections
from collections.abc import Callable

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
