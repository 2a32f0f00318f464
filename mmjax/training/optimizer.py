"""Optimizers by name, which parameters decay, learning rates by path and layer; layers of a stack count one by one."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmjax import plugin_calls, registry
from mmjax.config.schema import RunConfig
from mmjax.errors import UserError
from mmjax.models.config import ModelConfig
from mmjax.nn.config import LayersConfig
from mmjax.parallel import partition
from mmjax.training import param_roles, schedules, update_rules
from mmjax.training.config import OptimizerConfig
from mmjax.training.update_rules import UpdateRule


def make_optimizer(config: RunConfig, params: Any) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Builds the update rule for the trainable parameters.

    In order: clip by global norm, the named rule, decoupled weight decay on what `optimizer.decay` names, the learning
    rate with its schedule, multipliers per path and decay per layer. Without `decay_scaled_by_lr` the peak rate,
    multipliers and decay per layer come before the weight decay, which is only scaled by the schedule, as a share of
    the peak (big_vision/optax.py).

    Args:
      config: the run's config.
      params: the trainable parameters (arrays or shapes), None where frozen.

    Returns:
      The transformation and the schedule (for the logs).

    Raises:
      UserError: an unknown optimizer, a pattern that matches nothing, or a multiplier that has no meaning.
    """
    settings = config.optimizer
    schedule = schedules.make_schedule(config.schedule, config.steps, settings.learning_rate)
    _check_factors(settings)
    mask = decay_mask(settings, params)
    factors = _factors(settings, config.model, params)
    rule = _make_rule(settings, params)
    # What is off stands here as the identity, so that a stored state fits whether it is on or off.
    clip = optax.clip_by_global_norm(settings.grad_clip) if settings.grad_clip else optax.identity()
    decays = optax.add_decayed_weights(settings.weight_decay, mask) if settings.weight_decay else optax.identity()
    if settings.decay_scaled_by_lr:
        rate = optax.scale_by_learning_rate(schedule)
        last = optax.identity() if factors is None else optax.stateless(lambda updates, _: _times(updates, factors))
    else:
        peak = settings.learning_rate
        rule = _followed_by(rule, lambda updates: _times(updates, jax.tree.map(lambda x: peak, updates)))
        if factors is not None:
            rule = _followed_by(rule, lambda updates: _times(updates, factors))
        rate, last = optax.scale_by_schedule(lambda step: -jnp.asarray(schedule(step)) / peak), optax.identity()
    return optax.chain(clip, rule, decays, rate, last), schedule


def _make_rule(settings: OptimizerConfig, params: Any) -> optax.GradientTransformation:
    """The transformation of `optimizer.name`; a plugin's is checked where it runs.

    Raises:
      UserError: a plugin's fails, or gives no transformation, or updates or a state that are none.
    """
    name, make = settings.name, load_rule(settings).make
    if name not in registry.optimizers.added():
        return make(settings, params)
    called = functools.partial(plugin_calls.calling, registry.optimizers, name, make)
    wrong = functools.partial(plugin_calls.wrong, registry.optimizers, name, make)
    with called("make(settings, params) -> optax.GradientTransformation"):
        rule = make(settings, params)
    if not isinstance(rule, optax.GradientTransformation):
        raise wrong(f"make(settings, params) gives {type(rule).__name__}, not an optax.GradientTransformation")

    def init(params):
        with called("init(params) -> state"):
            state = rule.init(params)
        if others := [x for x in jax.tree.leaves(state) if not hasattr(x, "dtype") and not isinstance(x, (int, float))]:
            raise wrong(f"its state has a leaf of type {type(others[0]).__name__}; a state is a tree of arrays")
        return state

    def update(updates, state, params=None):
        with called("update(updates, state, params) -> (updates, state)"):
            new, new_state = rule.update(updates, state, params)
        shapes = lambda tree: {
            partition.path_name(path): (jnp.shape(x)) for path, x in jax.tree_util.tree_leaves_with_path(tree)
        }
        expected = shapes(updates)
        given_shapes = shapes(new)
        for path, shape in given_shapes.items():
            if expected.get(path) != shape:
                raise wrong(f"its update of {path!r} has shape {shape}, not {expected.get(path)}, its gradient's")
        if missing := [path for path in expected if path not in given_shapes]:
            raise wrong(f"it gives no update of {missing[0]!r}")
        kinds = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)
        if kinds(new_state) != kinds(state):
            raise wrong("its state after an update has other arrays than before; keep their number, shapes and types")
        return new, new_state

    return optax.GradientTransformation(init, update)


def _decays_in_open_clip(path: str, axes: int) -> bool:
    """Two axes or more in the original, which stacks no layers, and neither a bias nor of a norm (open_clip's main.py).

    Here biases of queries, keys and values have an axis of heads.
    """
    is_vector = path.rpartition("/")[2] in ("bias", "scale")
    return not is_vector and axes - param_roles.is_stacked(path) >= 2


# (path, number of axes) -> whether the parameter decays.
DECAY_PRESETS: dict[str, Callable[[str, int], bool]] = {
    "matrices": lambda path, axes: param_roles.role(path) != "vector",
    "open_clip": _decays_in_open_clip,
    # `.*/kernel$`, big_vision's default of `wd_mults`; what flax calls a kernel there is called one here.
    "big_vision": lambda path, axes: param_roles.role(path) == "matrix",
}


def _split_presets(entries: Sequence[str]) -> list[str]:
    """The entries, with several presets in one, such as `matrices,big_vision`, by themselves; no path has a comma."""
    split = []
    for entry in entries:
        names = [name.strip() for name in entry.split(",")]
        split += names if all(name in DECAY_PRESETS for name in names) else [entry]
    return split


def _check_decay(entry: str, paths: Sequence[str]) -> None:
    """Checks an entry that is no preset.

    Raises:
      UserError: it is no regular expression, or matches none of the paths.
    """
    try:
        param_roles.check_pattern("optimizer.decay", entry, paths, list(DECAY_PRESETS))
    except UserError as error:
        names = tuple(name.strip() for name in entry.split(","))
        if len(names) == 1:
            raise
        raise UserError(f'{error}; several entries are written "{names}"') from error


def decay_mask(settings: OptimizerConfig, params: Any) -> Any:
    """Whether each parameter decays, as a tree of bools.

    Args:
      settings: `optimizer` of the run's config.
      params: the trainable parameters (arrays or shapes), None where frozen.

    Raises:
      UserError: an entry of `decay` is neither a preset nor a regular expression that matches a trained parameter.
    """
    shapes = {}
    partition.map_with_path(lambda path, x: shapes.setdefault(path, len(x.shape)), params)
    decays = set()
    for entry in _split_presets(settings.decay):
        if entry in DECAY_PRESETS:
            chosen = {path for path, axes in shapes.items() if DECAY_PRESETS[entry](path, axes)}
            # The default may find nothing, as where norms alone are trained.
            if not chosen and settings.weight_decay and entry != "matrices":
                raise UserError(
                    f"optimizer.decay={entry!r} names none of the parameters that are trained, such as"
                    f" {next(iter(shapes))!r}; set optimizer.weight_decay=0, or name them by a path regex"
                )
        else:
            _check_decay(entry, list(shapes))
            chosen = {path for path in shapes if param_roles.matches([entry], path)}
        decays |= chosen
    return partition.map_with_path(lambda path, _: path in decays, params)


def _times(updates: Any, factors: Any) -> Any:
    return jax.tree.map(lambda u, f: u * f, updates, factors)


def _followed_by(rule: optax.GradientTransformation, change: Callable[[Any], Any]) -> optax.GradientTransformation:
    """A rule whose updates are changed, with the rule's own state."""

    def update(updates, state, params=None):
        updates, state = rule.update(updates, state, params)
        return change(updates), state

    return optax.GradientTransformation(rule.init, update)


def _check_factors(settings: OptimizerConfig) -> None:
    """Checks that no factor on the rate is negative, and none 0 where weight decay goes on without the learning rate.

    Raises:
      UserError: one is.
    """
    factors = [
        (f"optimizer.multipliers: ({pattern!r}, {factor:g})", factor) for pattern, factor in settings.multipliers
    ]
    factors += [
        (f"optimizer.layer_decay.{tower}={decay:g}", decay)
        for tower, decay in dataclasses.asdict(settings.layer_decay).items()
    ]
    for field, factor in factors:
        if not 0 <= factor < math.inf:
            raise UserError(
                f"{field} is no factor on the learning rate: it would follow the gradient upwards or leave no number;"
                " give one of at least 0"
            )
        if not factor and settings.weight_decay and not settings.decay_scaled_by_lr:
            raise UserError(
                f"{field} would leave weight decay at work, as optimizer.decay_scaled_by_lr=False does not scale it;"
                " name these parameters in optimizer.freeze"
            )


def load_rule(settings: OptimizerConfig) -> UpdateRule:
    """The update rule of `optimizer.name`.

    Raises:
      UserError: there is none of this name.
    """
    name = registry.optimizers.validate_choice("optimizer.name", settings.name)
    return update_rules.load(name)


def layer_numbers(path: str, count: int, tower: LayersConfig) -> list[int]:
    """Which of a tower's layers the `count` ones of a stacked parameter are, from 0, the first.

    Where only some layers have cross-attention there are two stacks, see `nn.transformer.Transformer`.
    """
    parts = path.split("/")
    if "cross_layers" not in parts:
        return list(range(count))
    unit = re.fullmatch(r"block(\d+)", parts[parts.index("cross_layers") + 1])
    first, step = getattr(tower, "cross_from", 0), getattr(tower, "cross_every", 1)
    return [first + (int(unit[1]) if unit else 0) + i * step for i in range(count)]


def _factors(settings: OptimizerConfig, model: ModelConfig, params: Any) -> Any:
    """Learning-rate factors per parameter, an array over layers where the layers' rates differ; None when all are 1."""
    names = [partition.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern, _ in settings.multipliers:
        param_roles.check_pattern("optimizer.multipliers", pattern, names)
    layer_decay = dataclasses.asdict(settings.layer_decay)
    if not settings.multipliers and all(decay == 1.0 for decay in layer_decay.values()):
        return None

    towers = {name: tower for name in layer_decay if isinstance(tower := getattr(model, name, None), LayersConfig)}
    for tower, decay in layer_decay.items():
        if decay != 1.0 and tower not in towers:
            known = list(towers)
            raise UserError(
                f"optimizer.layer_decay.{tower}={decay}: this model has no layers in model.{tower}; leave it at 1.0"
                + (f" (it has in {', '.join(f'model.{name}' for name in known)})" if known else "")
            )

    def factor(path, x):
        value = next((f for pattern, f in settings.multipliers if re.fullmatch(pattern, path)), 1.0)
        tower, *rest = path.split("/")
        decay = layer_decay.get(tower, 1.0)
        if decay == 1.0:
            return value
        depth = towers[tower].depth
        if param_roles.is_stacked(path):
            above = depth - jnp.array(layer_numbers(path, x.shape[0], towers[tower]), jnp.float32)
            layers = decay**above  # the last layer: decay^1
            return value * layers.reshape((-1,) + (1,) * (len(x.shape) - 1))
        # The final norm and a head stand on top of all layers, embeddings below.
        is_above = rest[0] == "norm" or rest[0].startswith("head")
        return value * (1.0 if is_above else decay ** (depth + 1))

    return partition.map_with_path(factor, params)
