"""Objectives: terms of the loss, as objects that say what they need, and what they are computed from."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, UInt, UInt8

from mmjax.config.schema import RunConfig
from mmjax.data.image import transforms
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


class Pixels:
    """From a batch to its images as the numbers that the image tower was made for.

    Args:
      spec: how images are prepared; None for a model that sees none.
      blind: give zeros instead.
    """

    def __init__(self, spec: transforms.ImageSpec | None, *, blind: bool = False):
        self._spec, self._blind = spec, blind
        mean, std = ((0.5,) * 3, (0.5,) * 3) if spec is None else (spec.mean, spec.std)
        self._mean, self._std = jnp.array(mean, jnp.float32), jnp.array(std, jnp.float32)

    def __call__(self, batch: Mapping[str, Any]) -> Float[Array, "B H W 3"]:
        """Images, normalised; those that travelled in frames are resized first, see `ImageSpec.frame`."""
        images, spec = batch["image"], self._spec
        if spec is not None and "image_box" in batch:
            images = resize.resize_frames(images, batch["image_box"], spec.size, spec.interpolation)
        return self.normalize(images)

    def normalize(self, images: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        """From 0 to 255 to normalised numbers."""
        if self._blind:
            return jnp.zeros(images.shape, jnp.float32)
        return (images.astype(jnp.float32) / 255.0 - self._mean) / self._std


class BatchFeatures:
    """What objectives take from a batch.

    Args:
      model: bound to parameters.
      batch: as the pipeline makes it; with `text_places` texts are packed, and `text` has their pooled token alone.
        `text_groups` are for `by_length`.
      keys: one an example, for the layers' noise, or None for none.
      pixels: from a batch to its images, see `Pixels`.
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
        pixels: Any,
        drawing: Key[Array, " B"] | None = None,
        cut: int = 0,
    ):
        self.model, self.batch, self.keys, self._pixels = model, batch, keys, pixels
        self.drawing, self.cut = drawing, cut
        self.drawn: list[int] = []

    @functools.cached_property
    def pixels(self) -> Float[Array, "B H W 3"]:
        """The images, resized and normalised."""
        return self._pixels(self.batch)

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
    def embeddings(self) -> tuple[Float[Array, "B ..."], Float[Array, "B E"]]:
        """Unit vectors of image and text."""
        if not self.model.embeds_all_tokens:
            text = self.model.text_embedding(*self._words, **self._packed)
            return self.model.image_embedding(self.pixels, self.keys), text
        return self.model.embed_image(self.image), self.model.embed_text(self.text)

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
            features = BatchFeatures(module.bind(variables), arrays | texts, keys, self._pixels, drawing, cut)
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
      features: of every example: `image` and `text` (embeddings), `image_tokens`, `text_tokens`.
      batch: as the pipeline makes it.
      ids: examples with equal ids (two words each; of several, any) are positives of one another; None when each is its
        own class.
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
    ids: UInt[Array, "B W"] | None
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
