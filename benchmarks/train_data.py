"""Training from tars of JPEGs beside training on `synthetic`, whose data costs next to nothing: images per second.

  python benchmarks/train_data.py                              ViT-S/32 on the CPU, 256-px JPEGs, 2 workers
  python benchmarks/train_data.py --config.batch_size=1024 --config.data.workers=8 ...     any field, as in training

Both are whole runs of `mmjax train` with the same recipe (configs/clip.py, its image tower made ViT-S/32), in turns.
Rates are the medians of the runs' own lines but the first, which compiles. `data_wait` is the share of a step that
the loop waited for its batch. Where the CPU computes the model too, decoding takes its time from it, which is in the
ratio. One JSON line a measurement.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import loader

from mmjax import cli
from mmjax.errors import UserError

SMALL = (
    *("model.image.patch_size=32", "model.image.width=384", "model.image.depth=12", "model.image.heads=6"),
    *("model.image.mlp_dim=1536", "model.text.width=384", "model.text.depth=6", "model.text.heads=6"),
    *("model.text.mlp_dim=1536", "precision=float32", "batch_size=64", "data.workers=2"),
)


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="side of the JPEGs in pixels")
    parser.add_argument("--images", type=int, default=1024, help="images in the tars")
    parser.add_argument("--steps", type=int, default=40, help="of a run")
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def main():
    return cli.run(make_parser(), None, measure)


def measure(options, overrides):
    """Trains on either data in turns and prints both rates and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        loader.make_tars(Path(folder) / "tars", options.size, options.images)
        spec = f"wds:{folder}/tars/{{00000..{loader.SHARDS - 1:05d}}}.tar"
        rates, waits = {}, {}
        for number in range(options.rounds):
            for name, data in (("tars", spec), ("synthetic", "synthetic")):
                rate, wait = train(options, overrides, data, f"{folder}/{name}{number}")
                rates.setdefault(name, []).append(rate)
                waits.setdefault(name, []).append(wait)
    for name in rates:
        ratio = statistics.median(a / b for a, b in zip(rates[name], rates["synthetic"], strict=True))
        common.emit(
            benchmark="train_data",
            data=name,
            images_per_second=statistics.median(rates[name]),
            lowest=min(rates[name]),
            highest=max(rates[name]),
            ratio_to_synthetic=ratio,
            data_wait=statistics.median(waits[name]),
            settings=" ".join([f"{options.size} px", *SMALL, *(f"{field}={value}" for field, value in overrides)]),
            **common.versions("mmjax", "jax", "grain", "pillow"),
        )
    return 0


def train(options, overrides, data, workdir):
    """Images per second of a run, and the share of its time that it waited for data."""
    fields = [
        f"steps={options.steps}",
        "log.every=5",
        "log.tensorboard=False",
        "checkpoint.every=1000000",
        "schedule.warmup=0",
    ]
    fields += [*SMALL, "eval.every=0", *(f"{field}={value}" for field, value in overrides), f"data.train={data}"]
    root = Path(__file__).parent.parent
    command = [sys.executable, str(root / "train.py"), "--config=clip:variant=B/32", f"--workdir={workdir}"]
    done = subprocess.run([*command, *(f"--config.{field}" for field in fields)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the run on {data} failed: {done.stderr.strip().splitlines()[-1]}")
    lines = [json.loads(line) for line in Path(workdir, "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["kind"] == "train" and line["step"] > 5 and "step_time" in line]
    waited = statistics.median(line["data_wait"] / line["step_time"] for line in lines)
    return statistics.median(line["images_per_second"] for line in lines), waited


if __name__ == "__main__":
    sys.exit(main())
