"""Update rules: what `optimizer.name` may be."""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmjax import registry
from mmjax.errors import UserError, validate_choice
from mmjax.parallel import partition
from mmjax.training import param_roles
from mmjax.training.config import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class UpdateRule:
    """From gradients to updates of the parameters, before weight decay and the learning rate.

    Attributes:
      make: (settings, trainable parameters) -> the transformation; the parameters are arrays or shapes, None where
        frozen. Fields that a plugin's rule has are in `settings.added`, by its name.
      reads: the fields of `optimizer` that not all rules read and this one does.
    """

    make: Callable[[OptimizerConfig, Any], optax.GradientTransformation]
    reads: tuple[str, ...] = ()

    def __post_init__(self):
        """Checks what a plugin may have written.

        Raises:
          UserError: `make` cannot be called, or `reads` is no tuple of fields of `optimizer`.
        """
        if not callable(self.make):
            raise UserError(f"make={self.make!r} of an UpdateRule cannot be called")
        if not isinstance(self.reads, tuple):
            raise UserError(f"reads={self.reads!r} of an UpdateRule wants a tuple of texts, such as ('b2',)")
        known = [field.name for field in dataclasses.fields(OptimizerConfig)]
        for name in self.reads:
            validate_choice("reads", name, known)


def load(name: str) -> UpdateRule:
    """The update rule of a name in `registry.optimizers`.

    Raises:
      UserError: what is registered is none.
    """
    rule = registry.optimizers.load(name, where=f"optimizer.name={name!r}")
    if not isinstance(rule, UpdateRule):
        module = registry.optimizers.module(name)
        raise UserError(f"optimizer {name!r} of {module} is no UpdateRule; register UpdateRule(make, reads=(...))")
    return rule


def _adamw(settings: OptimizerConfig, params: Any) -> optax.GradientTransformation:
    return optax.scale_by_adam(settings.b1, settings.b2, settings.eps, mu_dtype=settings.momentum_dtype)


def _lion(settings: OptimizerConfig, params: Any) -> optax.GradientTransformation:
    return optax.scale_by_lion(settings.b1, settings.b2, mu_dtype=settings.momentum_dtype)


def _sgd(settings: OptimizerConfig, params: Any) -> optax.GradientTransformation:
    momentum = optax.trace(settings.b1, accumulator_dtype=settings.momentum_dtype)
    return momentum if settings.b1 else optax.identity()


def _adafactor(settings: OptimizerConfig, params: Any) -> optax.GradientTransformation:
    # Factored second moments and update clipping are per matrix: each layer of a stack is one.
    one = optax.chain(_factored(settings.b2_cap), _clipped(settings.update_clip))
    labels = partition.map_with_path(lambda path, _: "stacked" if param_roles.is_stacked(path) else "single", params)
    momentum = optax.ema(settings.b1, debias=False, accumulator_dtype=settings.momentum_dtype)
    return optax.chain(optax.partition({"stacked": over_layers(one), "single": one}, labels), momentum)


def _muon(settings: OptimizerConfig, params: Any) -> optax.GradientTransformation:
    """Muon for matrices, AdamW for the rest."""
    labels = partition.map_with_path(
        lambda path, _: "matrix" if param_roles.role(path) == "matrix" else "other", params
    )
    matrices = _orthogonalised(settings.b1, settings.momentum_dtype)
    return optax.partition({"matrix": matrices, "other": _adamw(settings, params)}, labels)


def _factored(cap: float) -> optax.GradientTransformation:
    """Adafactor's second moments, whose decay 1 - t^-0.8 has a cap (big_vision/optax.py, arXiv:2106.04560).

    They are factored from 32 on: a head has 64 or 80 units, and attention kernels should be factored too.
    """

    def decay_rate(step, exponent):
        return jnp.minimum(cap, 1.0 - (jnp.asarray(step, jnp.float32) + 1.0) ** -exponent)

    return optax.scale_by_factored_rms(decay_rate=0.8, min_dim_size_to_factor=32, decay_rate_fn=decay_rate)


def _clipped(threshold: float) -> optax.GradientTransformation:
    return optax.clip_by_block_rms(threshold) if threshold else optax.identity()


def _orthogonalised(beta: float, dtype: str) -> optax.GradientTransformation:
    """Muon's orthogonalised momentum at AdamW's update size: 0.2 sqrt(max(fan_in, fan_out)) (arXiv:2502.16982)."""
    return optax.chain(
        optax.contrib.scale_by_muon(beta=beta, mu_dtype=dtype, weight_dimension_numbers=_muon_axes),
        optax.stateless(lambda updates, _: jax.tree.map(_match_adam, updates, _muon_axes(updates), is_leaf=_is_axes)),
    )


def _is_axes(x: Any) -> bool:
    return isinstance(x, optax.contrib.MuonDimensionNumbers)


def _muon_axes(params: Any) -> Any:
    """Input and output axes of each kernel; the others (layers; q, k and v) count as a batch of matrices."""

    def axes(path, x):
        if path.endswith(("qkv/kernel", "kv/kernel")):  # [D, 3, H, K]
            return optax.contrib.MuonDimensionNumbers((-4,), (-2, -1))
        if path.endswith("/q/kernel"):  # [D, H, K]
            return optax.contrib.MuonDimensionNumbers((-3,), (-2, -1))
        if path.endswith(("lora_q_b", "lora_k_b", "lora_v_b", "attention/q/lora_b")):  # [R, H, K]
            return optax.contrib.MuonDimensionNumbers((-3,), (-2, -1))
        if path.endswith(("attention/out/kernel", "attention/out/lora_a")):  # [H, K, D], [H, K, R]
            return optax.contrib.MuonDimensionNumbers((-3, -2), (-1,))
        if path.endswith(("patch_embed/kernel", "tubelet_embed/kernel")):  # [P, P, C, D], [t, P, P, C, D], [P, C, D]
            return optax.contrib.MuonDimensionNumbers(tuple(range(-x.ndim, -1)), (-1,))
        if x.ndim == 4 and re.search(r"(^|/|_)(conv\w*|stem)/kernel$", path):  # [P, Q, C, D]
            return optax.contrib.MuonDimensionNumbers((-4, -3, -2), (-1,))
        return optax.contrib.MuonDimensionNumbers((-2,), (-1,))

    return partition.map_with_path(axes, params)


def _match_adam(update: Any, axes: Any) -> Any:
    fan_in, fan_out = (math.prod(update.shape[axis] for axis in side) for side in axes)
    return update * (0.2 * max(fan_in, fan_out) ** 0.5)


def over_layers(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """Runs a rule on each layer of stacked parameters by itself; its state gains the layer axis in front."""

    # Stacks differ in depth (image and text towers), so each leaf is mapped over its own layers.
    def init(params):
        return tuple(jax.vmap(rule.init)(stack) for stack in jax.tree.leaves(params))

    def update(updates, state, params=None):
        leaves, treedef = jax.tree.flatten(updates)
        weights = treedef.flatten_up_to(params)
        results = [jax.vmap(rule.update)(u, s, p) for u, s, p in zip(leaves, state, weights, strict=True)]
        return treedef.unflatten([u for u, _ in results]), tuple(s for _, s in results)

    return optax.GradientTransformation(init, update)


ADAMW = UpdateRule(_adamw, reads=("b2", "eps"))
LION = UpdateRule(_lion, reads=("b2",))
ADAFACTOR = UpdateRule(_adafactor, reads=("b2_cap", "update_clip"))
MUON = UpdateRule(_muon, reads=("b2", "eps"))
SGD = UpdateRule(_sgd)
