"""A guard against steps that grow: bytes and memory of a layer, compiled for devices that are not there.

  make guard                                            compiles in .venv-guard and compares with the record
  .venv-guard/bin/python benchmarks/guard.py --write    writes the record again, after a change that was meant
  .venv-guard/bin/python benchmarks/guard.py --only=h100    a part of it: programs whose name has this in it

Each model's real train step (configs/clip.py, both towers cut to a few layers, unrolled, nothing recomputed, packed
texts) is compiled at two depths by `mmjax.plan`. The last layer is computed for the pooled token alone, so the
difference of the depths is whole layers of both towers; the rest is embeddings, the last layer, heads, loss and
optimizer. Of both, per chip: bytes moved in main memory, memory that the step works in (activations and temporaries),
and memory of the state and batch.

Exit status: 0; 1 where a figure is more than 3 % above the record (one line each, with the kinds of kernels that make
the difference), or where the formula by which `remat='auto'` plans misses a layer's memory by more than 10 %; 2 a
mistake in the flags, or other compilers than the record's.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common

from mmjax.config import parse
from mmjax.errors import UserError, validate_choice
from mmjax.io import paths
from mmjax.models.config import TwoTowerConfig

RECORD = Path(__file__).parent / "guard" / "record.json"
TOLERANCE = 0.03
FORMULA_TOLERANCE = 0.1
FIGURES = {
    "bytes": "bytes moved",
    "working": "memory for activations and temporaries",
    "state": "memory for state and batch",
}
_CHANGES = 3  # kinds of kernels that are told with a figure
_FAILED = 1


@dataclasses.dataclass(frozen=True)
class Program:
    """A step that is compiled at two depths.

    Attributes:
      topology, variant: of what is compiled.
      batch: pairs of a step on all chips.
      rows: of packed texts, a chip.
      depths: layers of each tower, the lower one first.
    """

    topology: str
    variant: str
    batch: int
    rows: int
    depths: tuple[int, int]

    @property
    def name(self) -> str:
        return f"{self.topology} {self.variant}"


# The TPU compiler takes 80 s of CPU for each further two layers, the GPU compiler 3; a depth of 1 has no whole layer.
PROGRAMS = (
    Program("v5e:2x2", "B/16", 512, 36, (1, 2)),
    Program("h100:1", "L/14", 256, 72, (2, 4)),
    Program("h100:1", "B/16", 256, 72, (2, 4)),
    Program("h100:1", "B/32", 256, 72, (2, 4)),
)


# -- one compilation, in a process of its own --------------------------------------------------------------------------


def measure(program: Program, depth: int) -> dict[str, Any]:
    """Compiles one depth in this process, whose jax has not started.

    Returns:
      The figures per chip by name, `kinds` (bytes by kind of kernel), `versions` and `cpu_seconds`.
    """
    from mmjax.cli import runtime
    from mmjax.config import recipe

    fields = recipe.load_recipe(f"clip:variant={program.variant}")
    # What is chosen by itself elsewhere is given here, so that the record says what is compiled.
    chosen = {"microbatch": 1, "loss.impl": "dense", "deterministic": False, "mesh.fsdp": 1}
    for tower in ("image", "text"):
        layers = {"depth": depth, "scan": False, "remat": "none"}
        chosen |= {f"model.{tower}.{field}": value for field, value in layers.items()}
    fields.update_from_flattened_dict(chosen | {"batch_size": program.batch, "data.packed_rows": program.rows})
    config = parse(fields)
    model = config.model
    if not isinstance(model, TwoTowerConfig):
        raise TypeError(f"{program.name}: {type(model).__name__} has no two towers whose layers could be counted")

    from mmjax.plan import topology

    topology.set_environment(program.topology)
    runtime.prepare(config, "gpu" if topology.is_gpu(program.topology) else "tpu", training=True)
    from mmjax import tasks
    from mmjax.data.loading import packing
    from mmjax.plan import program as program_lib
    from mmjax.training import remat_plan

    setup = program_lib.make_setup(config, topology.devices(program.topology), text_length=18)
    plan = program_lib.make_plan(setup, program.topology)
    if "hbm_bytes" not in plan:
        raise UserError(f"{program.name}, depth {depth}: the compiler refuses: {plan['refusal']['says']}")
    memory = plan["memory"]
    used = resource.getrusage(resource.RUSAGE_SELF)
    towers = remat_plan.towers(config, model, setup.task.kernels, setup.mesh)
    packed = program.rows * packing.row_length(tasks.text_length(config))
    towers["text"] = dataclasses.replace(towers["text"], tokens=packed)
    return {
        "formula": sum(tower.kept("none") for tower in towers.values()),
        "bytes": plan["hbm_bytes"],
        "working": memory["activations"] + memory["temporaries"],
        "state": sum(memory[kind] for kind in ("parameters", "optimizer", "moving_average", "inputs")),
        "kinds": {row["kind"]: row["bytes"] for row in plan["kernels"]},
        "versions": plan["versions"],
        "cpu_seconds": used.ru_utime + used.ru_stime,
    }


def split(program: Program, shallow: Mapping[str, Any], deep: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`layer` and `rest` of two depths' figures: what one more layer adds, and what is left without whole layers."""
    low, high = program.depths

    def parts(less: float, more: float) -> tuple[int, int]:
        layer = (more - less) / (high - low)
        return round(layer), round(less - (low - 1) * layer)

    bytes_moved: dict[str, dict[str, Any]] = {"layer": {"kinds": {}}, "rest": {"kinds": {}}}
    for figure in FIGURES:
        bytes_moved["layer"][figure], bytes_moved["rest"][figure] = parts(shallow[figure], deep[figure])
    bytes_moved["layer"]["formula"] = deep["formula"]
    for kind in sorted({*shallow["kinds"], *deep["kinds"]}):
        layer, rest = parts(shallow["kinds"].get(kind, 0), deep["kinds"].get(kind, 0))
        bytes_moved["layer"]["kinds"][kind], bytes_moved["rest"]["kinds"][kind] = layer, rest
    return bytes_moved


def compile_all(programs: Sequence[Program], jobs: int) -> dict[str, Any]:
    """Compiles programs at both depths, several processes at a time, and tells each.

    Returns:
      What is recorded: `versions` and, by program, `figures`.

    Raises:
      UserError: a process failed; what it wrote has been printed.
    """
    tasks = [(program, depth) for program in programs for depth in reversed(program.depths)]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        started = [pool.submit(_in_a_process, *task) for task in tasks]
        try:
            measured = {task: future.result() for task, future in zip(tasks, started, strict=True)}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what has not begun need not
            raise
    versions: dict[str, str] = {}
    for depths in measured.values():
        versions |= depths["versions"]
    low_and_high = lambda program: [measured[program, depth] for depth in program.depths]
    return {
        "versions": versions,
        "figures": {program.name: split(program, *low_and_high(program)) for program in programs},
    }


def _in_a_process(program: Program, depth: int) -> dict[str, Any]:
    command = [sys.executable, __file__, f"--measure={program.name}", f"--depth={depth}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{program.name}, depth {depth}: compiling failed (status {done.returncode}): {_last(done)}")
    result = json.loads(done.stdout.splitlines()[-1])
    gigabytes = ", ".join(f"{figure} {result[figure] / 1e9:.3f} GB" for figure in FIGURES)
    print(f"{program.name}, depth {depth}: {gigabytes}; {result['cpu_seconds']:.0f} s of CPU", flush=True)
    return result


def _last(done: subprocess.CompletedProcess) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else "it wrote nothing"


# -- the comparison ----------------------------------------------------------------------------------------------------


def compare(record: Mapping[str, Any], measured: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Compares figures with the record.

    Args:
      record, found: as `compile_all` returns them; `found` may hold some of the record's programs.

    Returns:
      A line for each figure that grew by more than `TOLERANCE` and for each layer whose memory the trainer's formula
      misses by more than `FORMULA_TOLERANCE`; and one for each figure that shrank by more.

    Raises:
      UserError: other compilers than the record's, or a program that is not in it.
    """
    for name, version in measured["versions"].items():
        if record["versions"].get(name) != version:
            raise UserError(
                f"{name} is {version} and the record was written with {record['versions'].get(name)}: make guard"
                " installs what benchmarks/guard/requirements.txt names; --write writes the record again"
            )
    grown, shrunk = [], []
    for name, parts in measured["figures"].items():
        if name not in record["figures"]:
            raise UserError(f"{name} is not in {RECORD.name}; --write writes the record again")
        formula, working = parts["layer"]["formula"], parts["layer"]["working"]
        if abs(formula - working) > FORMULA_TOLERANCE * working:
            grown.append(
                f"{name}, layer: keeps {_size(working)}, and the formula of remat='auto' says {_size(formula)}; mend"
                " mmjax/training/remat_plan.py"
            )
        for part in ("layer", "rest"):
            then, now = record["figures"][name][part], parts[part]
            for figure, words in FIGURES.items():
                change = now[figure] - then[figure]
                if abs(change) <= TOLERANCE * abs(then[figure]):
                    continue
                share = f"{change / abs(then[figure]):+.1%}" if then[figure] else "from nothing"
                line = f"{name}, {part}: {words} {_size(then[figure])} -> {_size(now[figure])} ({share})"
                line += _changes(then["kinds"], now["kinds"]) if figure == "bytes" else ""
                (grown if change > 0 else shrunk).append(line)
    return grown, shrunk


def _changes(then: Mapping[str, int], now: Mapping[str, int]) -> str:
    """The kinds of kernels whose bytes changed most, such as `: copies +0.400 GB`."""
    changes = {kind: now.get(kind, 0) - then.get(kind, 0) for kind in {*then, *now}}
    largest = sorted(changes, key=lambda kind: (-abs(changes[kind]), kind))[:_CHANGES]
    parts = [f"{kind} {changes[kind] / 1e9:+.3f} GB" for kind in largest if changes[kind]]
    return f": {', '.join(parts)}" if parts else ""


def _size(size: float) -> str:
    return f"{size / 1e9:.3f} GB"


# -- the command -------------------------------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the record, in place of comparing with it")
    parser.add_argument("--only", default="", metavar="TEXT", help="programs whose name has this in it: h100, B/16")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilations at a time; one a core")
    parser.add_argument("--measure", metavar="PROGRAM", help="compile one in this process, and print its figures")
    parser.add_argument("--depth", type=int, default=0, help="of --measure")
    return parser


def main() -> int:
    from mmjax.cli import runtime

    return runtime.run(make_parser(), None, command)


def command(options: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> int:
    """Does what the flags say; the exit status."""
    common.refuse_config(overrides)
    if options.measure:
        named = {program.name: program for program in PROGRAMS}
        program = named[validate_choice("--measure", options.measure, named)]
        print(json.dumps(measure(program, options.depth or program.depths[0])), flush=True)
        return 0
    programs = [program for program in PROGRAMS if options.only in program.name]
    if not programs:
        raise UserError(f"--only={options.only}: no program has that; {', '.join(p.name for p in PROGRAMS)}")
    if options.write and options.only:
        raise UserError(f"--write writes the whole record; leave out --only={options.only}")
    if options.jobs < 1:
        raise UserError(f"--jobs={options.jobs} must be at least 1")
    record = None if options.write else _read_record()
    measured = compile_all(programs, options.jobs)
    if record is None:
        paths.write_atomically(paths.as_path(str(RECORD)), json.dumps(measured, indent=2) + "\n")
        print(f"wrote {RECORD.name}")
        return 0
    grown, shrunk = compare(record, measured)
    for line in shrunk:
        print(f"better: {line}")
    for line in grown:
        print(f"GREW: {line}")
    if grown:
        print(
            f"guard: {len(grown)} figures grew by more than {TOLERANCE:.0%}. Where that was meant, write the record"
            " again (benchmarks/guard.py --write) and say why in the commit"
        )
        return _FAILED
    if shrunk:
        print("guard: the step is smaller than the record says; write it again with benchmarks/guard.py --write")
    print(f"guard: {len(programs)} programs, no figure grew by more than {TOLERANCE:.0%}")
    return 0


def _read_record() -> dict[str, Any]:
    try:
        return json.loads(RECORD.read_text())
    except FileNotFoundError:
        raise UserError(f"{RECORD.name} is not there; --write writes it") from None


if __name__ == "__main__":
    sys.exit(main())
