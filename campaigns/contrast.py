"""Recipes that contrast videos and sounds with texts, trained with a seed: what docs/recipes.md says that they reach.

python -m campaigns.contrast --seed=0
python -m campaigns.contrast --recipes=clap

Each takes three to four minutes of processor time.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from campaigns.classifiers import evaluate, seconds_of_children
from mmjax.utils import terminal

# Recall at 1 that a recipe reaches at least, to what it sees and to texts, among 1,000 of them (chance 0.1).
LEAST = {"clip4clip": 0.22, "clap": 0.65}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of parameters and order; 0")
    parser.add_argument("--recipes", nargs="+", default=list(LEAST), help="which ones; all")
    arguments = parser.parse_args()
    is_fine = True
    for recipe in arguments.recipes:
        before = seconds_of_children()
        with tempfile.TemporaryDirectory() as folder:
            metrics = evaluate(recipe, arguments.seed, Path(folder) / "run")
        recalls = {name: value for name, value in metrics.items() if "_retrieval_recall@" in name}
        reached = min(value for name, value in recalls.items() if name.endswith("@1")) >= LEAST.get(recipe, 0.0)
        is_fine &= reached
        values = ", ".join(f"{name} {value:.2%}" for name, value in recalls.items())
        minutes = (seconds_of_children() - before) / 60
        verdict = "" if reached else "; not what it is said to reach"
        terminal.show(f"{recipe}: {values}; {minutes:.1f} minutes of processor time{verdict}")
    return int(not is_fine)


if __name__ == "__main__":
    sys.exit(main())
