"""Planning of a recipe, as `mmjax plan` does it once its flags are read."""

import json
import math
from collections.abc import Collection
from typing import Any

from mmjax import tasks
from mmjax.config.field_origins import FieldOrigins
from mmjax.config.schema import RunConfig
from mmjax.errors import UserError
from mmjax.io import paths
from mmjax.plan import plan_text, program, sweep, times, topology
from mmjax.training import validate_run
from mmjax.utils import terminal

# Exit status of a plan by which nothing fits.
EXIT_DOES_NOT_FIT = 1


def run(
    config: RunConfig,
    name: str,
    *,
    budget: str | None = None,
    swept: str | None = None,
    max_compiles: int = 12,
    text_length: str | None = None,
    output: str | None = None,
    flags: Collection[str] = (),
) -> int:
    """Makes a plan, or a sweep of plans, and prints it.

    Args:
      config: the run's config.
      name: of the topology.
      budget: number of examples to train on, as text such as `12.8e9`.
      swept: what `--sweep` varies, comma-separated; None for a single plan.
      max_compiles: of a sweep.
      text_length: tokens of a caption on average, as text, for packed or grouped texts; None for padded.
      output: JSON file for the same numbers.
      flags: fields that the command line gives, where they are not the recipe's.

    Returns:
      The exit status: 0, or 1 when it does not fit.

    Raises:
      UserError: a mistake in config or flags, or no compiler.
    """
    examples = _positive("--budget", budget, "number of examples, such as 12.8e9")
    tokens = _positive("--text-length", text_length, "number of tokens, such as 18")
    axes = None if swept is None else sweep.parse(swept)
    if max_compiles < 1:
        raise UserError(f"--max-compiles={max_compiles} must be at least 1")
    path = None if output is None else paths.as_path(output)
    if path is not None and not path.parent.exists():
        raise UserError(f"--output={output}: its folder does not exist; make it first")
    devices = topology.devices(name)
    origins = FieldOrigins(tuple(flags))
    for note in (validate_run.note_unread(config, origins), tasks.note_on_crop(config, origins)):
        if note:
            _print(note)

    if axes is None:
        setup = program.make_setup(config, devices, tokens, flags)
        _print(f"compiling the train step for {name}; this takes from seconds to minutes ...")
        plan = _with_budget(program.make_plan(setup, name), examples)
        _print("\n" + plan_text.render(plan))
        written, fits = plan, plan["fits"]
    else:
        ranked = sweep.run(
            config, name, devices, axes, max_compiles=max_compiles, text_length=tokens, flags=flags, log=_print
        )
        ranked = [_with_budget(plan, examples) for plan in ranked]
        _print(sweep.render(ranked))
        fits = any(plan["fits"] for plan in ranked)
        if fits:
            _print("\nThe first of them:\n\n" + plan_text.render(ranked[0]))
        written = ranked
    if path is not None:
        paths.write_atomically(path, json.dumps(written, indent=2) + "\n")
    return 0 if fits else EXIT_DOES_NOT_FIT


def _positive(flag: str, text: str | None, wanted: str) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise UserError(f"{flag}={text}: give a positive {wanted}")
    return value


def _with_budget(plan: dict[str, Any], examples: float | None) -> dict[str, Any]:
    if examples is None or "roofline" not in plan:
        return plan
    return plan | {"budget": times.budget(plan, examples)}


def _print(text: str) -> None:
    terminal.show(text)
