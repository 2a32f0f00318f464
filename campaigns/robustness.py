"""Robustness of the fusion recipe, with and without modality dropout, against late fusion: docs/recipes.md's table.

python -m campaigns.robustness
python -m campaigns.robustness --seed=1 --kinds=joint --corrupt=image:noise0.2/0.4/0.8

Each run takes half a minute of training and evaluation after a minute of compiling, on two cores without other work.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from campaigns.classifiers import evaluate
from mmjax.data.loading.corruption import parse_sweeps
from mmjax.metrics.robustness import curves, effective_robustness
from mmjax.utils import terminal

BASELINE = "late"
# From what is hardly seen to what leaves next to nothing of a modality, and one or two of the three that are missing.
CORRUPTED = "image:noise0.25/0.5/1/2+series:noise0.5/1/2/4+series:drop0.25/0.5/0.75/1"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of parameters and order; 0")
    parser.add_argument("--kinds", nargs="+", default=["joint"], help="of fusion, beside the baseline")
    parser.add_argument("--dropout", type=float, default=0.3, help="of modalities, in the runs that have it; 0.3")
    parser.add_argument("--corrupt", default=CORRUPTED, help="as eval.corrupt")
    arguments = parser.parse_args()
    parse_sweeps(arguments.corrupt, "--corrupt")
    metrics = {}
    kinds = dict.fromkeys((BASELINE, *arguments.kinds))
    for kind, dropout in ((kind, dropout) for dropout in (0.0, arguments.dropout) for kind in kinds):
        with tempfile.TemporaryDirectory() as folder:
            recipe = f"fusion:kind={kind},dropout={dropout}"
            flags = [f"--config.eval.corrupt={arguments.corrupt}"]
            metrics[kind, dropout] = evaluate(recipe, arguments.seed, Path(folder) / "run", *flags)
    baseline = {curve.sweep: curve for curve in curves(metrics[BASELINE, 0.0]) if curve.metric == "acc1"}
    for (kind, dropout), values in metrics.items():
        for curve in (curve for curve in curves(values) if curve.metric == "acc1"):
            points = " ".join(f"{value:.1%}" for value in curve.values)
            levels = "/".join(f"{level:g}" for level in curve.levels)
            effective = effective_robustness(curve.values, baseline[curve.sweep].values)
            terminal.show(
                f"{kind}, dropout {dropout:g}: {curve.sweep}{levels}: {points}; area {curve.area:.1%},"
                f" effective robustness {100 * effective:+.1f} points"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
