"""Objectives: terms of the loss, as objects that say what they need, and what they are computed from."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, UInt, UInt8

from mmjax.config.schema import RunConfig
from mmjax.data.loading.inputs import InputSpecs
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.errors import UserError, validate_choice
from mmjax.models.encoders import Encoded
from mmjax.nn import layers, resize
from mmjax.objectives.config import LossConfig
from mmjax.parallel import length_groups
from mmjax.utils.random_streams import ExampleStream

# Features of an example that objectives of scope `batch` may ask for; see `Task.encode`.
Feature = Literal["embeddings", "image_tokens", "text_tokens"]
_SCOPES = Literal["example", "batch"]
_TEXTS = ("captions", "questions", "answers")  # what `data.texts` may be
# What a batch holds of each token of a text.
_OF_TOKENS = ("text", "text_mask", "target_mask")


class Inputs:
    """From a batch to what a model reads beside text: by modality, the numbers that its encoder was made for.

    Args:
      specs: how images and other modalities are prepared.
      blind: give zeros instead.

    Attributes:
      names: of the modalities.
    """

    def __init__(self, specs: InputSpecs, *, blind: bool = False):
        self._image, self._blind, self.names = specs.image, blind, specs.names
        scaled: dict[str, Any] = {} if specs.image is None else {"image": specs.image}
        # Frames of a video travel as uint8, too.
        decoders: dict[str, Any] = {spec.name: spec.decoder for spec in specs.others if spec.dtype == "uint8"}
        scaled |= {name: decoder.image for name, decoder in decoders.items()}
        array = functools.partial(jnp.array, dtype=jnp.float32)
        self._scales = {name: (array(spec.mean), array(spec.std)) for name, spec in scaled.items()}

    def __call__(self, batch: Mapping[str, Any], name: str) -> Float[Array, "B ..."]:
        """A modality, normalised; images that travelled in frames are resized first, see `ImageSpec.frame`."""
        array, spec = batch[name], self._image
        if name == "image" and spec is not None and "image_box" in batch:
            array = resize.resize_frames(array, batch["image_box"], spec.size, spec.interpolation)
        return self.normalize(array, name)

    def normalize(self, array: UInt8[Array, "B ..."] | Float[Array, "B ..."], name: str) -> Float[Array, "B ..."]:
        """From 0 to 255 to normalised numbers, where a modality has pixels."""
        if self._blind:
            return jnp.zeros(array.shape, jnp.float32)
        if name not in self._scales:
            return array
        mean, std = self._scales[name]
        return (array.astype(jnp.float32) / 255.0 - mean) / std


class BatchFeatures:
    """What objectives take from a batch.

    Args:
      model: bound to parameters.
      batch: as the pipeline makes it; with `text_places` texts are packed, and `text` has their pooled token alone.
        `text_groups` are for `by_length`.
      keys: one an example, for the layers' noise, or None for none.
      inputs: from a batch to what the model reads beside text, see `Inputs`.
      drawing: one an example, for what objectives draw, or None in evaluation.
      cut: tokens of padding that the texts have been cut by.

    Attributes:
      drawn: the streams that have been drawn from.
    """

    def __init__(
        self,
        model: Any,
        batch: dict[str, Any],
        keys: Key[Array, " B"] | None,
        inputs: Any,
        drawing: Key[Array, " B"] | None = None,
        cut: int = 0,
    ):
        self.model, self.batch, self.keys, self._inputs = model, batch, keys, inputs
        self.drawing, self.cut = drawing, cut
        self.drawn: list[int] = []

    @functools.cached_property
    def pixels(self) -> Float[Array, "B ..."]:
        """The images, resized and normalised; of a model with another slot filled in their place, what is in that."""
        return self._inputs(self.batch, self.model.seen)

    def arrays(self) -> dict[str, Float[Array, "B ..."]]:
        """All modalities beside text, by name."""
        return {name: self._inputs(self.batch, name) for name in self._inputs.names}

    @functools.cached_property
    def image(self) -> Encoded:
        """The image tower's tokens."""
        return self.model.encode_image(self.pixels, self.keys)

    @functools.cached_property
    def text(self) -> Encoded:
        """The text tower's tokens."""
        return self.model.encode_text(*self._words, **self._packed)

    @property
    def _words(self) -> tuple[Any, ...]:
        return self.batch["text"], self.batch["text_mask"], self.keys

    @property
    def _packed(self) -> dict[str, Any]:
        return {"packed": self.batch["text_places"]} if "text_places" in self.batch else {}

    @functools.cached_property
    def embeddings(self) -> dict[str, Float[Array, "B ..."]]:
        """Unit vectors by modality, such as `image` and `text`."""
        model, names = self.model, self.model.modalities
        if model.embeds_all_tokens:
            return {model.seen: model.embed_image(self.image), "text": model.embed_text(self.text)}
        text = {"text": model.text_embedding(*self._words, **self._packed)} if "text" in names else {}
        others = [name for name in names if name != "text"]
        return {name: model.embedding(name, self._inputs(self.batch, name), self.keys) for name in others} | text

    @functools.cached_property
    def fused(self) -> Encoded:
        """Image and text together."""
        return self.model.fuse(self.image, self.text, self.batch["text"], self.noise(ExampleStream.FUSION))

    def noise(self, stream: ExampleStream) -> Key[Array, " B"] | None:
        """Keys for the noise of layers; None in evaluation."""
        return layers.fold_keys(self.keys, stream)

    def by_length(self, function: Callable[["BatchFeatures"], Any]) -> Any:
        """A tree of rows from each group of `text_groups`, whose texts are cut to the group's tokens.

        The image tower runs on all rows at once. The results are in the batch's order.
        """
        groups = self.batch["text_groups"]
        arrays = {name: x for name, x in self.batch.items() if name != "text_groups"}
        rows = arrays, self.image._replace(layers=None), self.keys, self.drawing
        module, variables = self.model.unbind()

        def of_group(variables, rows, tokens):
            arrays, image, keys, drawing = rows
            texts = {name: arrays[name][:, :tokens] for name in _OF_TOKENS if name in arrays}
            cut = arrays["text"].shape[1] - tokens
            features = BatchFeatures(module.bind(variables), arrays | texts, keys, self._inputs, drawing, cut)
            features.image = image
            return function(features)

        return length_groups.by_group(of_group, variables, rows, groups)

    def draws(self, stream: int) -> Key[Array, " B"]:
        """Keys for what an objective draws; in evaluation a function of the examples' ids, the same every time.

        Args:
          stream: an `ExampleStream`; numbers from 1000 on are for plugins.
        """
        self.drawn.append(stream)
        return draw_keys(self.drawing, self.batch["id"], stream)


def draw_keys(keys: Key[Array, " B"] | None, ids: UInt[Array, "B 2"], stream: int) -> Key[Array, " B"]:
    """Keys of an example for drawing, apart from those of its noise.

    Args:
      keys: the examples', or None in evaluation, where they follow from the ids.
      ids: of the examples.
      stream: which draw.
    """
    if keys is None:
        one = lambda words: jax.random.fold_in(jax.random.fold_in(jax.random.key(0), words[0]), words[1])
        keys = jax.vmap(one)(jnp.asarray(ids))
    return layers.fold_keys(keys, stream)


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
      features: of every example: embeddings by modality (`image`, `text`), `image_tokens`, `text_tokens`.
      batch: as the pipeline makes it.
      ids: examples with equal ids (two words each; of several, any) are positives of one another; None when each is its
        own class.
      keys: one an example; None in evaluation.
      settings: what else there is to know.
      mesh: the devices that share the batch; None for one.
      noise: whether layers draw from `keys`, too.
      pieces: microbatches in which the model ran; what is computed of it again runs in as many.
      pairs: of modalities whose embeddings are contrasted, with their weights.
      drawn: the streams that have been drawn from.
    """

    model: Any
    params: Any
    features: Mapping[str, Any]
    batch: Mapping[str, Any]
    ids: UInt[Array, "B W"] | None
    keys: Key[Array, " B"] | None
    settings: Settings
    mesh: Mesh | None
    noise: bool = False
    pieces: int = 1
    pairs: Sequence[tuple[str, str, float]] = (("image", "text", 1.0),)
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
        if not callable(self.function):
            raise UserError(f"function={self.function!r} of an Objective cannot be called")
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
