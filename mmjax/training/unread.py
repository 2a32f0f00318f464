"""Fields of `optimizer` and `schedule` that what is chosen there does not read."""

from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from mmjax import config as config_lib
from mmjax.errors import UserError
from mmjax.training.optimizer import OPTIMIZERS
from mmjax.training.schedules import SCHEDULES

# Which choices read a field that not all of them read.
_READERS = {
    "optimizer.b2": ("adamw", "lion", "muon"),
    "optimizer.eps": ("adamw", "muon"),
    "optimizer.b2_cap": ("adafactor",),
    "optimizer.update_clip": ("adafactor",),
    "schedule.timescale": ("rsqrt",),
    "schedule.final_of": ("rsqrt",),
    "schedule.decay_rate": ("step",),
    "schedule.decay_every": ("step",),
}


def check(config: ml_collections.ConfigDict, kept: Collection[str], stored: Mapping[str, Any]) -> None:
    """Checks that no field has been set that would change nothing.

    Args:
      config: the run's config.
      kept: fields that the run began without, see `begun`.
      stored: the fields that it is stored with, by path: what it began with is let be. Empty for a new run.

    Raises:
      UserError: one has, naming what reads it.
    """
    flat, default = config_lib.flatten(config), config_lib.flatten(config_lib.base_config())

    def is_set(field):
        began = field in kept or (field in stored and stored[field] == flat[field])
        return flat[field] != default[field] and not began

    for field, readers in _READERS.items():
        choice = f"{field.partition('.')[0]}.name"
        known = OPTIMIZERS if choice == "optimizer.name" else SCHEDULES
        if is_set(field) and flat[choice] in known and flat[choice] not in readers:
            raise UserError(
                f"{field}={flat[field]!r} is not read with {choice}={flat[choice]!r}; leave it at {default[field]!r},"
                f" or choose one that reads it: {', '.join(readers)}"
            )
    if is_set("optimizer.momentum_dtype") and config.optimizer.name == "sgd" and not config.optimizer.b1:
        raise UserError(
            f"optimizer.momentum_dtype={config.optimizer.momentum_dtype!r} is not read, as sgd has no momentum with"
            " optimizer.b1=0; set that, or leave it at 'float32'"
        )
    cools = config.schedule.name in ("cosine", "step") or config.schedule.cooldown
    for field in ("schedule.final", "schedule.final_of"):
        if is_set(field) and not cools:
            raise UserError(
                f"{field}={flat[field]!r} is not read with schedule.name={config.schedule.name!r} without a cool-down;"
                f" set schedule.cooldown, the steps in which the rate falls to it, or leave it at {default[field]!r}"
            )
