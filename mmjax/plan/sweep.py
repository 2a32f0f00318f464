"""A sweep over meshes, microbatches and rematerialisation, ranked by predicted step."""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from mmjax.config.schema import RunConfig
from mmjax.errors import UserError, validate_choice
from mmjax.nn.config import LayersConfig
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


def candidates(config: RunConfig, chips: int, swept: Sequence[str]) -> Iterator[list[RunConfig]]:
    """Lists what to try, in groups of equal mesh and rematerialisation, few microbatches first.

    Within a group more microbatches are slower and smaller, so that the first that fits ends the group. Groups come
    with the least communication first: along `data` alone, then with more `fsdp`, then with `tensor`.

    Args:
      config: the run's config.
      chips: of the topology.
      swept: names in `AXES`; what is not among them stays as in the config.
    """
    heads = [part.heads for part in program.layers(config.model).values()]
    meshes = [(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)]
    if "mesh" in swept:
        powers = [2**i for i in range(chips.bit_length()) if chips % 2**i == 0]
        meshes = [
            (chips // fsdp // tensor, fsdp, tensor)
            for tensor, fsdp in itertools.product(_TENSOR, powers)
            if chips % (fsdp * tensor) == 0 and not any(count % tensor for count in heads)
        ]
    models = [_with_remat(config.model, remat) for remat in _REMAT] if "remat" in swept else [config.model]
    microbatches = _MICROBATCHES if "microbatch" in swept else (config.microbatch,)
    for (data, fsdp, tensor), model in itertools.product(meshes, models):
        mesh = dataclasses.replace(config.mesh, data=data, fsdp=fsdp, tensor=tensor)
        group = []
        for microbatch in microbatches:
            rows = chips // tensor * microbatch if data > 0 else 1
            if config.batch_size % rows == 0 or microbatch == microbatches[0]:
                group.append(dataclasses.replace(config, mesh=mesh, model=model, microbatch=microbatch))
        yield group


def _with_remat(group: Any, remat: str) -> Any:
    """A model, or a part of it, with the same rematerialisation of all layers."""
    if isinstance(group, Mapping):
        return {name: _with_remat(value, remat) for name, value in group.items()}
    if not dataclasses.is_dataclass(group) or isinstance(group, type):
        return group
    changes = {field.name: _with_remat(getattr(group, field.name), remat) for field in dataclasses.fields(group)}
    return dataclasses.replace(group, **changes | ({"remat": remat} if isinstance(group, LayersConfig) else {}))


def run(
    config: RunConfig,
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


def _describe(config: RunConfig) -> str:
    sizes = {"data": config.mesh.data, "fsdp": config.mesh.fsdp, "tensor": config.mesh.tensor}
    mesh = {axis: "rest" if size == -1 else size for axis, size in sizes.items()}
    remat = {name: part.remat for name, part in program.layers(config.model).items()}
    return plan_text.setting({"mesh": mesh, "microbatch": config.microbatch, "remat": remat})
