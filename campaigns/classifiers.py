"""Classifiers of the recipes, trained from scratch with a seed: what docs/recipes.md says that they reach.

python -m campaigns.classifiers --seed=0
python -m campaigns.classifiers --recipes=classify action

Each takes two to four minutes of two cores without other work.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from campaigns.tiny_runs import ROOT
from mmjax.utils import terminal

# What a recipe reaches at least, and what a modality that tells nothing alone may reach at most, in shares of 1.
LEAST = {
    "classify": 0.97,
    "action": 0.95,
    "classify:modalities=image+series": 0.87,
    "classify:modalities=text+table": 0.87,
    "emotion": 0.95,
    "medical": 0.87,
    "finance": 0.87,
}
MOST = {"action:only=video": 0.38, "action:only=audio": 0.38}


def evaluate(recipe: str, seed: int, workdir: Path, *flags: str) -> dict[str, float]:
    """Trains a recipe; gives the metrics of its held-out data, by name without the data's.

    Args:
      recipe: its name, with arguments.
      seed: of the run.
      workdir: of the run.
      *flags: more of the command line.

    Raises:
      CalledProcessError: the run fails.
    """
    name, colon, arguments = recipe.partition(":")
    config = f"--config={ROOT / 'configs' / name}.py{colon}{arguments}"
    command = [sys.executable, str(ROOT / "train.py"), config, f"--workdir={workdir}", f"--config.seed={seed}", *flags]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (line,) = (line for line in lines if line["kind"] == "eval")
    return {key.rpartition("/")[2]: value for key, value in line.items() if "/" in key}


def seconds_of_children() -> float:
    """Processor time of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of parameters and order; 0")
    parser.add_argument("--recipes", nargs="+", default=[*LEAST, *MOST], help="which ones; all")
    arguments = parser.parse_args()
    is_fine = True
    for recipe in arguments.recipes:
        before = seconds_of_children()
        with tempfile.TemporaryDirectory() as folder:
            metrics = evaluate(recipe, arguments.seed, Path(folder) / "run")
        reached = LEAST.get(recipe, 0.0) <= metrics["acc1"] <= MOST.get(recipe, 1.0)
        is_fine &= reached
        values = ", ".join(f"{name} {value:.2%}" for name, value in metrics.items() if name.startswith("acc1"))
        minutes = (seconds_of_children() - before) / 60
        verdict = "" if reached else "; not what it is said to reach"
        terminal.show(f"{recipe}: {values}; {minutes:.1f} minutes of processor time{verdict}")
    return int(not is_fine)


if __name__ == "__main__":
    sys.exit(main())
