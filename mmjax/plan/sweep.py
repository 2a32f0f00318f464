"""A sweep over meshes, microbatches and rematerialisation, ranked by predicted step."""

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import ml_collections

from mmjax.errors import UserError, validate_choice
from mmjax.plan import plan_text, program

AXES = ("mesh", "microbatch", "remat")
_TENSOR = (1, 2, 4, 8)
_MICROBATCHES = (1, 2, 4, 8, 16)
_REMAT = ("none", "dots", "full")


def parse(text: str) -> tuple[str, ...]:
    """Reads `--sweep=mesh,microbatch,remat`.

    Raises:
      UserError: another word, or none.
    """
    return tuple(validate_choice("--sweep", part.strip(), AXES) for part in text.split(","))


def candidates(
    config: ml_collections.ConfigDict, chips: int, swept: Sequence[str]
) -> Iterator[list[ml_collections.ConfigDict]]:
    """Lists what to try, in groups of equal mesh and rematerialisation, few microbatches first.

    Within a group more microbatches are slower and smaller, so that the first that fits ends the group. Groups come
    with the least communication first: along `data` alone, then with more `fsdp`, then with `tensor`.

    Args:
      config: the run's config.
      chips: of the topology.
      swept: names in `AXES`; what is not among them stays as in the config.
    """
    heads = program.parts_with("heads", config.model).values()
    meshes = [(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)]
    if "mesh" in swept:
        powers = [2**i for i in range(chips.bit_length()) if chips % 2**i == 0]
        meshes = [
            (chips // fsdp // tensor, fsdp, tensor)
            for tensor, fsdp in itertools.product(_TENSOR, powers)
            if chips % (fsdp * tensor) == 0 and not any(count % tensor for count in heads)
        ]
    remats = _REMAT if "remat" in swept else (None,)
    microbatches = _MICROBATCHES if "microbatch" in swept else (config.microbatch,)
    for mesh, remat in itertools.product(meshes, remats):
        group = []
        for microbatch in microbatches:
            changed = config.copy_and_resolve_references()
            changed.mesh.data, changed.mesh.fsdp, changed.mesh.tensor = mesh
            changed.microbatch = microbatch
            if remat is not None:
                parts = program.parts_with("remat", config.model)
                changed.update_from_flattened_dict({f"model.{part}.remat": remat for part in parts})
            rows = chips // mesh[2] * microbatch if mesh[0] > 0 else 1
            if config.batch_size % rows == 0 or microbatch == microbatches[0]:
                group.append(changed)
        yield group


def run(
    config: ml_collections.ConfigDict,
    topology: str,
    devices: Sequence[Any],
    swept: Sequence[str],
    *,
    max_compiles: int,
    text_length: float | None = None,
    flags: Collection[str] = (),
    log: Callable[[str], None],
    make_plan: Callable[[program.Setup, str], dict[str, Any]] = program.make_plan,
) -> list[dict[str, Any]]:
    """Compiles candidates one after the other and ranks them.

    What cannot fit is not compiled: a state larger than the memory, or a setting whose like with fewer bytes per chip
    has been refused for its state alone.

    Args:
      config: the run's config.
      topology: its name.
      devices: its devices.
      swept: what is varied.
      text_length: as `program.make_setup` has it.
      flags: as `program.make_setup` has it.
      max_compiles: after as many the rest is left out.
      log: prints a line on each candidate as it is done.
      make_plan: compiles one; replaced in tests.

    Returns:
      What fits, the shortest predicted step first, then the smallest; after it what does not, each with `reason`.
    """
    fitting, others, compiled, left = [], [], 0, 0
    for group in candidates(config, len(devices), swept):
        for candidate in group:
            try:
                setup = program.make_setup(candidate, devices, text_length, flags)
            except UserError as error:
                others.append({"setting": _describe(candidate), "fits": False, "reason": str(error)})
                log(f"  {_describe(candidate)}: {error}")
                break
            held = sum(program.state_bytes(setup).values())
            room, _ = program.capacity(setup)
            if held > room:
                reason = f"the state alone is {plan_text.size(held)} of {plan_text.size(room)}"
                others.append({"setting": _describe(candidate), "fits": False, "reason": reason})
                log(f"  {_describe(candidate)}: {reason}; not compiled")
                break  # more microbatches do not make the state smaller
            if compiled == max_compiles:
                left += 1
                continue
            compiled += 1
            log(f"[{compiled}/{max_compiles}] {_describe(candidate)}: compiling")
            try:
                plan = make_plan(setup, topology)
            except UserError as error:
                plan = {"fits": False, "reason": str(error)}
            summary = plan.get("reason") or plan_text.line(plan)
            log(f"    {summary}")
            if plan["fits"]:
                fitting.append(plan | {"setting": plan_text.setting(plan)})
                break
            others.append(plan | {"setting": _describe(candidate), "reason": summary})
    if left:
        log(f"  {left} more not tried; --max-compiles={max_compiles + left} would try them all")
    fitting.sort(key=lambda plan: (plan["prediction"]["step"], plan["memory"]["total"]))
    return fitting + others


def render(ranked: Sequence[dict[str, Any]]) -> str:
    """The ranking in words."""
    fitting = [plan for plan in ranked if plan["fits"]]
    lines = ["", "What fits, the fastest by prediction first" if fitting else "Nothing that was tried fits."]
    for rank, plan in enumerate(fitting, 1):
        lines.append(f"{rank:3}. {plan['setting']}: {plan_text.line(plan)}")
    others = [plan for plan in ranked if not plan["fits"]]
    if others:
        lines += ["", "What does not"]
        lines += [f"  -  {plan['setting']}: {plan['reason']}" for plan in others]
    return "\n".join(lines)


def _describe(config: ml_collections.ConfigDict) -> str:
    mesh = {axis: "rest" if config.mesh[axis] == -1 else config.mesh[axis] for axis in ("data", "fsdp", "tensor")}
    remat = {tower: config.model[tower].remat for tower in ("image", "text")}
    return plan_text.setting({"mesh": mesh, "microbatch": config.microbatch, "remat": remat})
