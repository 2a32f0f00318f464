"""Training from tars of JPEGs beside training on `synthetic`, whose data costs next to nothing: images per second.

  python benchmarks/train_data.py                              ViT-S/32 on the CPU, 256-px JPEGs, 2 workers
  python benchmarks/train_data.py --config.batch_size=1024 --config.data.workers=8 ...     any field, as in training

Both are whole runs of `mmjax train` with the same recipe (configs/clip.py, its image tower made ViT-S/32), in turns.
Rates are the medians of the runs' own lines but the first, which compiles. `data_wait` is the share of a step that
the loop waited for its batch. Where the CPU computes the model too, decoding takes its time from it, which is in the
ratio. `cpu_seconds` is what an image costs all processes of a run after its first steps, on all cores together: where
the cores are busy, its ratio is that of the rates, and other work on the machine leaves it as it is. One JSON line a
measurement.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import loader

from mmjax.cli import runtime
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
    return runtime.run(make_parser(), None, measure)


def measure(options, overrides):
    """Trains on either data in turns and prints both rates and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        loader.make_tars(Path(folder) / "tars", options.size, options.images)
        spec = f"wds:{folder}/tars/{{00000..{loader.SHARDS - 1:05d}}}.tar"
        rates, waits, costs = {}, {}, {}
        for number in range(options.rounds):
            for name, data in (("tars", spec), ("synthetic", "synthetic")):
                rate, wait, cost = train(options, overrides, data, f"{folder}/{name}{number}")
                rates.setdefault(name, []).append(rate)
                waits.setdefault(name, []).append(wait)
                costs.setdefault(name, []).append(cost)
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
            cpu_seconds=statistics.median(costs[name]),
            cpu_ratio_to_synthetic=statistics.median(
                b / a for a, b in zip(costs[name], costs["synthetic"], strict=True)
            ),
            steps=options.steps,
            rounds=options.rounds,
            settings=" ".join([f"{options.size} px", *SMALL, *(f"{field}={value}" for field, value in overrides)]),
            **common.versions("mmjax", "jax", "grain", "pillow"),
        )
    return 0


def train(options, overrides, data, workdir):
    """Images per second of a run, the share of its time that it waited for data, and CPU seconds an image."""
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
    with tempfile.TemporaryFile("w+") as output:
        run = subprocess.Popen([*command, *(f"--config.{field}" for field in fields)], stdout=output, stderr=output)
        first, last = follow(run, Path(workdir, "metrics.jsonl"))
        if run.wait():
            output.seek(0)
            raise UserError(f"the run on {data} failed: {output.read().strip().splitlines()[-1]}")
    if first is None or last is None:
        raise UserError(f"the run on {data} ended before two lines of its log could be compared; give more --steps")
    (step, before), (stop, after) = first, last
    batch = json.loads(Path(workdir, "config.json").read_text())["batch_size"]
    cost = (after - before) / ((stop - step) * batch)
    lines = [json.loads(line) for line in Path(workdir, "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["kind"] == "train" and line["step"] > 5 and "step_time" in line]
    waited = statistics.median(line["data_wait"] / line["step_time"] for line in lines)
    return statistics.median(line["images_per_second"] for line in lines), waited, cost


def follow(run, metrics):
    """(step, CPU seconds until then) of a run: at its first line after the fifth step, and at its last one seen."""
    first = last = None
    while run.poll() is None:
        time.sleep(0.2)
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        step = max((json.loads(line)["step"] for line in lines[:-1]), default=0)
        if step > 5 and step != (last or [0])[0]:
            last = (step, cpu_seconds(run.pid))
            first = first or last
    return first, last


def cpu_seconds(pid):
    """CPU time of a process and its children, in seconds."""
    total, waiting = 0, [pid]
    while waiting:
        pid = waiting.pop()
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            for task in Path(f"/proc/{pid}/task").iterdir():  # workers are started by threads
                waiting += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        total += sum(map(int, fields[11:15]))  # its own and that of the children that it has waited for
    return total / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
