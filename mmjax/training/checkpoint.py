"""Checkpoints: state, position and everything needed to evaluate, in one step folder.

Orbax writes asynchronously and renames a finished folder into place, so a kill at any moment leaves the last complete
checkpoint. Where tensorstore cannot write (fsspec file systems such as memory://) a checkpoint is staged on the local
disk, copied, and counts once its marker file has been written.
"""

import base64
import dataclasses
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from mmjax import storage
from mmjax.errors import UserError
from mmjax.parallel import partition

_COMPLETE = "COMPLETE"


class Checkpoints:
    """The checkpoints of a workdir.

    Args:
      folder: where they lie (created when saving).
      keep: how many of the latest are kept.
      keep_best: how many of the best by `best_metric` are kept besides.
      best_metric: a name among the metrics given to `save`; larger is better.
      read_only: nothing is created, cleaned up or removed.
    """

    def __init__(
        self, folder: Any, *, keep: int = 2, keep_best: int = 0, best_metric: str = "", read_only: bool = False
    ):
        if keep < 1:
            raise UserError(f"checkpoint.keep={keep} must be at least 1: the latest checkpoint always survives")
        if keep_best and not best_metric:
            raise UserError(f"checkpoint.keep_best={keep_best} needs checkpoint.best_metric, e.g. 'shapes/acc1'")
        self.folder = storage.as_path(folder)
        self._staging = None
        local = self.folder
        if not storage.is_direct(self.folder):
            if jax.process_count() > 1:
                raise UserError(f"workdir {self.folder}: several processes need a shared disk or gs://")
            self._staging = tempfile.TemporaryDirectory(prefix="mmjax-checkpoints-")
            local = epath.Path(self._staging.name)
            self._fetched = set()
        policies = [checkpoint_managers.LatestN(keep)]
        if keep_best:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics.get(best_metric, -float("inf")), n=keep_best
                )
            )
        self._best_metric = best_metric
        self._manager = ocp.CheckpointManager(
            epath.Path(local) if not str(local).startswith("gs://") else local,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                enable_async_checkpointing=self._staging is None,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                read_only=read_only and self._staging is None,
            ),
            item_names=("state", "meta"),
        )

    def all_steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        if self._staging is None:
            return sorted(self._manager.all_steps())
        if not self.folder.exists():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit() and (p / _COMPLETE).exists())

    def latest(self) -> int | None:
        """The last complete step, or None."""
        return max(self.all_steps(), default=None)

    def save(self, step: int, state: Any, meta: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> None:
        """Starts saving; returns as soon as the state may be changed."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta)))
        if self._best_metric and metrics is not None and self._best_metric not in metrics:
            raise UserError(
                f"checkpoint.best_metric={self._best_metric!r} is not among the evaluation's:"
                f" {', '.join(sorted(metrics))}"
            )
        self._manager.save(step, args=args, metrics=dict(metrics) if metrics else None)
        if self._staging is not None:
            self._publish(step)

    def _publish(self, step: int) -> None:
        """Copies a staged step out and removes what the manager no longer keeps."""
        self._manager.wait_until_finished()
        source, target = epath.Path(self._staging.name) / str(step), self.folder / str(step)
        storage.copy_tree(source, target)
        (target / _COMPLETE).write_text("")
        self._fetched.add(step)
        for old in set(self.all_steps()) - set(self._manager.all_steps()):
            (self.folder / str(old) / _COMPLETE).unlink()
            storage.remove_tree(self.folder / str(old))

    def _fetch(self, step: int) -> None:
        """Brings a step to the staging folder, for the manager to read."""
        if self._staging is not None and step not in self._fetched:
            storage.copy_tree(self.folder / str(step), epath.Path(self._staging.name) / str(step))
            self._fetched.add(step)
            self._manager.reload()

    def read_meta(self, step: int) -> dict[str, Any]:
        """Reads what was saved beside the state."""
        self._fetch(step)
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def restore(self, step: int, abstract: Any) -> Any:
        """Reads a state straight to the shardings of `abstract` (a tree of `jax.ShapeDtypeStruct`)."""
        self._fetch(step)
        return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))["state"]

    def param_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the stored parameters by path, without reading them."""
        self._fetch(step)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            tree = reader.metadata(epath.Path(self._manager.directory) / str(step) / "state").item_metadata.tree
        leaves = jax.tree_util.tree_leaves_with_path(tree["params"])
        return {partition.path_name(path): tuple(leaf.shape) for path, leaf in leaves}

    def restore_params(self, step: int, abstract_params: Any, *, prefer_average: bool = True) -> Any:
        """Reads the parameters alone (the moving average where there is one), without the optimizer's state."""
        self._fetch(step)
        folder = epath.Path(self._manager.directory) / str(step) / "state"
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            has_average = reader.metadata(folder).item_metadata.tree.get("ema_params") is not None
            key = "ema_params" if prefer_average and has_average else "params"
            target = {key: abstract_params}
            restore_args = ocp.checkpoint_utils.construct_restore_args(target)
            args = ocp.args.PyTreeRestore(item=target, restore_args=restore_args, partial_restore=True)
            return reader.restore(folder, args=args)[key]

    def wait(self) -> None:
        """Blocks until what was started is on disk; a failed save raises here."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and releases the manager's threads."""
        self._manager.close()
        if self._staging is not None:
            self._staging.cleanup()


def make_meta(
    config: ml_collections.ConfigDict, position: int, image_spec: Any, tokenizer: Any, **more: Any
) -> dict[str, Any]:
    """What evaluation needs besides the state: config, preprocessing, tokenizer (with its model file) and versions.

    Args:
      config: the run's config.
      position: training examples consumed.
      image_spec: how images are prepared, a dataclass.
      tokenizer: gives `describe()` and `file_bytes`.
      **more: anything else JSON can hold.
    """
    import flax
    import numpy
    import optax

    import mmjax

    versions = {
        "mmjax": mmjax.__version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
    }
    versions |= {"orbax-checkpoint": ocp.__version__, "numpy": numpy.__version__}
    return {
        "config": config.to_dict(),
        "position": position,
        "preprocessing": dataclasses.asdict(image_spec),
        "tokenizer": tokenizer.describe(),
        "tokenizer_file": base64.b64encode(tokenizer.file_bytes).decode() if tokenizer.file_bytes else None,
        "versions": versions,
        "device": jax.devices()[0].device_kind,
        **more,
    }


def tokenizer_file(meta: Mapping[str, Any]) -> bytes | None:
    """The tokenizer's model file, where the checkpoint carries one."""
    return base64.b64decode(meta["tokenizer_file"]) if meta.get("tokenizer_file") else None
