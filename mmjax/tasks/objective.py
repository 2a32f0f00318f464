"""Objectives: terms of the loss, as objects that say what they need and how they are computed."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, UInt

from mmjax import plugin_calls, registry
from mmjax.config import kinds
from mmjax.config.schema import RunConfig
from mmjax.config.typed_groups import to_dict
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.errors import UserError, did_you_mean, validate_choice
from mmjax.models.config import ModelConfig
from mmjax.models.make_model import SERVES, model_class
from mmjax.objectives.config import LossConfig
from mmjax.objectives.token_loss import TokenLoss
from mmjax.tasks.batch_features import BatchFeatures, draw_keys

# Features of an example that objectives of scope `batch` may ask for; see `Task.encode`.
Feature = Literal["embeddings", "image_tokens", "text_tokens"]
_SCOPES = Literal["example", "batch"]
_TEXTS = ("captions", "questions", "answers")  # what `data.texts` may be
_TAKEN = {"step", "kind", "loss", "grad_norm", "learning_rate", "first_bad_step"}  # in a line of the log


@dataclasses.dataclass(frozen=True)
class Settings:
    """What objectives want to know besides the batch.

    Attributes:
      loss: the config's.
      tokenizer: of the texts; None for a model without text.
      patch_size: of the image tower.
      modality_dropout: see `classification.modality_dropout`.
      fields: the objective's own, `loss.NAME`; None where it has none.
    """

    loss: LossConfig
    tokenizer: Tokenizer | None = None
    patch_size: int = 0
    modality_dropout: float = 0.0
    fields: Any = None

    def of(self, name: str) -> "Settings":
        """The settings as the objective of a name sees them."""
        return dataclasses.replace(self, fields=self.loss.added.get(name))


@dataclasses.dataclass(frozen=True)
class GlobalBatch:
    """The global batch, as an objective of scope `batch` sees it; its arrays are spread over the mesh.

    Attributes:
      model: bound to its parameters.
      params: the parameters, of which `logit_scale` and `logit_bias` are the model's own.
      features: of every example: `image` and `text` (embeddings), `image_tokens`, `text_tokens`.
      batch: as the pipeline makes it.
      ids: examples with equal ids are positives of one another; None when each is its own class.
      keys: one an example; None in evaluation.
      settings: what else there is to know.
      mesh: the devices that share the batch; None for one.
      noise: whether layers draw from `keys`, too.
      pieces: microbatches in which the model ran; what is computed of it again runs in as many.
      drawn: the streams that have been drawn from.
    """

    model: Any
    params: Any
    features: Mapping[str, Any]
    batch: Mapping[str, Any]
    ids: UInt[Array, "B 2"] | None
    keys: Key[Array, " B"] | None
    settings: Settings
    mesh: Mesh | None
    noise: bool = False
    pieces: int = 1
    drawn: list[int] = dataclasses.field(default_factory=list, repr=False)

    def draws(self, stream: int) -> Key[Array, " B"]:
        """Keys for what an objective draws, one an example; as `BatchFeatures.draws`."""
        self.drawn.append(stream)
        return draw_keys(self.keys, self.batch["id"], stream)

    @property
    def logit_scale(self) -> Float[Array, ""]:
        """The multiplier of the similarities; 1 where the model has none."""
        return jnp.exp(self.params["logit_scale"]) if "logit_scale" in self.params else jnp.ones(())


@dataclasses.dataclass(frozen=True)
class Objective:
    """A term of the loss, which `objectives.NAME` weighs.

    Attributes:
      function: of scope `example`: (`BatchFeatures`, `Settings`) -> `TokenLoss`; of scope `batch`: `GlobalBatch` ->
        (loss, metrics by name).
      scope: `example`: sums over single examples, which are added and run in microbatches; `batch`: sees the whole
        global batch.
      needs: what the model must serve, of the names in `serves` of the models.
      teaches: what a model that is trained with it can then do, in the same names; None for all that it `needs`. What
        `mmjax.load`, evaluations and attention maps offer follows from it.
      features: scope `batch`: what is kept of each example.
      head: the model's field that must be on; "" for none.
      texts: values of `data.texts` that it goes with; where other objectives are trained with it, the first one.
      alone: it does not go with other objectives.
      draws: it draws at random even where no layer does (`BatchFeatures.draws`).
      contrast: it compares the embeddings of a batch, and reads nothing else but ids; the held-out loss has it.
      check: (config, tokenizer) -> None; raises `UserError` where they do not serve it.
      check_config: config -> None; the same before anything is opened.
    """

    function: Callable[..., Any]
    scope: _SCOPES
    needs: tuple[str, ...]
    teaches: tuple[str, ...] | None = None
    features: tuple[Feature, ...] = ()
    head: str = ""
    texts: tuple[str, ...] = ("captions",)
    alone: bool = False
    draws: bool = False
    contrast: bool = False
    check: Callable[[RunConfig, Tokenizer | None], None] | None = None
    check_config: Callable[[RunConfig], None] | None = None

    def __post_init__(self):
        """Checks what a plugin may have written.

        Raises:
          UserError: naming the argument.
        """
        validate_choice("scope", self.scope, get_args(_SCOPES))
        for name in ("needs", "teaches", "features", "texts"):
            value = getattr(self, name)
            if value is None and name == "teaches":
                continue
            if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
                raise UserError(f"{name}={value!r} of an Objective wants a tuple of texts, such as ('embeddings',)")
        for feature in self.features:
            validate_choice("features", feature, get_args(Feature))
        for text in self.texts:
            validate_choice("texts", text, _TEXTS)
        if not isinstance(self.head, str):
            raise UserError(f"head={self.head!r} of an Objective wants the name of a field of the model, or ''")
        if self.scope == "example" and self.features:
            raise UserError(f"features={self.features} are kept for scope='batch'; leave them out of scope='example'")
        if self.contrast and self.features != ("embeddings",):
            raise UserError(f"contrast=True wants features=('embeddings',), not {self.features}")

    @property
    def taught(self) -> tuple[str, ...]:
        """What a model can do that is trained with it."""
        return self.needs if self.teaches is None else self.teaches


def example_sums(name: str, objective: Objective, features: BatchFeatures, settings: Settings) -> TokenLoss:
    """What an objective of scope `example` gives.

    Raises:
      UserError: that of a plugin fails, or gives something else.
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
    return sums


def batch_loss(name: str, objective: Objective, inputs: GlobalBatch) -> tuple[Float[Array, ""], dict[str, Array]]:
    """What an objective of scope `batch` gives.

    Raises:
      UserError: that of a plugin fails, gives something else, or a metric that is the run's own.
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
    if taken := sorted({*metrics} & _TAKEN):
        raise _wrong(name, objective, f"gives a metric {taken[0]!r}, which is the run's own; rename it")
    return loss, dict(metrics)


def _check_draws(name: str, objective: Objective, drawn: Sequence[int]) -> None:
    """Checks that a plugin's objective says that it draws: else every step draws the same."""
    if drawn and not objective.draws and name in registry.objectives.added():
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
    if name in registry.objectives.added():
        _check_words(name, objective)
    return objective


def served() -> list[str]:
    """All that some model may serve."""
    classes = [registry.models.load(kind, where=kind) for kind in registry.models.added()]
    return list(dict.fromkeys([*SERVES, *(word for cls in classes for word in getattr(cls, "serves", ()))]))


@functools.cache
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


def require_mask_token(config: RunConfig, tokenizer: Tokenizer | None) -> None:
    """Checks that words can be masked.

    Raises:
      UserError: the tokenizer has no mask token.
    """
    if tokenizer is None or tokenizer.mask_id is None:
        raise UserError(
            f"objectives.mlm={config.objectives.mlm} needs a tokenizer with a mask token, which"
            f" data.tokenizer={config.data.tokenizer!r} has not; 'words:...' and BERT's tokenizer.json do"
        )
