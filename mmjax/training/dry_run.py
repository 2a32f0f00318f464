"""What a run would be: its data, examples and epochs, parameters, and a device's memory; nothing of it is made."""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from mmjax.config.schema import ConfigDict
from mmjax.io import paths
from mmjax.parallel import partition, process_agreement
from mmjax.training import checkpoint, data_summary, init_from, train

_GB = 1e9


def describe(recipe: ConfigDict, workdir: Any = None, flags: Collection[str] = ()) -> list[str]:
    """Lines on a run that would begin, or go on, with a config. All processes call it alike.

    Everything is checked as training checks it. No workdir is made, nothing is compiled, and nothing is on the devices;
    tars without an index have it written, beside them or to `data.cache`, as in training.

    Args:
      recipe: its config, with what the command line gives.
      workdir: of the run, which may hold one; None for a new one.
      flags: fields that the command line gives, by path.

    Raises:
      UserError: a mistake in config, data or workdir.
    """
    path = None if workdir is None else paths.as_path(workdir)
    opened = train.open_run(recipe, path, flags)
    config = opened.config
    taken = init_from.Taken()
    with process_agreement.raise_on_all():
        begins = path is None or checkpoint.Checkpoints(path / "checkpoints", read_only=True).latest() is None
        if config.init_from and begins:
            taken = init_from.check(opened.setup.state.params, config)
    lines = [f"{config.name}: {config.variant}"]
    lines += taken.lines("takes") if taken.source else []
    components = opened.examples.describe()
    lines += data_summary.describe_data(components, config.steps, config.batch_size)
    lines += data_summary.note_large_batch(components, config.batch_size)
    lines.append(data_summary.describe_host_memory(opened.host_bytes(), config.data.prefetch))
    lines += _describe_evaluation(opened.evaluator.sources)
    lines += _describe_parameters(opened.setup, bool(config.optimizer.freeze) or config.optimizer.lora.rank > 0)
    lines += _describe_memory(opened)
    return lines


def _describe_evaluation(sources: Sequence[Any]) -> Iterator[str]:
    yield "evaluation:" + ("" if sources else " none, as data.eval is empty")
    for source in sources:
        yield f"  {source.name}: {len(source):,} examples"


def _describe_parameters(setup: Any, frozen: bool) -> Iterator[str]:
    count = partition.count_parameters
    trained = f", {count(setup.trainable):,} of them trained" if frozen else ""
    yield f"parameters: {count(setup.state.params):,}{trained}"
    for name, part in sorted(setup.state.params.items()):
        yield f"  {name}: {count(part):,}"


def _describe_memory(opened: train.OpenedRun) -> Iterator[str]:
    setup, mesh = opened.setup, opened.mesh
    state = setup.state
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    yield f"memory of a device ({mesh.size} x {mesh.devices.flat[0].device_kind}; mesh {axes}):"
    size = lambda tree: f"{partition.device_bytes(tree) / _GB:,.3f} GB"
    yield f"  parameters: {size(state.params)}"
    yield f"  optimizer: {size(state.opt_state)}"
    if state.ema_params is not None:
        yield f"  moving average: {size(state.ema_params)}"
    planner = setup.planner
    if planner is not None:
        room = f" of {planner.available / _GB:,.1f} GB" if math.isfinite(planner.available) else ""
        yield f"  a step, by estimate: {planner.bytes(setup.remat) / _GB:,.3f} GB{room}"
    else:
        yield "  gradients and activations are not counted; `mmjax plan` compiles the step for a device and counts them"
