"""Writes measurements and plans as sections of a Markdown file; a section that stands there already is replaced.

  python benchmarks/record.py results.jsonl --append=docs/benchmarks.md        lines of train_step.py and attention.py
  python benchmarks/record.py b16.json l14.json --append=docs/benchmarks.md    plans: mmjax plan --output=FILE

Measurements become one section a device and day, plans one a topology. Without `--append` they are printed. Lines that
a run which was cut off did not finish are left out; what failed is told in the section.
"""

import argparse
import datetime
import json
import sys
from pathlib import Path

import common

from mmjax.errors import UserError

# Settings of a plan's table: what is told, and how it is read.
_SIZES = {
    "memory": lambda plan: plan["memory"]["total"],
    "of it activations": lambda plan: plan["memory"]["activations"],
    "of it gradients, temporaries": lambda plan: plan["memory"]["temporaries"],
    "bytes moved": lambda plan: plan["hbm_bytes"],
}


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="JSON lines of benchmarks, or JSON of plans")
    parser.add_argument("--append", metavar="FILE.md", help="the Markdown file; else what it would get is printed")
    parser.add_argument("--note", default="", help="a sentence for the sections, such as what the plans assume")
    return parser


def main():
    return run(None)


def run(argv):
    from mmjax.cli import runtime

    def command(options, overrides):
        common.refuse_config(overrides)
        lines, plans = read(options.files)
        made = sections(lines, plans, options.note)
        if not made:
            raise UserError(f"{' '.join(options.files)}: no measurement and no plan in it")
        if options.append is None:
            print("\n\n".join(f"{heading}\n\n{body}" for heading, body in made.items()))
            return 0
        path = Path(options.append)
        try:
            text = path.read_text()
        except OSError as error:
            raise UserError(f"--append={path}: {error.strerror}") from error
        for heading, body in made.items():
            text = replaced(text, heading, body)
        path.write_text(text)
        print(f"{path}: {'; '.join(made)}")
        return 0

    return runtime.run(make_parser(), argv, command)


def read(files):
    """The lines of measurements, and the plans, of some files.

    Raises:
      UserError: a file cannot be read, or is neither.
    """
    lines, plans = [], []
    for name in files:
        try:
            text = Path(name).read_text()
        except OSError as error:
            raise UserError(f"{name}: {error.strerror}") from error
        document = parsed(text)
        if isinstance(document, dict) and "topology" in document:
            plans.append(document)
            continue
        objects = [line for line in map(parsed, text.splitlines()) if isinstance(line, dict)]
        if text.strip() and not objects:
            raise UserError(f"{name}: neither JSON lines of a benchmark nor the JSON of a plan")
        lines += objects
    return lines, plans


def parsed(text):
    """JSON, or None: a run that is stopped leaves half a line."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def replaced(text, heading, body):
    """A Markdown text with a section, in the place of the one with that heading or else at the end."""
    lines = text.rstrip("\n").split("\n")
    section = [heading, "", *body.split("\n")]
    if heading not in lines:
        return "\n".join([*lines, "", *section]) + "\n"
    start = lines.index(heading)
    end = next((i for i in range(start + 1, len(lines)) if lines[i].startswith("## ")), len(lines))
    rest = ["", *lines[end:]] if end < len(lines) else []
    return "\n".join([*lines[:start], *section, *rest]) + "\n"


def sections(lines, plans, note):
    """Headings and what stands under them."""
    bodies = {}
    measured = [line for line in lines if "device" in line]
    parts = [line for line in lines if "part" in line]
    for device, date in dict.fromkeys((line["device"], line["date"]) for line in measured):
        same = [line for line in measured if (line["device"], line["date"]) == (device, date)]
        body = [*([note] if note else []), *_measured(same)]
        bodies[f"## Measured on {device}, {date}"] = "\n\n".join([*body, *_parts(parts)])
        parts = []  # once is enough
    for topology in dict.fromkeys(plan["topology"] for plan in plans):
        same = [plan for plan in plans if plan["topology"] == topology]
        bodies[f"## Compiled for {topology}"] = "\n\n".join([*([note] if note else []), *_compiled(same)])
    return bodies


# -- measurements ------------------------------------------------------------------------------------------------------


def _measured(lines):
    versions = {tuple(sorted(line["versions"].items())) for line in lines if "versions" in line}
    blocks = ["; ".join(", ".join(f"{name} {version}" for name, version in pairs) for pairs in sorted(versions)) + "."]
    of = lambda name: [line for line in lines if line.get("benchmark") == name]
    if of("train_step") or of("train_step_alone"):
        blocks += _steps(of("train_step"), of("train_step_alone"))
    for kind, write in (("train_step_trace", _traces), ("attention", _attention)):
        if of(kind):
            blocks += write(of(kind))
    return blocks


def _rows(lines, cells):
    """What a line is of, then its cells, or the error in place of them."""
    named = lambda line: [line["model"], line["batch"], line["implementation"]]
    return [[*named(line), *([line["error"]] if "error" in line else cells(line))] for line in lines]


def _steps(lines, alone):
    """Rows of contenders that took turns; where a run was cut off, of those that had run alone before."""
    implementations = {
        (line["model"], line["batch"], name) for line in lines for name in line["implementation"].split("; ")
    }
    lines = lines + [
        line for line in alone if (line["model"], line["batch"], line["implementation"]) not in implementations
    ]

    def cells(line):
        share = lambda name: f"{line[name]:.1%}" if line.get(name) is not None else ""
        return [
            f"{line['batch'] / line['seconds']:,.0f}",
            _milliseconds(line),
            share("mfu"),
            share("executed_share"),
            _number(line.get("memory_gb")),
            _compile_time(line),
            f"{line['relative_speed']:.2f}" if "relative_speed" in line else "alone, one round",
        ]

    rows = _rows(lines, cells)
    head = [
        "model",
        "batch",
        "",
        "images/s",
        "ms a step",
        "MFU",
        "FLOPs executed",
        "GB",
        "s to compile",
        "relative speed",
    ]
    settings = dict.fromkeys(
        f"- {line['model']}, {line['implementation']}: {line['settings']}" for line in lines if "settings" in line
    )
    return ["Train step (`benchmarks/train_step.py`):", table(head, rows), "\n".join(settings)]


def _traces(lines):
    kinds = list(dict.fromkeys(kind for line in lines for kind in line.get("ms_by_class", ())))

    def cells(line):
        times = [f"{line['ms_by_class'][kind]:.2f}" if kind in line["ms_by_class"] else "" for kind in kinds]
        return [*times, f"{line['busy_ms']:.2f}", f"{line['span_ms'] - line['busy_ms']:.2f}"]

    rows = _rows(lines, cells)
    return [
        "Time of the device by class of kernel, ms a step, from a trace:",
        table(["model", "batch", "", *kinds, "busy", "idle"], rows),
    ]


def _attention(lines):
    cases = {}
    for line in lines:
        case = (line["length"], line["heads"], line["mask"], line["batch"])
        cases.setdefault(case, {})[line["kernel"]] = line
    rows = []
    for case, kernels in cases.items():
        cells = {kernel: line.get("error") or f"{1e3 * line['seconds']:.3f}" for kernel, line in kernels.items()}
        ratio = ""
        if all("seconds" in kernels.get(kernel, {}) for kernel in ("cudnn", "xla")):
            ratio = f"{kernels['xla']['seconds'] / kernels['cudnn']['seconds']:.2f}"
        rows.append([*case, cells.get("cudnn", ""), cells.get("xla", ""), ratio])
    head = ["tokens", "heads", "mask", "rows", "cuDNN, ms", "XLA, ms", "XLA / cuDNN"]
    return ["One attention layer, forward and backward (`benchmarks/attention.py`):", table(head, rows)]


def _parts(lines):
    rows = [[line["part"], line["seconds"], "done" if not line["status"] else f"status {line['status']}", line["says"]]
            for line in lines]  # fmt: skip
    return ["Parts of the run:", table(["part", "s", "", "its last line"], rows)] if rows else []


# -- plans -------------------------------------------------------------------------------------------------------------


def _compiled(plans):
    from mmjax.plan import plan_text
    from mmjax.plan.kernels import CLASSES

    versions = dict(item for plan in plans for item in plan["versions"].items())
    text = ", ".join(f"{name} {version}" for name, version in versions.items())
    first = f"`mmjax plan`, {datetime.date.today().isoformat()}, {text}; {plans[0]['chips']} x {plans[0]['device']}."
    columns = [f"{plan['config']}, {plan['batch_size']:,}" for plan in plans]
    fitting = [plan for plan in plans if "roofline" in plan]
    classes = dict.fromkeys(
        row["kind"] for plan in fitting for row in sorted(plan["kernels"], key=lambda row: -row["bytes"])
    )

    def row(name, tell):
        return [name, *(tell(plan) if "roofline" in plan else "" for plan in plans)]

    def moved(plan, kind):
        return next((plan_text.size(row["bytes"]) for row in plan["kernels"] if row["kind"] == kind), "")

    share = lambda plan, part: f"{plan[part]['mfu']:.1%}" if "mfu" in plan[part] else ""
    rows = [["", *(plan_text.setting(plan) for plan in plans)]]
    rows += [
        ["fits", *("yes" if plan["fits"] else plan_text.does_not_fit(plan).partition(": Ran out")[0] for plan in plans)]
    ]
    rows += [row(name, lambda plan, of=of: plan_text.size(of(plan))) for name, of in _SIZES.items()]
    rows += [row(f"- {CLASSES[kind]}", lambda plan, kind=kind: moved(plan, kind)) for kind in classes]
    rows += [
        row("kernels", lambda plan: f"{sum(row['kernels'] for row in plan['kernels']):,}"),
        row("FLOPs executed", lambda plan: _share(plan["flops"]["chip"] * plan["chips"], plan["flops"].get("model"))),
        row("step, predicted", lambda plan: plan_text.seconds(plan["prediction"]["step"])),
        row("MFU, predicted", lambda plan: share(plan, "prediction")),
        row("step, at least", lambda plan: plan_text.seconds(plan["roofline"]["step"])),
        row("MFU, at most", lambda plan: share(plan, "roofline")),
        row("compiled in", lambda plan: f"{plan['compile_seconds']:.0f} s"),
    ]
    return [first, table(["", *columns], rows)]


def _share(count, total):
    return f"{count / total:.1%}" if total else ""


def _milliseconds(line):
    one = f"{1e3 * line['seconds']:.1f}"
    return (
        f"{one} ({1e3 * line['seconds_min']:.1f} to {1e3 * line['seconds_max']:.1f})" if "seconds_min" in line else one
    )


def _compile_time(line):
    if "compile_seconds" not in line:
        return ""
    return "cached" if line["compile_seconds"] is None else _number(line["compile_seconds"])


def _number(value):
    return "" if value is None else f"{value:.3g}"


def table(head, rows):
    """A Markdown table; short rows are filled."""
    cell = lambda value: str(value).replace("|", "/").replace("\n", " ")
    lines = [[*row, *[""] * (len(head) - len(row))] for row in (head, ["---"] * len(head), *rows)]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
