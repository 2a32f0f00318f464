"""Fine-tuning side by side: a CLIP of drawn scenes on digits, in full, by LoRA, as LiT, by a probe, as a classifier.

    python campaigns/fine_tuning.py FOLDER [--seed=0]

Prints the table of docs/examples.md; FOLDER keeps the runs, and a start after a kill goes on. Half an hour, two cores.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from mmjax.config import parse_arg, set_group, to_dict
from mmjax.config.recipe import load_recipe
from mmjax.inference import checkpoint_source

ROOT = Path(__file__).resolve().parents[1]
DATA = ["--config.data.train=digits", "--config.data.eval=digits/test+shapes/test", "--config.data.workers=0"]
MUON = ["--config.optimizer.name=muon", "--config.precision=float32", "--config.eval.every=0"]
LORA = [
    *("--config.optimizer.lora.rank=16", "--config.optimizer.lora.alpha=32.0", "--config.optimizer.weight_decay=0.0"),
    *("--config.optimizer.layer_decay.image=1.0", "--config.optimizer.layer_decay.text=1.0"),
    "--config.optimizer.lora.full=('logit_scale',)",
]
LIT = ["--config.init_paths=('image',)", "--config.optimizer.freeze=('image',)"]
# Name, rate, flags.
WAYS = [("full", 3e-3, []), ("LoRA", 2e-2, LORA), ("LiT", 3e-3, LIT)]
STEPS = 120


def get_config(arg: str = ""):
    """The recipe `classify` for digits with a CLIP's image tower, in half its steps; or the same model from scratch."""
    args = parse_arg(arg, weights="", steps=600, scratch=False)
    tower = to_dict(checkpoint_source.open_checkpoint(args.weights).config)["model"]["image"]
    config = load_recipe(f"classify:steps={args.steps}")
    encoder = {name: value for name, value in tower.items() if name not in ("pool", "projection")}
    model = config.model.to_dict()
    fusion = model["fusion"] | {"pool": tower["pool"]}  # the token that CLIP has trained
    set_group(config, "model", model | {"encoders": {"image": encoder | {"kind": "image"}}, "fusion": fusion})
    config.init_from = "" if args.scratch else args.weights
    config.data.mean_std = "siglip"
    config.name = "classify-from-clip"
    return config


def run(*argv) -> None:
    """Runs a command of the repository."""
    subprocess.run([sys.executable, *map(str, argv)], cwd=ROOT, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


def last_evaluation(workdir: Path) -> dict:
    """The metrics of a run's last evaluation, and the seconds of its steps."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "eval"][-1]


def row(name: str, workdir: Path) -> str:
    """A row of the table."""
    metrics = last_evaluation(workdir)
    rates = [metrics.get(f"shapes/{kind}_retrieval_recall@1") for kind in ("image", "text")]
    cells = [metrics["digits/acc1"], *rates]
    return " | ".join(["", name, *("" if x is None else f"{100 * x:.1f}" for x in cells), ""]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder, seed = args.folder.resolve(), f"--config.seed={args.seed}"
    base = folder / "shapes"
    flags = ["--config.data.train=shapes", "--config.eval.every=0", seed]
    run("train.py", "--config=configs/quickstart.py:steps=120", f"--workdir={base}", *flags)
    for name, rate, more in WAYS:
        recipe = f"examples/finetune.py:weights={base},steps={STEPS},batch=128,lr={rate}"
        flags = [*DATA, *MUON, *more, seed, f"--config.checkpoint.every={STEPS}"]
        run("train.py", f"--config={recipe}", f"--workdir={folder / name}", *flags)
    run("train.py", f"--config={__file__}:weights={base}", f"--workdir={folder / 'classifier'}", seed)
    probe = folder / "probe.json"
    flags = [
        "--config.data.eval=digits/test",
        "--config.eval.tasks=('linear_probe',)",
        "--config.eval.train=digits/train",
    ]
    run("eval.py", f"--workdir={base}", *flags, f"--output={probe}")
    print("| | digits, top-1 | scenes, text to image R@1 | scenes, image to text R@1 |\n|---|---|---|---|")
    print(row("before", base))
    for name, *_ in WAYS:
        print(row(name, folder / name))
    metrics = json.loads(probe.read_text())[0]["metrics"]
    print(f"| probe | {100 * metrics['acc1']:.1f} | | |")
    print(row("classifier", folder / "classifier"))


if __name__ == "__main__":
    main()
