"""The task: one model, trained with any of the objectives that it supports, each with its weight."""

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from mmjax import plugin_calls, registry
from mmjax.config.schema import RunConfig
from mmjax.data.image import transforms
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.models import make_model
from mmjax.objectives.text_ids import text_ids
from mmjax.objectives.token_loss import TokenLoss
from mmjax.parallel import mesh as mesh_lib
from mmjax.tasks import (
    attention_kernels,
    batch_losses,
    config_queries,
    load_objective,
    model_outputs,
    preprocessing,
)
from mmjax.tasks.objective import BatchFeatures, GlobalBatch
from mmjax.tasks.validate_model import check_model

Batch = dict[str, Any]  # arrays [B, ...], and maybe `text_places` or `text_groups`


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
        config: RunConfig,
        image_spec: transforms.ImageSpec | None,
        tokenizer: tokenizer_lib.Tokenizer | None = None,
        mesh: Mesh | None = None,
        metadata: preprocessing.DatasetMetadata | None = None,
    ):
        check_model(config)
        super().__init__(config, image_spec, tokenizer, mesh, metadata)
        # Evaluation makes arrays of a record alike.
        self.example_transform = preprocessing.make_example_transform(
            config, self.input_specs, tokenizer, self.dataset_metadata
        )
        model = config.model
        self.max_log_scale = None if model.max_logit_scale is None else math.log(model.max_logit_scale)
        load_objective.check(config, tokenizer)
        self.objectives = {name: load_objective.load(name) for name in registry.objectives if name in self.weights}
        self._is_plugins = model.kind in registry.models.added()
        draws = any(one.draws for one in self.objectives.values())
        self.objectives_sample = draws or model.modality_dropout > 0
        self.has_dropout = config_queries.has_noise(config)
        self.needs_rng = self.objectives_sample or self.has_dropout

    # -- training ------------------------------------------------------------------------------------------------------

    def rematerialised(self, remat: Mapping[str, Any]) -> "Task":
        """The same, with towers whose layers are computed again in the backward pass.

        Args:
          remat: by tower, a `policy` and how many of the last layers it does not apply to (`keep`).
        """
        if not remat:
            return self
        settings = self.model_settings | {
            name: self.model_settings[name] | dict(remat=choice.policy, remat_keep=choice.keep)
            for name, choice in remat.items()
        }
        result = copy.copy(self)
        result.model = make_model.make_model(settings, model_outputs.DTYPES[self.config.precision], self.kernels)
        return result

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

        kept = {feature for one in self.objectives.values() for feature in one.features if only is None}

        def read(batch_features: BatchFeatures) -> tuple[dict[str, Any], dict[str, TokenLoss]]:
            features: dict[str, Any] = {}
            if "embeddings" in kept:
                features |= self._check_embeddings(batch_features.embeddings)
            if "text_tokens" in kept:
                features["text_tokens"] = batch_losses.text_tokens(batch_features)
            additive = {
                name: one.function(batch_features, self.settings.of(name))
                for name, one in self.objectives.items()
                if one.scope == "example" and (only is None or name in only)
            }
            return features, additive

        with mesh_lib.activation_mesh(self.mesh):
            batch_features = BatchFeatures(self.model.bind({"params": params}), batch, noise, self.inputs, drawing=keys)
            features, additive = batch_features.by_length(read) if "text_groups" in batch else read(batch_features)
            if "image_tokens" in kept:
                features["image_tokens"] = batch_features.image._replace(layers=None)
        return features, additive

    def _check_embeddings(self, embeddings: dict[str, Any]) -> dict[str, Any]:
        """The embeddings, once those of a plugin's model are seen to be of one space.

        Raises:
          UserError: they are not.
        """
        image, text = embeddings[self.pairs[0][0]], embeddings[self.pairs[0][1]]
        if self._is_plugins and (text.ndim != 2 or image.shape[:: image.ndim - 1] != text.shape):
            shapes = f"image_embedding gives {list(image.shape)} and text_embedding {list(text.shape)}"
            message = f"{shapes}; they give [B, E], or [B, Q, E] for an image in several vectors"
            raise plugin_calls.wrong(registry.models, self.config.model.kind, type(self.model), message)
        return embeddings

    @property
    def is_contrastive(self) -> bool:
        """Whether an objective contrasts the examples of a batch."""
        return any(one.contrast for one in self.objectives.values())

    @property
    def is_only_contrastive(self) -> bool:
        """Whether no other objective is added to those."""
        return all(one.contrast for one in self.objectives.values())

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
        inputs = self._global_batch(params, features, batch, keys, pieces)
        total, metrics = self._sum(inputs, [name for name, one in self.objectives.items() if one.scope == "batch"])
        if "logit_scale" in params:
            metrics["logit_scale"] = jnp.exp(params["logit_scale"])
        if "logit_bias" in params:
            metrics["logit_bias"] = params["logit_bias"]
        return total, metrics

    def contrastive_loss(
        self, params: Any, image: Float[Array, "B ..."], text: Float[Array, "B E"], ids: Any
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The contrastive objectives on embeddings of two modalities, as the held-out loss is computed."""
        inputs = self._global_batch(params, {"image": image, "text": text}, {"id": ids}, None, 1)
        of_pair = dataclasses.replace(inputs, ids=ids, pairs=(("image", "text", 1.0),))
        return self._sum(of_pair, [name for name, one in self.objectives.items() if one.contrast])

    def _global_batch(self, params: Any, features: Any, batch: Any, keys: Any, pieces: int) -> GlobalBatch:
        return GlobalBatch(
            self.model.bind({"params": params}),
            params,
            features,
            batch,
            self._ids(batch),
            keys,
            self.settings,
            self.mesh,
            noise=self.has_dropout,
            pieces=pieces,
            pairs=self.pairs,
        )

    def _ids(self, batch: Any) -> Array | None:
        """What positives share, as `data.positives` says."""
        positives = self.config.data.positives
        if positives == "diagonal":
            return None
        is_by_text = positives == "text" and "text" in batch  # the held-out loss brings its own ids
        return jnp.concatenate([batch["id"], text_ids(batch["text"])], axis=1) if is_by_text else batch["id"]

    def _sum(self, inputs: GlobalBatch, names: Sequence[str]) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The weighted sum of objectives, and their metrics; of two of one name the first one's."""
        total, metrics = jnp.zeros(()), {}
        for name in names:
            seen = dataclasses.replace(inputs, settings=self.settings.of(name))
            value, added = self.objectives[name].function(seen)
            total = total + self.weights[name] * value
            # A contrastive loss that is alone is the loss.
            reported = {f"loss_{name}": value} if len(self.weights) > 1 or not self.objectives[name].contrast else {}
            metrics = added | metrics | reported
        return total, metrics

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
        return config_queries.model_flops(self.config.model)
