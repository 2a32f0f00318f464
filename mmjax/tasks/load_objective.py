"""The objectives of a config by name; those of plugins are checked whenever they are traced."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax import plugin_calls, registry
from mmjax.config import kinds
from mmjax.config.schema import RunConfig
from mmjax.config.typed_groups import to_dict
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.errors import UserError, did_you_mean
from mmjax.models.config import ModelConfig
from mmjax.models.make_model import SERVES, model_class
from mmjax.objectives.token_loss import TokenLoss
from mmjax.tasks.objective import BatchFeatures, GlobalBatch, Objective, Settings

# Names of a line of the log that are not an objective's; `loss_NAME` are neither.
_TAKEN = {"step", "kind", "loss", "grad_norm", "learning_rate", "first_bad_step", "logit_scale", "logit_bias"}


def weights(config: RunConfig) -> dict[str, float]:
    """The weights of the objectives that a model is trained with, by name."""
    return {name: weight for name, weight in to_dict(config.objectives).items() if weight}


def taught(config: RunConfig) -> frozenset[str]:
    """What a model is trained to do, in the names of `serves`."""
    return frozenset(word for name in weights(config) for word in load(name).taught)


def load(name: str) -> Objective:
    """The objective of a name.

    Raises:
      UserError: there is none.
    """
    objective = registry.objectives.load(name, where=f"objectives.{name}")
    if not isinstance(objective, Objective):
        whose = registry.objectives.describe(name)
        raise UserError(f"{whose} is no Objective; register Objective(function, scope=...)")
    return _of_plugin(name, objective) if name in registry.objectives.added() else objective


@functools.cache
def _of_plugin(name: str, objective: Objective) -> Objective:
    """A plugin's objective, whose words are known and whose function is checked when it is called.

    Raises:
      UserError: see `_check_words`.
    """
    _check_words(name, objective)
    checked = _example_sums if objective.scope == "example" else _batch_loss
    return dataclasses.replace(objective, function=functools.partial(checked, name, objective))


def served() -> list[str]:
    """All that some model may serve."""
    classes = [registry.models.load(kind, where=kind) for kind in registry.models.added()]
    return list(dict.fromkeys([*SERVES, *(word for cls in classes for word in getattr(cls, "serves", ()))]))


def _check_words(name: str, objective: Objective) -> None:
    """Checks that some model has what a plugin's objective names.

    Raises:
      UserError: none has, the nearest name is given.
    """
    known = served()
    for field in ("needs", "taught"):
        for word in getattr(objective, field):
            if word not in known:
                near = did_you_mean(word, known)
                message = (
                    f"{'teaches' if field == 'taught' else field}={getattr(objective, field)}: no model serves {word!r}"
                )
                raise _wrong(name, objective, f"{message}{near}; choose among {', '.join(known)}")
    heads = {field for cls in kinds.classes(ModelConfig).values() for field in cls.__dataclass_fields__}
    if objective.head and objective.head not in heads:
        near = did_you_mean(objective.head, heads)
        raise _wrong(name, objective, f"head={objective.head!r}: no model has a field of this name{near}")


def supported(config: RunConfig) -> list[str]:
    """Names of the objectives that the config's kind of model can be trained with."""
    serves = set(model_class(config.model.kind).serves)
    return [name for name in registry.objectives if serves >= set(load(name).needs)]


def check(config: RunConfig, tokenizer: Tokenizer | None) -> None:
    """Checks the tokenizer against the objectives that a model is trained with.

    Raises:
      UserError: it lacks what one of them needs.
    """
    for name in weights(config):
        objective = load(name)
        if objective.check is not None:
            with plugin_calls.calling(registry.objectives, name, objective.check, "check(RunConfig, Tokenizer | None)"):
                objective.check(config, tokenizer)


def _example_sums(name: str, objective: Objective, features: BatchFeatures, settings: Settings) -> TokenLoss:
    """What a plugin's objective of scope `example` gives.

    Raises:
      UserError: it fails, or gives something else.
    """
    expects = "function(BatchFeatures, Settings) -> TokenLoss"
    with plugin_calls.calling(registry.objectives, name, objective.function, expects):
        sums = objective.function(features, settings)
    _check_draws(name, objective, features.drawn)
    wants = "; an objective of scope='example' gives TokenLoss(total [B], count [B], {metric: [B]})"
    if not isinstance(sums, TokenLoss):
        raise _wrong(name, objective, f"gives {_shown(sums)}{wants}")
    arrays = {"total": sums.total, "count": sums.count}
    arrays |= {f"metrics[{metric!r}]": value for metric, value in sums.metrics.items()}
    for part, value in arrays.items():
        if _shape(value) != features.batch["id"].shape[:1]:
            raise _wrong(
                name, objective, f"gives {part} {_shown(value)} for {len(features.batch['id'])} examples{wants}"
            )
    _check_metrics(name, objective, sums.metrics)
    return sums


def _batch_loss(name: str, objective: Objective, inputs: GlobalBatch) -> tuple[Float[Array, ""], dict[str, Array]]:
    """What a plugin's objective of scope `batch` gives.

    Raises:
      UserError: it fails, gives something else, or a metric that is the run's own.
    """
    with plugin_calls.calling(
        registry.objectives, name, objective.function, "function(GlobalBatch) -> (loss, metrics)"
    ):
        result = objective.function(inputs)
    _check_draws(name, objective, inputs.drawn)
    wants = "; an objective of scope='batch' gives (loss [], {metric: []})"
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
        raise _wrong(name, objective, f"gives {_shown(result)}{wants}")
    loss, metrics = result
    for part, value in {"loss": loss, **{f"metrics[{metric!r}]": value for metric, value in metrics.items()}}.items():
        if _shape(value) != ():
            raise _wrong(name, objective, f"gives {part} {_shown(value)}{wants}")
    _check_metrics(name, objective, metrics)
    return loss, dict(metrics)


def _check_metrics(name: str, objective: Objective, metrics: Mapping[str, Any]) -> None:
    """Checks that metrics have names that the log has room for."""
    for metric in metrics:
        if metric in _TAKEN or str(metric).startswith("loss_"):
            raise _wrong(name, objective, f"gives a metric {metric!r}, which is the run's own; rename it")


def _check_draws(name: str, objective: Objective, drawn: Sequence[int]) -> None:
    """Checks that a plugin's objective says that it draws: else every step draws the same."""
    if drawn and not objective.draws:
        raise _wrong(name, objective, "draws at random, but is registered without draws=True; add it")


def _wrong(name: str, objective: Objective, message: str) -> UserError:
    return plugin_calls.wrong(registry.objectives, name, objective.function, message)


def _shape(value: Any) -> tuple[int, ...] | None:
    """The shape of an array or a number; None of anything else."""
    is_number = isinstance(value, (int, float)) or hasattr(value, "shape")
    return jnp.shape(value) if is_number else None


def _shown(value: Any) -> str:
    """A value by its type, an array by its shape."""
    if type(value) is tuple:
        return f"({', '.join(map(_shown, value))})"
    dtype, shape = (getattr(value, name, None) for name in ("dtype", "shape"))
    return type(value).__name__ if dtype is None or shape is None else f"{dtype}{list(shape)}"
