"""Separation of sounds by what is seen, trained from scratch with a seed: what docs/recipes.md says that it reaches.

python -m campaigns.separation --seed=0

Each of its two runs takes three to five minutes of processor time.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from campaigns.classifiers import evaluate, seconds_of_children
from mmjax.utils import terminal

LEAST, AHEAD = 8.0, 3.0  # decibels of SI-SDR over the mixture, and over the same model without pictures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of parameters and order; 0")
    arguments = parser.parse_args()
    gains = []
    for recipe in ("separate", "separate:pictures=false"):
        before = seconds_of_children()
        with tempfile.TemporaryDirectory() as folder:
            metrics = evaluate(recipe, arguments.seed, Path(folder) / "run")
        gains.append(metrics["si_sdr_improvement"])
        values = ", ".join(f"{name} {value:.2f} dB" for name, value in metrics.items())
        terminal.show(f"{recipe}: {values}; {(seconds_of_children() - before) / 60:.1f} minutes of processor time")
    reached = gains[0] >= LEAST and gains[0] - gains[1] >= AHEAD
    terminal.show("reached" if reached else "not what it is said to reach")
    return int(not reached)


if __name__ == "__main__":
    sys.exit(main())
