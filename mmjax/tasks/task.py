"""The task: one model, trained with any of the objectives that it supports, each with its weight."""

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, UInt8

from mmjax.data.image import transforms
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.errors import UserError
from mmjax.models import initialisation, make_model
from mmjax.models.fusion import classifier
from mmjax.nn import resize
from mmjax.objectives import contrastive, triplet
from mmjax.objectives.token_loss import TokenLoss
from mmjax.parallel import activation_sharding
from mmjax.tasks import (
    attention_kernels,
    image_text_matching,
    model_outputs,
    per_example_losses,
    preprocessing,
)
from mmjax.tasks.batch_features import BatchFeatures
from mmjax.tasks.validate_model import NOISE, check_model

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
CONTRASTIVE = ("itc", "sigmoid", "triplet")
Batch = dict[str, Any]  # arrays [B, ...], and maybe `text_places` or `text_groups`


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What objectives want to know besides the batch.

    Attributes:
      loss: the config's.
      vocab_size, mask_id, special_ids: of the tokenizer, for masked words.
      patch_size: of the image tower, for masked patches.
      modality_dropout: see `classification.modality_dropout`.
    """

    loss: Any
    vocab_size: int = 0
    mask_id: int | None = None
    special_ids: tuple[int, ...] = ()
    patch_size: int = 0
    modality_dropout: float = 0.0


class Task(model_outputs.ModelOutputs):
    """A model trained with weighted objectives.

    The trainer sees `init`, `encode` (which may run over microbatches), `loss` (which sees the whole batch), `weights`
    and `clamp_logit_scale`; evaluation sees what the model can do: `embed_*` and `contrastive_loss`, `generate`,
    `answer`, `match`, `classify`.

    Args:
      config: the run's config.
      image_spec: how images are prepared; None for a model that sees none.
      tokenizer: needed for masked words and for writing.
      mesh: the devices that share a batch; None for one device.
      metadata: answers and shapes of the training data.

    Raises:
      UserError: an impossible model or objective.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        image_spec: transforms.ImageSpec | None,
        tokenizer: tokenizer_lib.Tokenizer | None = None,
        mesh: Mesh | None = None,
        metadata: preprocessing.DatasetMetadata | None = None,
    ):
        check_model(config)
        self.config, self.mesh, self.image_spec = config, mesh, image_spec
        self.dataset_metadata = metadata or preprocessing.DatasetMetadata()
        # Evaluation makes arrays of a record alike.
        self.example_transform = preprocessing.make_example_transform(
            config, image_spec, tokenizer, self.dataset_metadata
        )
        self.weights = {name: weight for name, weight in config.objectives.items() if weight}
        settings = config.model.to_dict()
        top = settings.pop("max_logit_scale", None)
        self.max_log_scale = None if top is None else math.log(top)
        hidden = settings.pop("modality_dropout", 0.0)
        self.init_rule = settings.pop("init", initialisation.OPENAI)
        dtype = DTYPES[config.precision]
        device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
        self.kernels = {
            tower: attention_kernels.choose_kernel(
                config, tower, device, dtype, 1 if mesh is None else mesh.shape["tensor"]
            )
            for tower in ("image", "text")
            if "heads" in config.model.get(tower, {})
        }
        self.model_settings = settings
        self.model = make_model.make_model(settings, dtype, self.kernels)
        mean, std = ((0.5,) * 3, (0.5,) * 3) if image_spec is None else (image_spec.mean, image_spec.std)
        self.mean, self.std = jnp.array(mean, jnp.float32), jnp.array(std, jnp.float32)
        self.settings = _Settings(
            config.loss, patch_size=config.model.get("image", {}).get("patch_size", 0), modality_dropout=hidden
        )
        if self.is_trained_with("caption") and tokenizer is not None:
            tokenizer_lib.require_bos(tokenizer, "objectives.caption")
        if self.weights.get("mlm"):
            if tokenizer is None or tokenizer.mask_id is None:
                raise UserError(
                    f"objectives.mlm={self.weights['mlm']} needs a tokenizer with a mask token, which"
                    f" data.tokenizer={config.data.tokenizer!r} has not; 'words:...' and BERT's tokenizer.json do"
                )
            self.settings = dataclasses.replace(
                self.settings,
                vocab_size=tokenizer.vocab_size,
                mask_id=tokenizer.mask_id,
                special_ids=tuple(tokenizer.special_ids),
            )
        rates = [value for path, value in _leaves(settings) if path in NOISE]
        self.objectives_sample = any(self.weights.get(name) for name in per_example_losses.DRAWING) or hidden > 0
        self.needs_rng = self.objectives_sample or any(rate > 0 for rate in rates)
        self.has_dropout = any(rate > 0 for rate in rates)

    def is_trained_with(self, objective: str) -> bool:
        """Whether the model is trained with an objective."""
        return bool(self.weights.get(objective))

    # -- training ------------------------------------------------------------------------------------------------------

    def rematerialised(self, remat: Mapping[str, Any]) -> "Task":
        """The same task, with towers whose layers are computed again in the backward pass.

        Args:
          remat: by tower, a `policy` and how many of the last layers it does not apply to (`keep`).
        """
        if not remat:
            return self
        settings = self.model_settings | {
            name: self.model_settings[name] | dict(remat=choice.policy, remat_keep=choice.keep)
            for name, choice in remat.items()
        }
        task = copy.copy(self)
        task.model = make_model.make_model(settings, DTYPES[self.config.precision], self.kernels)
        return task

    def example(self) -> tuple[Any, ...]:
        """Arguments of a call that touches every parameter."""
        model = self.config.model
        if "encoders" in model:
            return classifier.example(model.to_dict(), dict(self.dataset_metadata.shapes))
        size = model.image.image_size
        return jnp.zeros((1, size, size, 3), jnp.float32), jnp.zeros((1, model.text.context_length), jnp.int32)

    def init(self, key: Key[Array, ""]) -> Any:
        """Initialises the parameters."""
        params = self.model.init(key, *self.example())["params"]
        return initialisation.initialise(self.init_rule, params, self.model_settings, key)

    def pixels(self, batch: Batch) -> Float[Array, "B H W 3"]:
        """A batch's images, normalised; those that travelled in frames are resized first, see `ImageSpec.frame`."""
        images = batch["image"]
        if "image_box" in batch:
            spec = self.image_spec
            images = resize.resize_frames(images, batch["image_box"], spec.size, spec.interpolation)
        return self.normalize(images)

    def normalize(self, images: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        """From 0 to 255 to the numbers the image tower was made for; all zeros with `data.blind`."""
        if self.config.data.blind:
            return jnp.zeros(images.shape, jnp.float32)
        return (images.astype(jnp.float32) / 255.0 - self.mean) / self.std

    def encode(
        self, params: Any, batch: Batch, keys: Key[Array, " B"] | None, *, only: Sequence[str] | None = None
    ) -> tuple[dict[str, Any], dict[str, TokenLoss]]:
        """Runs the model as far as an example needs no other one.

        Args:
          params: parameters.
          batch: as the pipeline makes it, see `batch_shapes`.
          keys: one key per example, or None for no noise.
          only: the objectives of single examples that are wanted, and no features; None for all.

        Returns:
          Features for `loss`, rows aligned with the batch's, and the sums of the objectives of single examples.
        """
        noise = keys if self.has_dropout else None

        def read(batch_features: BatchFeatures) -> tuple[dict[str, Any], dict[str, TokenLoss]]:
            features: dict[str, Any] = {}
            if self.is_contrastive and only is None:
                features["image"], features["text"] = batch_features.embeddings
            if self.is_trained_with("itm") and only is None:
                features["text_tokens"] = image_text_matching.text_tokens(batch_features)
            additive = {
                name: function(batch_features, self.settings)
                for name, function in per_example_losses.PER_EXAMPLE.items()
                if self.is_trained_with(name) and (only is None or name in only)
            }
            return features, additive

        with activation_sharding.activation_mesh(self.mesh):
            batch_features = BatchFeatures(self.model.bind({"params": params}), batch, noise, self.pixels, drawing=keys)
            features, additive = batch_features.by_length(read) if "text_groups" in batch else read(batch_features)
            if self.is_trained_with("itm") and only is None:
                features["image_tokens"] = batch_features.image._replace(layers=None)
        return features, additive

    @property
    def is_contrastive(self) -> bool:
        """Whether an objective contrasts the examples of a batch."""
        return any(self.is_trained_with(name) for name in CONTRASTIVE)

    @property
    def is_only_contrastive(self) -> bool:
        """Whether no other objective is added to those."""
        return set(self.weights) <= set(CONTRASTIVE)

    def loss(
        self,
        params: Any,
        features: dict[str, Any],
        batch: Batch,
        keys: Key[Array, " B"] | None = None,
        *,
        pieces: int = 1,
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The weighted sum of the objectives between examples, over the whole batch, and metrics by name.

        What is computed of single examples again, pairs fused anew, runs in as many `pieces` as the model did.
        """
        ids = batch["id"] if self.config.data.positives == "id" else None
        total, metrics = jnp.zeros(()), {}
        if self.is_contrastive:
            total, metrics = self.contrastive_loss(params, features["image"], features["text"], ids)
        if self.is_trained_with("itm"):
            with activation_sharding.activation_mesh(self.mesh):
                value, itm_metrics = image_text_matching.loss(
                    self.model.bind({"params": params}),
                    features,
                    batch,
                    keys,
                    self._scale(params),
                    self.settings,
                    self.mesh,
                    noise=self.has_dropout,
                    pieces=pieces,
                )
            total = total + self.weights["itm"] * value
            metrics = metrics | itm_metrics | {"loss_itm": value}
        if "logit_scale" in params:
            metrics["logit_scale"] = jnp.exp(params["logit_scale"])
        if "logit_bias" in params:
            metrics["logit_bias"] = params["logit_bias"]
        return total, metrics

    def _scale(self, params: Any) -> Float[Array, ""] | None:
        return jnp.exp(params["logit_scale"]) if "logit_scale" in params else None

    def contrastive_loss(
        self, params: Any, image: Float[Array, "B ..."], text: Float[Array, "B E"], ids: Any
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The contrastive objectives on embeddings; shared by training and the held-out loss."""
        settings = self.config.loss
        layout = dict(impl=settings.impl, mesh=self.mesh, block_size=settings.block_size, precision=settings.precision)
        losses, metrics = {}, {}
        if self.is_trained_with("itc"):
            losses["itc"], metrics = contrastive.softmax_loss(
                image, text, self._scale(params), ids, label_smoothing=settings.contrastive_smoothing, **layout
            )
        if self.is_trained_with("sigmoid"):
            bias = params["logit_bias"]
            losses["sigmoid"], metrics = contrastive.sigmoid_loss(image, text, self._scale(params), bias, ids, **layout)
        if self.is_trained_with("triplet"):
            losses["triplet"], triplet_metrics = triplet.triplet_loss(
                image,
                text,
                ids,
                margin=settings.triplet_margin,
                negatives=settings.triplet_negatives,
                mesh=self.mesh,
                precision=settings.precision,
            )
            metrics = triplet_metrics | metrics
        if len(self.weights) > 1:
            metrics = metrics | {f"loss_{name}": value for name, value in losses.items()}
        return sum((self.weights[name] * value for name, value in losses.items()), jnp.zeros(())), metrics

    def clamp_logit_scale(self, params: Any) -> Any:
        """Clamps the log scale to [0, ln max_logit_scale] after an update, as OpenCLIP does; not where that is None."""
        if self.max_log_scale is None or "logit_scale" not in params:
            return params
        return params | {"logit_scale": jnp.clip(params["logit_scale"], 0.0, self.max_log_scale)}

    # -- descriptions -------------------------------------------------------------------------------------------------

    def describe_attention(self) -> str:
        """Which kernel each tower's attention runs on."""
        return attention_kernels.describe(self.kernels)

    def flops_per_example(self) -> float | None:
        """Multiplications and additions of one forward pass over a pair; None where they are not counted."""
        return model_flops(self.config.model)


def model_flops(model: ml_collections.ConfigDict) -> float | None:
    """Counts a two-tower model's forward pass over one pair: matrix products only, two operations a multiplication.

    It follows OpenCLIP's `model_profile.csv` (B/32: 14.78e9, B/16: 41.09e9, SigLIP B/16: 46.44e9), attention pooling
    included. None for other kinds of model, which nobody has counted.
    """
    if model.get("kind", "two_tower") != "two_tower":
        return None

    def tower(settings, tokens):
        width, mlp = settings.width, 2 * settings.width * settings.mlp_dim
        flops = 2 * settings.depth * (tokens * (4 * width**2 + mlp) + 2 * tokens**2 * width)
        if settings.pool == "map":  # keys and values of every token; one query, its output and its MLP
            flops += 2 * (tokens * 2 * width**2 + 2 * tokens * width + 2 * width**2 + mlp)
        return flops

    image, text = model.image, model.text
    patches = (image.image_size // image.patch_size) ** 2
    flops = tower(image, patches + int(image.class_token)) + tower(text, text.context_length)
    flops += 2 * patches * 3 * image.patch_size**2 * image.width
    for settings in (image, text):
        flops += 2 * settings.width * model.embed_dim if settings.projection != "none" else 0
    return float(flops)


def _leaves(settings: Any) -> list[tuple[str, Any]]:
    """Names and values of all settings, however deep."""
    leaves = []
    for name, value in settings.items():
        leaves += _leaves(value) if isinstance(value, dict) else [(name, value)]
    return leaves
