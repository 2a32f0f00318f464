"""Where a device's time goes: the kernels of a `jax.profiler` trace, by the classes that `mmjax plan` has."""

import collections
import dataclasses
import gzip
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# What a kernel is by its name, where the program that it belongs to does not tell: the first that is found in it.
_BY_NAME = (
    ("attention", r"fmha|flash|sdpa"),
    ("collectives", r"nccl|all[-_]?reduce|all[-_]?gather|reduce[-_]?scatter|all[-_]?to[-_]?all|collective"),
    ("products", r"gemm|cublas|cutlass|nvjet|xmma|splitk|_dot|convolution|dgrad|wgrad"),
    ("scatters", r"scatter|gather|sort"),
    ("fills", r"memset|broadcast"),
    ("copies", r"memcpy|transpose|copy|slice|concatenate|bitcast"),
    ("reductions", r"reduce|softmax"),
    ("elementwise", r"fusion|wrapped|loop|convert|multiply|add|select"),
)


@dataclasses.dataclass(frozen=True)
class KernelTimes:
    """What a device did between the first and the last kernel of a trace; means over the devices, in milliseconds.

    Attributes:
      span: from the start of the first kernel to the end of the last.
      busy: while at least one kernel ran.
      by_class: sums by class, the largest first. Kernels that run at the same time count each.
      kernels: (name, class, sum, how many) of each kernel, the largest sum first.
    """

    span: float
    busy: float
    by_class: dict[str, float]
    kernels: list[tuple[str, str, float, int]]


def read(folder: Any, classes: Mapping[str, str] | None = None) -> KernelTimes | None:
    """Reads what `jax.profiler` wrote.

    Args:
      folder: that was given to `start_trace`.
      classes: class of each instruction of the traced program, by name; see `program_classes`.

    Returns:
      The times, or None where no kernel of a GPU or TPU was traced.
    """
    events = [event for path in Path(folder).rglob("*.trace.json.gz") for event in _events(path)]
    devices = _by_device(events)
    if not devices:
        return None
    span, busy = 0.0, 0.0
    sums: collections.Counter = collections.Counter()
    single: dict[tuple[str, str], list[float]] = {}
    for times in devices.values():
        span += max(event["ts"] + event["dur"] for event in times) - min(event["ts"] for event in times)
        busy += _union((event["ts"], event["ts"] + event["dur"]) for event in times)
        for event in times:
            kind = kernel_class(event["name"], str(event.get("args", {}).get("hlo_op", "")), classes or {})
            sums[kind] += event["dur"]
            single.setdefault((event["name"], kind), []).append(event["dur"])
    mean = lambda microseconds: microseconds / 1e3 / len(devices)
    kernels = [(name, kind, mean(sum(times)), len(times) // len(devices)) for (name, kind), times in single.items()]
    return KernelTimes(
        span=mean(span),
        busy=mean(busy),
        by_class={kind: mean(total) for kind, total in sums.most_common()},
        kernels=sorted(kernels, key=lambda kernel: -kernel[2]),
    )


def program_classes(text: str) -> dict[str, str]:
    """Classes of a compiled program's instructions, by name as it stands there and as kernels are called.

    Args:
      text: `compiled.as_text()`.
    """
    from mmjax.plan import hlo, kernels

    kinds = {kernel.name: kernel.kind for kernel in kernels.find(hlo.parse(text))}
    return {re.sub(r"\W", "_", name): kind for name, kind in kinds.items()} | kinds


def kernel_class(name: str, instruction: str, classes: Mapping[str, str]) -> str:
    """The class of a kernel, a name in `mmjax.plan.kernels.CLASSES`.

    Args:
      name: of the kernel.
      instruction: that it carries out; '' where the trace does not tell, as in CUDA graphs.
      classes: see `read`.
    """
    known = classes.get(instruction) or classes.get(name)
    if known:
        return known
    name_in_trace = f"{instruction} {name}"
    return next((kind for kind, pattern in _BY_NAME if re.search(pattern, name_in_trace, re.IGNORECASE)), "other")


def _events(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        return json.load(file)["traceEvents"]


def _by_device(events: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """The kernels of each device: what ran on its streams (GPU), or its line of operations (TPU)."""
    events = list(events)
    named = lambda kind: [event for event in events if event.get("name") == kind]
    devices = {e["pid"] for e in named("process_name") if e["args"]["name"].startswith("/device:")}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in named("thread_name") if e["pid"] in devices}
    by_device = {}
    for device in devices:
        named_threads = {thread: name for thread, name in threads.items() if thread[0] == device}
        lines = {thread for thread, name in named_threads.items() if name.startswith("Stream")}
        lines = lines or {thread for thread, name in named_threads.items() if name == "XLA Ops"}
        kernels = [event for event in events if event.get("ph") == "X" and (event["pid"], event["tid"]) in lines]
        if kernels:
            by_device[device] = [{"dur": 0.0, **event} for event in kernels]
    return by_device


def _union(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of what intervals cover together."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered
