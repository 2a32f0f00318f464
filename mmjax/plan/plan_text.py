"""The text of a plan: tables of aligned columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.plan.kernels import CLASSES
from mmjax.utils.terminal import size

_KINDS = {
    "parameters": "parameters",
    "optimizer": "optimizer state",
    "moving_average": "moving average",
    "inputs": "batch and padding",
    "activations": "activations",
    "temporaries": "gradients, temporaries",
    "program": "program",
}
_BOUNDS = {"compute": "matrix units", "memory": "HBM bandwidth", "links": "chip-to-chip links"}


_PARTS = {
    "products": "matrix products",
    "attention": "fused attention",
    "other": "other kernels",
    "waiting": "waiting for collectives",
}
_RECOMPUTED = {
    "policy": "  of them again, by remat",
    "compiler": "  of them again, by the compiler for lack of memory",
}

# Single collectives printed below the totals; the JSON has all.
_LARGEST = 8


def seconds(time: float) -> str:
    """Seconds or milliseconds."""
    return f"{time:.3g} s" if time >= 1 else f"{time * 1e3:.3g} ms"


def setting(plan: Mapping[str, Any]) -> str:
    """Mesh, microbatches and rematerialisation in a few words."""
    mesh = " x ".join(f"{axis} {count}" for axis, count in plan["mesh"].items())
    remat = list(plan["remat"].values())
    remats = "/".join(remat if len(set(remat)) > 1 else remat[:1]) or "none"
    return f"{mesh}, microbatch {plan['microbatch']}, remat {remats}"


def render(plan: Mapping[str, Any]) -> str:
    """All of a plan."""
    lines = [
        f"{plan['config']}: {plan['parameter_count']:,} parameters, batch {plan['batch_size']:,}",
        f"{plan['topology']}: {plan['chips']} x {plan['device']}; {setting(plan)}, loss {plan['loss']}",
        "",
    ]
    lines += [*_memory(plan), *host_table(plan["host"])]
    if "roofline" not in plan:
        return "\n".join(lines)
    lines += ["", "FLOPs per step", *_flops(plan)]
    lines += ["", "Kernels and the bytes they move, per step and chip", *kernel_table(plan["kernels"])]
    lines += ["", "Collectives per step and chip", *_collectives(plan)]
    lines += ["", "Time of a step, at least", *_roofline(plan["roofline"])]
    lines += ["", "Time of a step, predicted", *_prediction(plan["prediction"])]
    if plan["unknown_loops"]:
        lines.append(f"  loops of unknown length, counted once: {', '.join(plan['unknown_loops'])}")
    lines += ["", f"compiled in {plan['compile_seconds']:.0f} s"]
    if "budget" in plan:
        cost = plan["budget"]
        lines += [
            "",
            f"{cost['examples']:.4g} examples: {cost['steps']:,} steps, at least {cost['hours']:.4g} h,"
            f" {cost['chip_hours']:,.0f} chip-hours (every rate is the data sheet's)",
            f"  predicted: {cost['predicted_hours']:.4g} h, {cost['predicted_chip_hours']:,.0f} chip-hours",
        ]
    return "\n".join(lines)


def _flops(plan: Mapping[str, Any]) -> list[str]:
    flops = plan["flops"]
    executed, model = flops["chip"] * plan["chips"], flops.get("model")
    return _table(
        [
            *([("model, 3 x forward, all chips", f"{model:.4g}")] if model else []),
            ("executed, all chips", f"{executed:.4g}", *([f"{executed / model:.2f} x"] if model else [])),
            ("executed, one chip", f"{flops['chip']:.4g}"),
            *[
                (_RECOMPUTED[by], f"{count:.4g}", f"{count / flops['chip']:.1%}")
                for by, count in plan["recomputed_flops"].items()
                if count
            ],
            *([("compiler's count, loops once", f"{flops['compiler_once']:.4g}")] if flops["compiler_once"] else []),
        ]
    )


def _collectives(plan: Mapping[str, Any]) -> list[str]:
    if not plan["collectives"]:
        return ["  none"]
    network = any(row["network_bytes"] for row in plan["collectives"])
    rows = [("kind", "mesh axes", "type", "times", "bytes", "sent", *(["to other hosts"] if network else []))]
    for row in plan["collectives"]:
        cells = (row["kind"], row["axes"], row["dtype"], f"{row['executions']}", size(row["bytes"]))
        rows.append((*cells, size(row["sent_bytes"]), *([size(row["network_bytes"])] if network else [])))
    lines = _table(rows)
    lines += ["", f"The largest of the {len(plan['each_collective'])} that differ"]
    lines += _table(
        [("kind", "mesh axes", "type", "times", "bytes each")]
        + [
            (c["kind"], c["axes"], c["dtype"], f"{c['executions']}", size(c["bytes"]))
            for c in plan["each_collective"][:_LARGEST]
        ]
    )
    reduced = plan["gradient_reductions"]
    if reduced is not None:
        types = ", ".join(f"{size(count)} in {dtype}" for dtype, count in sorted(reduced["by_dtype"].items()))
        lines += [
            "",
            f"Gradients reduced: {types}",
            f"  after the last product of the backward pass: {reduced['after_last_product']:.1%}"
            f" (the first starts at {reduced['first']:.0%} of the schedule)",
        ]
    return lines


def _roofline(roof: Mapping[str, Any]) -> list[str]:
    if not roof["step"]:
        return []
    mfu = lambda share: f"{roof['mfu'] * share:.1%}"
    return _table(
        [(_BOUNDS[name], seconds(roof[name]), "<- bounds" if name == roof["bound"] else "") for name in _BOUNDS]
        + [("all overlapping", seconds(roof["step"]), *(["MFU at most " + mfu(1)] if "mfu" in roof else []))]
        + [
            (
                "one after the other",
                seconds(roof["serial"]),
                *(["MFU " + mfu(roof["step"] / roof["serial"])] if "mfu" in roof else []),
            )
        ]
    )


def _prediction(predicted: Mapping[str, Any]) -> list[str]:
    rates = predicted["sustained"]
    reached = (
        f"products reach {rates['matrix']:.0%} of the data sheet's rate, attention {rates['attention']:.0%}, memory"
        f" {rates['memory']:.0%}, links {rates['links']:.0%}"
    )
    source = "products and memory as measured on one" if predicted["measured"] else "assumed to be those of an H100"
    rows: list[tuple[str, ...]] = [
        (label, seconds(predicted[part])) for part, label in _PARTS.items() if predicted[part]
    ]
    rows.append(("step", seconds(predicted["step"]), *([f"MFU {predicted['mfu']:.1%}"] if "mfu" in predicted else [])))
    return [*_table(rows), f"  {reached};", f"  {source}"]


def kernel_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sums by class of kernel, most bytes first, and their total."""
    total = sum(row["bytes"] for row in rows)
    cells = [("class", "kernels", "bytes", "", "FLOPs")]
    for row in rows:
        share = f"{row['bytes'] / total:.1%}" if total else ""
        flops = f"{row['flops']:.4g}" if row["flops"] else ""
        cells.append((CLASSES[row["kind"]], f"{row['kernels']:,}", size(row["bytes"]), share, flops))
    return _table([*cells, ("total", f"{sum(row['kernels'] for row in rows):,}", size(total))])


def _memory(plan: Mapping[str, Any]) -> list[str]:
    memory = plan["memory"]
    capacity = memory["capacity"]
    lines = ["Bytes per chip"]
    rows: list[tuple[str, ...]] = [(label, size(memory[kind])) for kind, label in _KINDS.items() if memory.get(kind)]
    if "total" in memory:
        rows.append(
            ("total", size(memory["total"]), f"{memory['total'] / capacity:.1%} of {size(capacity)}{_part(plan)}")
        )
    lines += _table(rows)
    return lines if plan["fits"] else [*lines, does_not_fit(plan), f"  try: {'; '.join(plan['advice'])}"]


def host_table(host: Mapping[str, Any]) -> list[str]:
    """The memory of batches on a host; nothing of a batch without arrays."""
    if not host["batch"]:
        return []
    large = {name: count for name, count in host["arrays"].items() if count >= 0.01 * host["batch"]}
    rows = [(f"a batch: {name}", size(count)) for name, count in large.items()]
    rows += [("all of it", size(host["batch"])), (f"ready by data.prefetch={host['prefetch']}", size(host["ready"]))]
    return ["", f"Bytes on the host of each of {host['processes']} processes", *_table(rows)]


def _part(plan: Mapping[str, Any]) -> str:
    """Which share of the device's memory that is, where jax does not take all of it."""
    if plan["memory_fraction"] == 1:
        return ""
    share, total = f"{plan['memory_fraction']:g}", size(plan["device_memory"])
    return f" ({share} of {total}: XLA_CLIENT_MEM_FRACTION)"


def does_not_fit(plan: Mapping[str, Any]) -> str:
    """One line on what is missing."""
    refusal = plan.get("refusal")
    if refusal is None:
        memory = plan["memory"]
        return f"does not fit: {size(memory['total'])} of {size(memory['capacity'])}"
    if "needs" in refusal:
        over = refusal["needs"] / refusal["has"]
        return (
            f"does not fit: the compiler needs {size(refusal['needs'])} of {size(refusal['has'])} ({over:.2f} x): "
            + refusal["says"]
        )
    return f"does not fit: {refusal['says']}"


def line(plan: Mapping[str, Any]) -> str:
    """A plan of a sweep in one line."""
    if not plan["fits"]:
        return does_not_fit(plan).partition(": Ran out")[0]
    roof, memory, predicted = plan["roofline"], plan["memory"], plan["prediction"]
    mfu = f", MFU {predicted['mfu']:.1%}" if "mfu" in predicted else ""
    return (
        f"{size(memory['total'])} ({memory['total'] / memory['capacity']:.0%}), step about"
        f" {seconds(predicted['step'])}{mfu}, at least {seconds(roof['step'])} ({_BOUNDS[roof['bound']]})"
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns, the first to the left, numbers to the right."""
    width = max((len(row) for row in rows), default=0)
    rows = [[*row, *[""] * (width - len(row))] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(width)]
    left = [column == 0 or not any(row[column][:1].isdigit() for row in rows) for column in range(width)]
    # Remarks after a number stand to the left as well.
    left = [flag or (column > 1 and any("%" in row[column] or "x" in row[column] for row in rows))
            for column, flag in enumerate(left)]  # fmt: skip
    return [
        ("  " + "  ".join(
            cell.ljust(widths[i]) if left[i] else cell.rjust(widths[i]) for i, cell in enumerate(row))).rstrip()
        for row in rows
    ]  # fmt: skip
