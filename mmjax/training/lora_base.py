"""The base of a run that trains adapters: what it freezes, stored once in `WORKDIR/base`.

Its checkpoints hold adapters and what is trained beside them, their optimizer's state, and the digest of the base. So
they are small, a run resumes bit for bit, and a workdir needs nothing else than itself.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.errors import UserError
from mmjax.io import paths
from mmjax.nn.low_rank import is_adapter
from mmjax.parallel import process_agreement
from mmjax.parallel.partition import flattened, nested
from mmjax.training import lora
from mmjax.training.checkpoint import Checkpoints, DamagedCheckpoint
from mmjax.training.config import CheckpointConfig, OptimizerConfig
from mmjax.training.state import TrainState

FOLDER = "base"
_STEP = 0


def slim(state: TrainState, settings: OptimizerConfig) -> TrainState:
    """The state as checkpoints hold it: without what adapters leave frozen."""
    if not lora.is_on(settings):
        return state
    average = None if state.ema_params is None else _part(state.ema_params, settings, frozen=False)
    return state.replace(params=_part(state.params, settings, frozen=False), ema_params=average)


def _part(params: Any, settings: OptimizerConfig, *, frozen: bool) -> Any:
    is_frozen = flattened(lora.find_frozen(params, settings))
    return nested({path: x for path, x in flattened(params).items() if is_frozen[path] == frozen})


def write(workdir: Any, state: TrainState, settings: OptimizerConfig, source: str) -> dict[str, Any] | None:
    """Stores what adapters leave frozen, in place of what an earlier start has left.

    All processes call it alike; it is on disk before the first step.

    Returns:
      `base` of the checkpoints' meta; None without adapters.
    """
    if not lora.is_on(settings):
        return None
    folder = workdir / FOLDER
    process_agreement.run_on_process_0(lambda: paths.remove_tree(folder) if folder.exists() else None)
    with contextlib.closing(Checkpoints(folder, CheckpointConfig(keep=1))) as checkpoints:
        checkpoints.save(_STEP, {"params": _part(state.params, settings, frozen=True)}, {"init_from": source})
        checkpoints.wait()
        return {"digest": process_agreement.run_on_process_0(lambda: checkpoints.read_digest(_STEP))}


def complete(
    state: TrainState, workdir: Any, meta: Mapping[str, Any], abstract: TrainState, settings: Any
) -> TrainState:
    """The whole state of a run that goes on.

    Args:
      state: as `slim` gave it.
      workdir: of the run.
      meta: of the checkpoint.
      abstract: shapes and shardings of the whole state.
      settings: `optimizer` of the run's config.

    Raises:
      UserError: the base is missing, damaged or another one's.
    """
    if not lora.is_on(settings):
        return state
    with contextlib.closing(_open(workdir, meta)) as checkpoints:
        frozen = flattened(checkpoints.restore_params(_STEP, _part(abstract.params, settings, frozen=True)))
    params = _ordered(flattened(state.params) | frozen, abstract.params)
    average = state.ema_params
    if average is not None:
        copies = {path: jax.numpy.copy(x) for path, x in frozen.items()}  # no two parameters may be one array
        average = _ordered(flattened(average) | copies, abstract.params)
    return state.replace(params=params, ema_params=average)


def _ordered(flat: Mapping[str, Any], like: Any) -> Any:
    return nested({path: flat[path] for path in flattened(like)})


def _open(workdir: Any, meta: Mapping[str, Any]) -> Checkpoints:
    """The base that a checkpoint belongs to.

    Raises:
      UserError: it is missing, or another one.
    """
    folder = paths.as_path(workdir) / FOLDER
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        if _STEP not in checkpoints.all_steps():
            raise UserError(
                f"{workdir}: its checkpoints hold adapters alone (optimizer.lora), and {folder}, what they were trained"
                " on, is not there; copy it from where the run was made"
            )
        if checkpoints.read_digest(_STEP) != meta.get("base", {}).get("digest"):
            raise DamagedCheckpoint(
                f"{folder} is not what the adapters of this checkpoint were trained on; restore it from a copy"
            )
        return checkpoints
    except BaseException:
        checkpoints.close()
        raise


def param_shapes(
    workdir: Any, checkpoints: Checkpoints, step: int, meta: Mapping[str, Any], settings: OptimizerConfig
) -> dict[str, tuple[int, ...]]:
    """Shapes of the model's parameters as a checkpoint has them, by path; those of its base with them."""
    stored = checkpoints.param_shapes(step)
    if not lora.is_on(settings):
        return stored
    with contextlib.closing(_open(workdir, meta)) as base:
        stored = base.param_shapes(_STEP) | stored
    return {path: shape for path, shape in stored.items() if not is_adapter(path)}


def read_params(
    workdir: Any,
    checkpoints: Checkpoints,
    step: int,
    meta: Mapping[str, Any],
    settings: OptimizerConfig,
    wanted: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, jax.Array]:
    """The model's parameters, adapters merged; the moving average where there is one.

    All processes call it together.

    Args:
      workdir: of the run.
      checkpoints: in it.
      step: of the checkpoint.
      meta: of the checkpoint.
      settings: `optimizer` of the run's config.
      wanted: shapes with shardings, by path.
    """
    if not lora.is_on(settings):
        return flattened(checkpoints.restore_params(step, nested(wanted)))
    stored, here = checkpoints.param_shapes(step), {}
    for path, shape in stored.items():
        kernel = wanted.get(f"{path.rpartition('/')[0]}/kernel")
        if is_adapter(path) and kernel is not None:
            sharding = kernel.sharding
            sharding = (
                NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding
            )
            here[path] = jax.ShapeDtypeStruct(shape, kernel.dtype, sharding=sharding)
        elif path in wanted:
            here[path] = wanted[path]
    frozen = {path: leaf for path, leaf in wanted.items() if path not in stored}
    arrays: dict[str, jax.Array] = {}
    if here:
        arrays |= flattened(checkpoints.restore_params(step, nested(here)))
    with contextlib.closing(_open(workdir, meta)) as base:
        if frozen:
            arrays |= flattened(base.restore_params(_STEP, nested(frozen)))
    return flattened(lora.merged(nested(arrays), settings.lora))
