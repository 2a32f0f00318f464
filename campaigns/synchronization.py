"""The recipe of synchronisation, trained from scratch with a seed: what docs/recipes.md says that it reaches.

python -m campaigns.synchronization --seed=0

It takes some minutes of two cores without other work.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from campaigns.classifiers import evaluate, seconds_of_children
from mmjax.utils import terminal

LEAST = 0.9  # of held-out clips whose offset is within one frame


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of parameters and order; 0")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        metrics = evaluate("av_sync", arguments.seed, Path(folder) / "run")
    reached = metrics["offset_accuracy"] >= LEAST
    terminal.show(
        f"av_sync: within a frame {metrics['offset_accuracy']:.2%} (chance {metrics['chance_offset_accuracy']:.2%}),"
        f" exact {metrics['offset_accuracy_exact']:.2%} (chance {metrics['chance_offset_accuracy_exact']:.2%}), error"
        f" {metrics['offset_error']:.2f} frames (chance {metrics['chance_offset_error']:.2f});"
        f" {seconds_of_children() / 60:.1f} minutes of processor time"
        f"{'' if reached else '; not what it is said to reach'}"
    )
    return int(not reached)


if __name__ == "__main__":
    sys.exit(main())
