"""Recipes that write about videos and sounds, trained from scratch with a seed: what docs/recipes.md says they reach.

python -m campaigns.captions --seed=0
python -m campaigns.captions --recipes=audio_captioner

Each takes two to four minutes of two cores without other work; questions go on from the captioner of videos.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from campaigns.classifiers import evaluate, seconds_of_children
from mmjax.utils import terminal

# The metric of each recipe and what it reaches at least; questions without videos may reach at most BLIND.
LEAST = {
    "video_captioner": ("exact_match", 0.85),
    "video_qa": ("accuracy", 0.85),
    "audio_captioner": ("exact_match", 0.80),
}
BLIND, MOST_BLIND = "video_qa:blind=True,steps=150", 0.50
GOES_ON = {"video_qa": "video_captioner", BLIND: "video_captioner"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of parameters and order; 0")
    parser.add_argument("--recipes", nargs="+", default=[*LEAST, BLIND], help="which ones; all")
    arguments = parser.parse_args()
    is_fine, done = True, {}
    with tempfile.TemporaryDirectory() as folder:

        def train(recipe: str) -> dict[str, float]:
            if recipe not in done:
                first = GOES_ON.get(recipe)
                if first:
                    train(first)
                start = [f"--config.init_from={Path(folder) / first}"] if first else []
                name = recipe.partition(":")[0] + "-blind" * (recipe == BLIND)
                before = seconds_of_children()
                metrics = evaluate(recipe, arguments.seed, Path(folder) / name, *start)
                done[recipe] = metrics, (seconds_of_children() - before) / 60
            return done[recipe][0]

        for recipe in arguments.recipes:
            metrics = train(recipe)
            metric, least = LEAST.get(recipe, ("accuracy", 0.0))
            reached = least <= metrics[metric] <= (MOST_BLIND if recipe == BLIND else 1.0)
            is_fine &= reached
            names = (metric, "bleu_4", "cider_d", "accuracy_number", "accuracy_other")
            values = ", ".join(f"{name} {metrics[name]:.4f}" for name in names if name in metrics)
            verdict = "" if reached else "; not what it is said to reach"
            terminal.show(f"{recipe}: {values}; {done[recipe][1]:.1f} minutes of processor time{verdict}")
    return int(not is_fine)


if __name__ == "__main__":
    sys.exit(main())
