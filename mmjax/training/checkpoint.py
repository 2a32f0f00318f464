"""Checkpoints: state, position and everything needed to evaluate, in one step folder.

Orbax writes asynchronously and renames a finished folder into place, so a kill at any moment leaves the last complete
checkpoint. Where tensorstore cannot write (fsspec file systems such as memory://) a checkpoint is staged on the local
disk, copied, and counts once its marker file has been written.
"""

import base64
import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from mmjax import plugin_imports
from mmjax.config.schema import RunConfig
from mmjax.config.typed_groups import to_dict
from mmjax.errors import UserError, did_you_mean
from mmjax.io import paths
from mmjax.parallel import log, partition, process_agreement
from mmjax.training import digests, kept_checkpoints, orbax_errors, sealed_meta
from mmjax.training.config import CheckpointConfig
from mmjax.utils.version import VERSION

_DEFAULTS = CheckpointConfig()
_COMPLETE = "COMPLETE"  # our marker of a whole copy
_COMMITTED = "commit_success.txt"  # Orbax's, on object stores, where a folder cannot be renamed


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read, or that holds other bits than were saved."""


class Checkpoints:
    """The checkpoints of a workdir.

    Args:
      folder: where they lie (created when saving).
      settings: which of them are kept; `best_metric` is a name among the metrics given to `save`.
      read_only: nothing is created, cleaned up or removed, and there is no `save` or `restore`.
    """

    def __init__(self, folder: Any, settings: CheckpointConfig = _DEFAULTS, *, read_only: bool = False):
        kept_checkpoints.check_settings(settings)
        self.folder = paths.as_path(folder)
        check_folder(self.folder)
        orbax_errors.silence_others()
        self._best_metric = settings.best_metric
        self._staging, self._local = None, self.folder
        if not paths.is_direct(self.folder):
            self._staging = tempfile.TemporaryDirectory(prefix="mmjax-checkpoints-")
            self._local = epath.Path(self._staging.name)
        self._fetched = set()
        self._manager = None if read_only else self._make_manager(settings.keep, settings.keep_best)

    @property
    def _writer(self) -> ocp.CheckpointManager:
        if self._manager is None:
            raise ValueError(f"{self.folder}: the checkpoints were opened read_only")
        return self._manager

    def _make_manager(self, keep: int, keep_best: int) -> ocp.CheckpointManager:
        if self._staging is not None:
            if jax.process_count() > 1:
                raise UserError(f"--workdir={self.folder.parent}: several processes need a shared disk or gs://")
            # What is kept follows from the steps and metrics there are, those of an earlier process included.
            for step in self.all_steps():
                paths.copy_tree(self.folder / str(step), self._local / str(step), leave_out=("state",))
        if keep_best and jax.process_index() == 0:
            self._drop_damaged_metrics()
        process_agreement.broadcast_from_0(None)  # the others wait
        policies = [checkpoint_managers.LatestN(keep), kept_checkpoints.Best(self._best_metric, keep_best)]
        return ocp.CheckpointManager(
            self._local,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                # Without a function for the best, Orbax would not write the metrics.
                best_fn=(lambda metrics: metrics.get(self._best_metric, 0.0)) if keep_best else None,
                enable_async_checkpointing=self._staging is None,
                create=True,
                cleanup_tmp_directories=True,
            ),
            item_names=("state", "meta"),
        )

    def _drop_damaged_metrics(self) -> None:
        for step in self.all_steps():
            try:
                expected = self._read_sealed(step).get("metrics")
            except DamagedCheckpoint:  # restoring it, if it comes to that, says so
                expected = None
            if kept_checkpoints.drop_damaged_metrics(self._local / str(step), expected):
                log.info(f"warning: the metrics of checkpoint {step} are damaged: it is no candidate for the best")

    def all_steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        if not self.folder.exists():
            return []
        marker = _COMPLETE if self._staging is not None else _COMMITTED if paths.scheme(self.folder) else ""
        # On a local disk a folder has its final name once it is complete.
        return sorted(
            int(path.name)
            for path in self.folder.iterdir()
            if path.name.isdigit() and ((path / marker).exists() if marker else path.is_dir())
        )

    def latest(self) -> int | None:
        """The last complete step, or None."""
        return max(self.all_steps(), default=None)

    def save(self, step: int, state: Any, meta: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> None:
        """Starts saving; returns as soon as the state may be changed."""
        if self._best_metric and metrics and self._best_metric not in metrics:
            raise UserError(
                f"checkpoint.best_metric={self._best_metric!r} is not among the evaluation's"
                f"{did_you_mean(self._best_metric, metrics)}: {', '.join(sorted(metrics))}"
            )
        state_digests = digests.Digests(state)  # computed while Orbax writes
        sealed = lambda: digests.seal({**meta, "metrics": dict(metrics or {})}, state_digests.wait())
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=sealed_meta.SealedMeta(sealed))
        self._writer.save(step, args=args, metrics=dict(metrics or {}))
        if self._staging is not None:
            self._publish(step)

    def _publish(self, step: int) -> None:
        """Copies a staged step out, then removes what the manager no longer keeps and what a kill left half copied."""
        target = self.folder / str(step)
        if target.exists():
            paths.remove_tree(target)
        paths.copy_tree(self._local / str(step), target)
        (target / _COMPLETE).write_text("")
        self._fetched.add(step)
        kept = {str(step) for step in self._writer.all_steps()}
        for path in list(self.folder.iterdir()):
            if path.name.isdigit() and path.name not in kept:
                if (path / _COMPLETE).exists():
                    (path / _COMPLETE).unlink()  # first: half a folder must not look whole
                paths.remove_tree(path)

    def _state(self, step: int) -> epath.Path:
        """The folder of a step's arrays, on a file system that tensorstore reads."""
        if self._staging is not None and step not in self._fetched:
            paths.copy_tree(self.folder / str(step), self._local / str(step))
            self._fetched.add(step)
        return self._local / str(step) / "state"

    def read_meta(self, step: int) -> dict[str, Any]:
        """Reads what was saved beside the state. Starts no device, since it decides how they are set up.

        Raises:
          DamagedCheckpoint: the file is missing or damaged.
        """
        return digests.unsealed(self._read_sealed(step))[0]

    def read_digest(self, step: int) -> str:
        """One digest of all arrays of a step, as they were saved; errors as of `read_meta`."""
        return digests.of_all(digests.unsealed(self._read_sealed(step))[1])

    def _read_sealed(self, step: int) -> dict[str, Any]:
        try:
            meta = json.loads((self.folder / str(step) / "meta" / sealed_meta.FILE).read_text())
            if not isinstance(meta, dict):
                raise ValueError("it is no JSON object")
            if not digests.is_whole(meta):
                raise ValueError("it is not what was saved: its digest is another")
            return meta
        except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError) as error:
            raise self._damaged(step, f"meta/metadata cannot be read ({_one_line(error)})") from error

    def _damaged(self, step: int, reason: str) -> DamagedCheckpoint:
        return DamagedCheckpoint(
            f"{self.folder / str(step)} is no whole checkpoint: {reason}; move it away to use another"
        )

    def latest_meta(self) -> tuple[int, dict[str, Any]] | None:
        """The latest step whose `meta` can be read, and that; None without a checkpoint.

        Raises:
          DamagedCheckpoint: none can be read.
        """
        damaged = None
        for step in reversed(self.all_steps()):
            try:
                return step, self.read_meta(step)
            except DamagedCheckpoint as error:
                damaged = damaged or error
        if damaged is not None:
            raise damaged
        return None

    def set_aside(self, step: int) -> Any:
        """Renames a damaged checkpoint, so that it is none; returns its new path. Every process calls it."""
        damaged = self.folder / f"{step}.damaged"
        if jax.process_index() == 0:
            if damaged.exists():
                paths.remove_tree(damaged)
            if paths.scheme(self.folder):  # a store cannot rename a folder
                paths.copy_tree(self.folder / str(step), damaged)
                paths.remove_tree(self.folder / str(step))
            else:
                (self.folder / str(step)).rename(damaged)
            if self._staging is not None:
                paths.remove_tree(self._local / str(step))
        process_agreement.broadcast_from_0(step)  # the others wait
        self._writer.reload()
        return damaged

    def restore(self, step: int, abstract: Any) -> Any:
        """Reads a state straight to the shardings of `abstract` (a tree of `jax.ShapeDtypeStruct`).

        All processes call it together.

        Raises:
          DamagedCheckpoint: it cannot be read, or is not what was saved; in all of them.
        """

        def read(folder):
            handler = ocp.StandardCheckpointHandler()
            try:
                return handler.restore(folder, args=ocp.args.StandardRestore(abstract))
            finally:
                handler.close()

        return self._restore(step, read)

    def _restore(self, step: int, read: Callable[[epath.Path], Any]) -> Any:
        """What `read` makes of the folder of a step's arrays, compared to their digests."""
        state, expected, damage, error = None, {}, None, None
        try:
            _, expected = digests.unsealed(self._read_sealed(step))
            state = read(self._state(step))
        except Exception as caught:
            # One process may meet what the others do not: Orbax's own way would leave them waiting.
            damage = str(caught) if isinstance(caught, DamagedCheckpoint) else _damage(caught)
            error = None if damage else caught
            if damage and not isinstance(caught, DamagedCheckpoint):
                damage = str(self._damaged(step, f"its arrays cannot be read ({damage})"))
        process_agreement.raise_error_on_all(error)
        damage = next(filter(None, process_agreement.all_gather_objects(damage)), None)
        if damage:
            raise DamagedCheckpoint(damage)
        if not expected:
            log.info(f"note: checkpoint {step} has no digests, as older code saved it: what is read is not compared")
        elif changed := digests.changed(state, expected):
            names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
            raise self._damaged(step, f"{names}: not the numbers that were saved, by their digests")
        return state

    def param_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the stored parameters by path, without reading them."""
        return self.shapes(step, "params")

    def shapes(self, step: int, part: str) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays of a part of a stored state by path, without reading them.

        Raises:
          DamagedCheckpoint: they cannot be read.
        """
        handler = ocp.PyTreeCheckpointHandler()
        try:
            leaves = jax.tree_util.tree_leaves_with_path(handler.metadata(self._state(step)).tree[part])
            return {partition.path_name(path): tuple(leaf.shape) for path, leaf in leaves}
        except Exception as error:
            if damage := _damage(error):
                raise self._damaged(step, f"its arrays cannot be read ({damage})") from error
            raise
        finally:
            handler.close()

    def restore_params(self, step: int, abstract_params: Any, *, prefer_average: bool = True) -> Any:
        """Reads the parameters alone (the moving average where there is one), without the optimizer's state.

        All processes call it together. Errors as of `restore`.
        """

        def read(folder):
            handler = ocp.PyTreeCheckpointHandler()
            try:
                has_average = handler.metadata(folder).tree.get("ema_params") is not None
                target = {"ema_params" if prefer_average and has_average else "params": abstract_params}
                restore_args = ocp.checkpoint_utils.construct_restore_args(target)
                args = ocp.args.PyTreeRestore(item=target, restore_args=restore_args, partial_restore=True)
                return handler.restore(folder, args=args)
            finally:
                handler.close()

        (params,) = self._restore(step, read).values()
        return params

    def wait(self) -> None:
        """Blocks until what was started is on disk; a failed save raises here."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and releases the manager's threads."""
        if self._manager is not None:
            self._manager.close()
        if self._staging is not None:
            self._staging.cleanup()


def _one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200]


def _damage(error: Exception) -> str | None:
    """What a fault of reading says, where it is the checkpoint's; None for one of the machine or its storage."""
    if isinstance(error, MemoryError | jax.errors.JaxRuntimeError):
        return None
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError | NotADirectoryError):
        return None
    if any(name in str(error) for name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED")):
        return None
    return f"{type(error).__name__}: {_one_line(error)}"


def check_folder(folder: Any) -> None:
    """Checks that checkpoints can lie there.

    Raises:
      UserError: it is a file, or its name is not UTF-8, which Orbax writes to alone.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{folder}: its name is not UTF-8; give another workdir") from error
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and checkpoints lie in a folder; move it or give another workdir")


def make_meta(config: RunConfig, position: int, image_spec: Any, tokenizer: Any, **more: Any) -> dict[str, Any]:
    """The metadata of a checkpoint: config, preprocessing, tokenizer (with its model file), versions and plugins.

    Args:
      config: the run's config.
      position: training examples consumed.
      image_spec: how images are prepared, a dataclass; None for a model that sees none.
      tokenizer: gives `describe()` and `file_bytes`; None for a model without text.
      **more: anything else JSON can hold.
    """
    import flax
    import numpy
    import optax

    versions = {
        "mmjax": VERSION,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
    }
    file = None if tokenizer is None else tokenizer.file_bytes
    versions |= {"orbax-checkpoint": ocp.__version__, "numpy": numpy.__version__}
    return {
        "config": to_dict(config, unused=False),
        "position": position,
        "preprocessing": None if image_spec is None else dataclasses.asdict(image_spec),
        "tokenizer": None if tokenizer is None else tokenizer.describe(),
        "tokenizer_file": base64.b64encode(file).decode() if file else None,
        "versions": versions,
        "plugins": plugin_imports.to_meta(),
        "device": jax.devices()[0].device_kind,
        **more,
    }


def stored_frame(folder: Any) -> int | None:
    """`ImageSpec.frame` of the latest checkpoint, 0 in one from before there was any; None without a checkpoint."""
    latest = Checkpoints(folder, read_only=True).latest_meta()
    return None if latest is None else (latest[1]["preprocessing"] or {}).get("frame", 0)


def stored_table(folder: Any) -> dict[str, Any] | None:
    """Statistics of the columns of tables in the latest checkpoint, as JSON; None where it has none."""
    latest = Checkpoints(folder, read_only=True).latest_meta()
    return None if latest is None else latest[1].get("facts", {}).get("table")
