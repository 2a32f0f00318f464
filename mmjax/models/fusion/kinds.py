"""Fusion by kind, and that of decisions: each modality decides, and the decisions are combined."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from mmjax import plugin_calls, registry
from mmjax.errors import UserError, did_you_mean, validate_choice
from mmjax.models.encoders import Encoded
from mmjax.models.fusion.alone import Alone
from mmjax.models.fusion.pooled import Fusion, Pooling, prepare, present_softmax
from mmjax.models.make_model import check_fields
from mmjax.nn.layers import dense_float32
from mmjax.nn.pool import Pool

COMBINATIONS = ("linear", "logits", "product")


def combine_decisions(
    combine: str,
    logits: Float[Array, "B K C"],
    present: Bool[Array, "B K"],
    scores: Float[Array, " K"] | None = None,
) -> Float[Array, "B C"]:
    """Combines the decisions that are present.

    With weights w = softmax(scores + log present) and p = softmax(logits) of each decision:

    - `linear`: log sum w p, a mixture of the distributions;
    - `logits`: the weighted mean of the logits, renormalised: log-linear pooling;
    - `product`: the product of the p, renormalised, without weights: a product of experts.

    Args:
      combine: a name in `COMBINATIONS`.
      logits: of each decision.
      present: which decisions count.
      scores: of each decision; None for equal weights.

    Returns:
      Log-probabilities in float32; those of one decision where it is the only one, and equal ones where none is.
    """
    validate_choice("model.fusion.combine", combine, COMBINATIONS)
    logits = jnp.where(present[..., None], logits.astype(jnp.float32), 0.0)
    scores = jnp.zeros(present.shape[1:], jnp.float32) if scores is None else scores
    if combine == "linear":
        weights = jax.nn.log_softmax(jnp.where(present, scores.astype(jnp.float32), -1e30), axis=-1)
        log_probs = jax.nn.log_softmax(logits, axis=-1) + weights[..., None]
        out = jax.nn.logsumexp(jnp.where(present[..., None], log_probs, -1e30), axis=1)
    elif combine == "logits":
        out = jax.nn.log_softmax(jnp.einsum("BK,BKC->BC", present_softmax(scores, present), logits), axis=-1)
    else:
        # What is not present is uniform here, and drops out.
        out = jax.nn.log_softmax(jax.nn.log_softmax(logits, axis=-1).sum(axis=1), axis=-1)
    return jnp.where(present.any(axis=1, keepdims=True), out, -jnp.log(float(logits.shape[-1])))


class Late(Pooling, kw_only=True):
    """A linear head for each modality; the decisions of those that are present are combined.

    Parameters: `norm_NAME`, `head_NAME`, and but for `combine="product"` `weights`, one for each decision.

    What is not listed is as in `Pooling`.

    Attributes:
      classes: C.
      combine: a name in `COMBINATIONS`, see `combine_decisions`.
    """

    classes: int
    combine: str = "linear"

    @nn.compact
    def __call__(
        self, encoded: Mapping[str, Encoded], present: Bool[Array, "B M"], keys: Key[Array, " B"] | None = None
    ) -> Float[Array, "B C"]:
        """Log-probabilities of the classes, float32."""
        modalities, available = prepare(encoded, present)
        heads = {name: self._head(f"head_{name}", x) for name, x in self.vectors(modalities).items()}
        logits, counted = self._decisions(jnp.stack(list(heads.values()), axis=1), available, encoded, present, keys)
        scores = None
        if self.combine != "product":
            scores = self.param("weights", nn.initializers.zeros, counted.shape[1:], jnp.float32)
        return combine_decisions(self.combine, logits, counted, scores)

    def _head(self, name: str, x: Float[Array, "B D"]) -> Float[Array, "B C"]:
        std = x.shape[-1] ** -0.5
        return dense_float32(self.classes, std=std, dtype=self.dtype, name=name)(x)

    def _decisions(self, logits, available, encoded, present, keys):
        """All decisions [B, K, C], and which of them count."""
        del encoded, present, keys
        return logits, available


class Hybrid(Late, kw_only=True):
    """A fusion of tokens or vectors decides, too, and always; its decision is the last one.

    Parameters: those of `Late`, `fusion` and `head`.

    What is not listed is as in `Late`.

    Attributes:
      fusion: settings of it, with its `kind`.
    """

    fusion: Mapping[str, Any]

    def _decisions(self, logits, available, encoded, present, keys):
        inner = make_fusion(self.fusion, self.classes, field="model.fusion.fusion", dtype=self.dtype)
        if isinstance(inner, Late):
            raise UserError(
                f"model.fusion.fusion.kind={self.fusion['kind']!r} decides itself; choose one that gives tokens"
            )
        tokens, valid, *_ = call_fusion(self.fusion["kind"], inner, encoded, present, keys)
        decision = self._head("head", Pool(inner.head_pool)(tokens, valid))
        logits = jnp.concatenate([logits, decision[:, None]], axis=1)
        return logits, jnp.pad(available, ((0, 0), (0, 1)), constant_values=True)


def call_fusion(kind: str, fusion: Any, encoded: Mapping[str, Encoded], present: Any, keys: Any) -> Any:
    """What a fusion gives: `Encoded`, or log-probabilities where it decides.

    Raises:
      UserError: that of a plugin fails, or gives something else.
    """
    expects = "fusion({name: Encoded}, present [B, M], keys) -> Encoded"
    with plugin_calls.calling(registry.fusions, kind, type(fusion), expects):
        fused = fusion(encoded, present, keys)
    if not isinstance(fusion, Late) and not isinstance(fused, Encoded):
        raise plugin_calls.wrong(registry.fusions, kind, type(fusion), f"gives {type(fused).__name__}, not Encoded")
    return fused


def make_fusion(
    settings: Mapping[str, Any],
    classes: int,
    *,
    field: str = "model.fusion",
    dtype: DTypeLike = jnp.float32,
    name: str = "fusion",
) -> Fusion | Late | Alone:
    """Makes a fusion; a `Late` one decides, the others give tokens.

    Args:
      settings: `kind`, a name in `registry.fusions`, and attributes of its class.
      classes: for kinds that decide.
      field: where the settings stand in the config.
      dtype: compute type.
      name: of the module.

    Raises:
      UserError: an unknown kind or setting, or one is lacking.
    """
    settings = dict(settings)
    kind = registry.fusions.validate_choice(f"{field}.kind", settings.pop("kind", ""))
    cls = registry.fusions.load(kind, where=f"{field}.kind={kind!r}")
    fixed: dict[str, Any] = {"dtype": dtype, "name": name}
    if kind in registry.fusions.added():
        _check_added(kind, cls, settings)
    if issubclass(cls, Late):
        fixed["classes"] = classes
    free = {setting.name: setting for setting in dataclasses.fields(cls) if setting.name not in (*fixed, "parent")}
    for key in sorted(set(settings) - set(free)):
        raise UserError(f"{field}.{key} is no setting of {cls.__name__}{did_you_mean(key, free)}")
    for key, setting in free.items():
        if key not in settings and setting.default is dataclasses.MISSING:
            raise UserError(f"{field}.{key} is not set, which {cls.__name__} needs")
    return cls(**settings, **fixed)


def _check_added(kind: str, cls: Any, settings: Mapping[str, Any]) -> None:
    """Checks that a plugin's fusion is one, and has the fields that it is made with."""
    if not (isinstance(cls, type) and issubclass(cls, (Fusion, Late))):
        name = getattr(cls, "__name__", repr(cls))
        message = f"{name} is no fusion; derive it from Fusion, which gives tokens, or from Late, which decides"
        raise plugin_calls.wrong(registry.fusions, kind, cls, message)
    names = {*settings, "dtype", *(["classes"] if issubclass(cls, Late) else [])}
    check_fields(registry.fusions, kind, cls, names)
