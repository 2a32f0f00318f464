"""Checkpoints: state, position and everything needed to evaluate, in one step folder.

Orbax writes asynchronously and renames a finished folder into place, so a kill at any moment leaves the last complete
checkpoint. Where tensorstore cannot write (fsspec file systems such as memory://) a checkpoint is staged on the local
disk, copied, and counts once its marker file has been written.
"""

import base64
import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
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
from mmjax.parallel import partition
from mmjax.training.config import CheckpointConfig
from mmjax.utils.version import VERSION

_DEFAULTS = CheckpointConfig()
_COMPLETE = "COMPLETE"  # our marker of a whole copy
_COMMITTED = "commit_success.txt"  # Orbax's, on object stores, where a folder cannot be renamed


class Checkpoints:
    """The checkpoints of a workdir.

    Args:
      folder: where they lie (created when saving).
      settings: which of them are kept; `best_metric` is a name among the metrics given to `save`.
      read_only: nothing is created, cleaned up or removed, and there is no `save` or `restore`.
    """

    def __init__(self, folder: Any, settings: CheckpointConfig = _DEFAULTS, *, read_only: bool = False):
        check_settings(settings)
        self.folder = paths.as_path(folder)
        check_folder(self.folder)
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
        policies = [checkpoint_managers.LatestN(keep), _Best(self._best_metric, keep_best)]
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
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta)))
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
          UserError: the file is missing or damaged.
        """
        folder = self.folder / str(step)
        try:
            meta = json.loads((folder / "meta" / "metadata").read_text())
            if not isinstance(meta, dict):
                raise ValueError("it is no JSON object")
            return meta
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"{folder} is no whole checkpoint: meta/metadata cannot be read ({reason}); move it away to use another"
            ) from error

    def restore(self, step: int, abstract: Any) -> Any:
        """Reads a state straight to the shardings of `abstract` (a tree of `jax.ShapeDtypeStruct`)."""
        self._state(step)
        return self._writer.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]

    def param_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the stored parameters by path, without reading them."""
        return self.shapes(step, "params")

    def shapes(self, step: int, part: str) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays of a part of a stored state by path, without reading them."""
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            tree = reader.metadata(self._state(step)).item_metadata.tree
        leaves = jax.tree_util.tree_leaves_with_path(tree[part])
        return {partition.path_name(path): tuple(leaf.shape) for path, leaf in leaves}

    def restore_params(self, step: int, abstract_params: Any, *, prefer_average: bool = True) -> Any:
        """Reads the parameters alone (the moving average where there is one), without the optimizer's state."""
        folder = self._state(step)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            has_average = reader.metadata(folder).item_metadata.tree.get("ema_params") is not None
            key = "ema_params" if prefer_average and has_average else "params"
            target = {key: abstract_params}
            restore_args = ocp.checkpoint_utils.construct_restore_args(target)
            args = ocp.args.PyTreeRestore(item=target, restore_args=restore_args, partial_restore=True)
            return reader.restore(folder, args=args)[key]

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


@dataclasses.dataclass(frozen=True)
class _Best(checkpoint_managers.PreservationPolicy):
    """Keeps the `count` checkpoints with the largest `metric`; one that was not evaluated is no candidate."""

    metric: str
    count: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        rated = [
            (info.metrics[self.metric], number)
            for number, info in enumerate(checkpoints)
            if self.metric in (info.metrics or {})
        ]
        best = {number for _, number in sorted(rated, reverse=True)[: self.count]}
        return [number in best for number in range(len(checkpoints))]


def check_folder(folder: Any) -> None:
    """Checks that checkpoints can lie there.

    Raises:
      UserError: it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and checkpoints lie in a folder; move it or give another workdir")


def check_settings(settings: CheckpointConfig) -> None:
    """Checks what is kept.

    Raises:
      UserError: naming the field of `checkpoint`.
    """
    if settings.keep < 1:
        raise UserError(f"checkpoint.keep={settings.keep} must be at least 1: the latest checkpoint always survives")
    if settings.keep_best < 0:
        raise UserError(f"checkpoint.keep_best={settings.keep_best} must not be negative")
    if settings.keep_best and not settings.best_metric:
        raise UserError(f"checkpoint.keep_best={settings.keep_best} needs checkpoint.best_metric, e.g. 'shapes/acc1'")


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
    checkpoints = Checkpoints(folder, read_only=True)
    latest = checkpoints.latest()
    if latest is None:
        return None
    return (checkpoints.read_meta(latest)["preprocessing"] or {}).get("frame", 0)


def tokenizer_file(meta: Mapping[str, Any]) -> bytes | None:
    """The tokenizer's model file, where the checkpoint carries one."""
    return base64.b64decode(meta["tokenizer_file"]) if meta.get("tokenizer_file") else None
