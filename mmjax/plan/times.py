"""Time of a step: the shortest, at the data sheet's rates, and a prediction at rates that are reached."""

import collections as collections_lib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.plan import collectives, costs, hlo, kernels, schedule
from mmjax.training import device_specs


def roofline(
    counted: costs.Costs,
    listed: Sequence[collectives.Collective],
    device: device_specs.Device,
    model_flops: float | None,
) -> dict[str, Any]:
    """The shortest time a step can take: each of three resources at its data sheet's rate.

    Args:
      counted: costs of a step on one chip.
      listed: its collectives.
      device: the data sheet.
      model_flops: of the model's three passes, per chip; what MFU counts. None where nobody has counted them.

    Returns:
      Seconds of `compute`, `memory` and `links`; `step` is the largest of them (all overlap), `bound` its name,
      `serial` the sum (nothing overlaps), `mfu` the MFU at `step`, where `model_flops` are known.
    """
    seconds = {
        "compute": counted.matrix_flops / device.flops,
        "memory": counted.hbm_bytes / device.memory_bandwidth,
        "links": sum(link_seconds(one, device) for one in listed),
    }
    bound = max(seconds, key=lambda part: seconds[part])
    step = seconds[bound]
    times = seconds | {"step": step, "bound": bound, "serial": sum(seconds.values())}
    if model_flops is None:
        return times
    return times | {"mfu": model_flops / device.flops / step if step else 0.0}


def link_seconds(one: collectives.Collective, device: device_specs.Device) -> float:
    """Seconds of all executions of a collective: at the links of the chips, or the network where that is slower."""
    network = one.network_bytes / device.network_bandwidth if device.network_bandwidth else 0.0
    return max(one.sent_bytes / device.link_bandwidth, network)


def predict(
    module: hlo.Module,
    counted: costs.Costs,
    started: Mapping[tuple[str, str], Sequence[collectives.Collective]],
    device: device_specs.Device,
    model_flops: float | None,
) -> dict[str, Any]:
    """A step's time if kernels run one after the other in the compiled order, collectives beside them.

    A kernel takes the longer of its products and its bytes, each at what such kernels reach of the data sheet's rate
    (`device_specs.Sustained`). Collectives run one after the other, from where they start; the step waits where the
    schedule needs their result. Copies between memories fill the time in which products leave main memory idle. The
    host, the launching of kernels and what matrix shapes cost that fit badly are left out.

    Args:
      module: the program.
      counted: its costs.
      started: what each instruction, as (computation, name), starts, where it starts any.
      device: the data sheet.
      model_flops: as in `roofline`.

    Returns:
      Seconds of `products`, `attention`, `other` kernels and `waiting` for collectives, their sum `step`, `mfu`, and
      `measured`: whether the rates were measured on this device, rather than assumed from another.
    """
    rates = device.sustained
    known = {(kernel.computation, kernel.name): kernel for kernel in counted.kernels}
    seconds = {key: _kernel_seconds(kernel, device) for key, kernel in known.items()}
    parts: dict[str, float] = collections_lib.defaultdict(float)
    idle = prefetching = 0.0  # of main memory beside products, and of copies that may fill it
    now = free = 0.0  # of the kernels, and when the links are next idle
    ends: dict[tuple[str, str], float] = {}
    for name, instruction in schedule.walk(module):
        key = (name, instruction.name)
        if instruction.opcode.endswith("-done") and instruction.operands:
            end = ends.pop((name, instruction.operands[0][0]), now)
            parts["waiting"] += max(0.0, end - now)
            now = max(now, end)
        kernel = known.get(key)
        if kernel is not None and kernel.kind == "prefetches":
            prefetching += seconds[key]
        elif kernel is not None and kernel.kind != "collectives":
            parts[_PARTS.get(kernel.kind, "other")] += seconds[key]
            now += seconds[key]
            idle += seconds[key] - kernel.bytes / device.memory_bandwidth / rates.memory
        for one in started.get(key, ()):
            free = max(now, free) + link_seconds(one, device) / rates.links
            if _asynchronous(module, instruction):
                ends[key] = free
            else:
                parts["waiting"] += free - now
                now = free
    parts["waiting"] += max(0.0, free - now)
    parts["other"] += max(0.0, prefetching - idle)
    result = {part: parts[part] for part in ("products", "attention", "other", "waiting")}
    step = sum(result.values())
    result |= {"step": step, "measured": rates.measured, "sustained": dataclasses.asdict(rates)}
    return result if model_flops is None else result | {"mfu": model_flops / device.flops / step if step else 0.0}


_PARTS = {"products": "products", "attention": "attention"}


def _kernel_seconds(kernel: kernels.Kernel, device: device_specs.Device) -> float:
    rates = device.sustained
    reached = rates.attention if kernel.kind == "attention" else rates.matrix
    computing = kernel.matrix_flops / device.flops / reached
    return max(computing, kernel.bytes / device.memory_bandwidth / rates.memory)


def _asynchronous(module: hlo.Module, instruction: hlo.Instruction) -> bool:
    """Whether a collective that starts here runs beside the kernels after it."""
    if instruction.opcode in ("fusion", "fusion-start"):  # how TPUs write it
        inside = module.computations[instruction.called()["calls"][0]].instructions.values()
        return any(one.attribute("custom_call_target") == "AsyncCollectiveStart" for one in inside)
    return instruction.opcode.endswith("-start") and '"is_sync":true' not in instruction.attributes


def budget(plan: Mapping[str, Any], examples: float) -> dict[str, float]:
    """Steps, hours and chip-hours that a number of examples takes at least, and hours as predicted."""
    steps = math.ceil(examples / plan["batch_size"])
    hours, predicted = (steps * plan[part]["step"] / 3600 for part in ("roofline", "prediction"))
    return {
        "examples": examples,
        "steps": steps,
        "hours": hours,
        "chip_hours": hours * plan["chips"],
        "predicted_hours": predicted,
        "predicted_chip_hours": predicted * plan["chips"],
    }
