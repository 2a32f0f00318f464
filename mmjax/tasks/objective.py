"""Objectives: terms of the loss, as objects that say what they need and how they are computed."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, UInt

from mmjax.config.schema import RunConfig
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.errors import UserError, validate_choice
from mmjax.objectives.config import LossConfig
from mmjax.tasks.batch_features import draw_keys

# Features of an example that objectives of scope `batch` may ask for; see `Task.encode`.
Feature = Literal["embeddings", "image_tokens", "text_tokens"]
_SCOPES = Literal["example", "batch"]
_TEXTS = ("captions", "questions", "answers")  # what `data.texts` may be


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
