"""What a task's model computes for evaluation and for a loaded model: embeddings, texts, answers, attention maps."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt

from mmjax import plugin_calls, registry
from mmjax.config.schema import RunConfig
from mmjax.config.typed_groups import to_dict
from mmjax.data.image import transforms
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.models import generation, initialisation, make_model
from mmjax.models.config import SeparatorConfig
from mmjax.models.fusion.config import FusedConfig
from mmjax.models.image_config import ConvEncoderConfig
from mmjax.models.image_text import l2_normalize
from mmjax.nn.config import LayersConfig
from mmjax.objectives.token_loss import TokenLoss
from mmjax.parallel import mesh as mesh_lib
from mmjax.tasks import (
    attention_kernels,
    attention_maps,
    config_queries,
    load_objective,
    modality_attention,
    per_example_losses,
    preprocessing,
    separation_data,
    synchronization,
    token_grids,
)
from mmjax.tasks.objective import BatchFeatures, Inputs, Settings, draw_keys
from mmjax.utils.random_streams import ExampleStream

Batch = dict[str, Any]  # arrays [B, ...]


DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_CALLED = "model(images, text), which makes all parameters"
_OF_TRAINING = ("init", "max_logit_scale", "modality_dropout")  # fields of a model that its module has not


class ModelOutputs:
    """A model, and what it computes without any objective; arguments as those of `Task`."""

    def __init__(
        self,
        config: RunConfig,
        image_spec: transforms.ImageSpec | None,
        tokenizer: tokenizer_lib.Tokenizer | None,
        mesh: Mesh | None,
        metadata: preprocessing.DatasetMetadata | None,
    ):
        self.config, self.mesh, self.image_spec = config, mesh, image_spec
        self.dataset_metadata = metadata or preprocessing.DatasetMetadata()
        self.weights, self.taught = load_objective.weights(config), load_objective.taught(config)
        model, dtype = config.model, DTYPES[config.precision]
        self.model_settings = {name: value for name, value in to_dict(model).items() if name not in _OF_TRAINING}
        device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
        shards = 1 if mesh is None else mesh.shape["tensor"]
        self.kernels = {
            tower: attention_kernels.choose_kernel(config, tower, device, dtype, shards)
            for tower in ("image", "text")
            if isinstance(getattr(model, tower, None), LayersConfig)
        }
        self.model = make_model.make_model(self.model_settings, dtype, self.kernels)
        self.input_specs = preprocessing.input_specs(config, image_spec, self.dataset_metadata, tokenizer)
        self.inputs = Inputs(self.input_specs, blind=config.data.blind)
        self.pairs: tuple[tuple[str, str, float], ...] = tuple(getattr(self.model, "contrasted", ()))
        self.settings = Settings(
            config.loss,
            tokenizer,
            patch_size=config_queries.patch_size(config),
            modality_dropout=model.modality_dropout,
        )

    def example(self) -> tuple[Any, ...]:
        """Arguments of a call that touches every parameter."""
        arrays = [jnp.zeros((1, *array.shape), jnp.float32) for array in self.input_specs.blank().values()]
        if isinstance(self.config.model, FusedConfig):
            names = self.input_specs.names
            return dict(zip(names, arrays, strict=True)), jnp.ones((1, len(names)), bool)
        if isinstance(self.config.model, SeparatorConfig):
            magnitudes = separation_data.mixture_spec(self.config).magnitudes_shape
            return *arrays, jnp.ones((1, *magnitudes), jnp.float32)
        if not config_queries.has_text(self.config):
            return tuple(arrays)
        return *arrays, jnp.zeros((1, config_queries.text_positions(self.config)), jnp.int32)

    def init(self, key: Key[Array, ""]) -> Any:
        """Initialises the parameters."""
        with plugin_calls.calling(registry.models, self.config.model.kind, type(self.model), _CALLED):
            params = self.model.init(key, *self.example())["params"]
        return initialisation.initialise(self.config.model.init, params, self.model_settings, key)

    @functools.cached_property
    def num_image_embeddings(self) -> int:
        """How many vectors an image has in the space that it shares with texts, of one each; 0 without such a space."""
        if "embeddings" not in self.model.serves:
            return 0
        pixels, *_ = self.example()
        params = jax.eval_shape(self.init, jax.random.key(0))
        with plugin_calls.calling(registry.models, self.config.model.kind, type(self.model), "image_embedding(images)"):
            image = jax.eval_shape(self.embed_pixels, params, pixels)
        return 1 if image.ndim == 2 else image.shape[1]

    @property
    def seen(self) -> str:
        """The modality that a model of texts sees, `image` or another."""
        return getattr(self.model, "seen", "image")

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers that a question is classified among."""
        return self.dataset_metadata.answers

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of a classifier by number; of one that does not know their names, the numbers. Else none."""
        if not isinstance(self.config.model, FusedConfig):
            return ()
        return self.dataset_metadata.class_names or tuple(map(str, range(self.config.model.classes)))

    def features(self, params: Any, batch: Batch) -> BatchFeatures:
        """Features of a batch, without noise."""
        return BatchFeatures(self.model.bind({"params": params}), batch, None, self.inputs)

    def embed_images(self, params: Any, images: Shaped[Array, "B ..."]) -> Float[Array, "B *V E"]:
        """Embeds preprocessed images, or what the model sees in their place; see `embed_modality`."""
        return self.embed_modality(params, self.seen, images)

    def embed_modality(self, params: Any, name: str, arrays: Shaped[Array, "B ..."]) -> Float[Array, "B *V E"]:
        """Embeds preprocessed arrays of a modality but text; rows have unit length.

        Of arrays [B, clips, crops, ...] the mean over clips and crops is taken, and made a unit vector again.
        """
        embed = lambda part: self._embed(params, name, self.inputs.normalize(part, name))
        if not self._has_views(name, arrays):
            return embed(arrays)
        parts = jnp.moveaxis(arrays.reshape(len(arrays), -1, *arrays.shape[3:]), 1, 0)
        mean = jax.lax.map(embed, parts).mean(axis=0)  # one after the other, with the memory of one
        return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)

    def _has_views(self, name: str, arrays: Shaped[Array, "B ..."]) -> bool:
        """Whether a batch of a modality has axes of clips and crops, see `ModalitySpec.views`."""
        shape = next((spec.shape for spec in self.input_specs.others if spec.name == name), None)
        return shape is not None and arrays.ndim == len(shape) + 3

    def embed_pixels(self, params: Any, pixels: Float[Array, "B ..."]) -> Float[Array, "B *V E"]:
        """Embeds normalised images, in several vectors where the model has queries; rows have unit length."""
        return self._embed(params, self.seen, pixels)

    def _embed(self, params: Any, name: str, pixels: Float[Array, "B ..."]) -> Float[Array, "B *V E"]:
        with mesh_lib.activation_mesh(self.mesh):
            embed = lambda model: model.embedding(name, pixels)
            embeddings = nn.apply(embed, self.model)({"params": params})
            single_query = embeddings.ndim == 3 and embeddings.shape[1] == 1
            return embeddings[:, 0] if single_query else embeddings

    def embed_text(self, params: Any, text: Int[Array, "B L"], text_mask: Bool[Array, "B L"]) -> Float[Array, "B E"]:
        """Embeds token ids; rows have unit length."""
        with mesh_lib.activation_mesh(self.mesh):
            embed = lambda model: model.text_embedding(text, text_mask)
            return nn.apply(embed, self.model)({"params": params})

    def generate(
        self,
        params: Any,
        images: Shaped[Array, "B ..."],
        prompt: Int[Array, "B P"],
        prompt_mask: Bool[Array, "B P"],
        decoding: generation.Decoding,
        keys: Key[Array, " B"] | None = None,
        *,
        ids: UInt[Array, "B 2"] | None = None,
    ) -> generation.Generated:
        """Generates text about images.

        Args:
          params: parameters.
          images: preprocessed.
          prompt: token ids that the text goes on from, the first of every text included, padded on the right.
          prompt_mask: which of them are real.
          decoding: how tokens are chosen.
          keys: one an example, for sampling.
          ids: of the examples, from which keys follow where none are given: the same ones every time.
        """
        if keys is None and ids is not None and decoding.method == "sample":
            keys = draw_keys(None, ids, ExampleStream.DRAW_CAPTION)
        with mesh_lib.activation_mesh(self.mesh):
            model = self.model.bind({"params": params})
            slots = prompt.shape[1] + decoding.max_tokens
            take = functools.partial(model.take, examples=len(images))
            seen = model.encode_image(self.inputs.normalize(images, self.seen))
            logits, carry = model.start(seen, prompt, prompt_mask, slots)
            return generation.generate(model.step, logits, carry, decoding, keys, take=take)

    def decoding(self, tokenizer: tokenizer_lib.Tokenizer) -> generation.Decoding:
        """How text is written in evaluation: the config's `decoding`."""
        settings = dataclasses.asdict(self.config.decoding)
        room = config_queries.max_new_tokens(self.config)
        settings["max_tokens"] = settings["max_tokens"] or min(tokenizer.context_length - 1, room)
        return generation.Decoding(**settings, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id)

    def caption_loss(self, params: Any, batch: Batch) -> TokenLoss:
        """The captioning objective of each example, without label smoothing: for perplexity."""
        loss = dataclasses.replace(self.config.loss, label_smoothing=0.0)
        settings = dataclasses.replace(self.settings, loss=loss)
        with mesh_lib.activation_mesh(self.mesh):
            return per_example_losses.caption(self.features(params, batch), settings)

    def answer(
        self, params: Any, images: Shaped[Array, "B ..."], text: Int[Array, "B L"], text_mask: Bool[Array, "B L"]
    ) -> Float[Array, "B A"]:
        """Scores of each answer to questions about images."""
        with mesh_lib.activation_mesh(self.mesh):
            features = self.features(params, {self.seen: images, "text": text, "text_mask": text_mask})
            return features.model.answer_logits(features.fused)

    def match(
        self, params: Any, images: Shaped[Array, "B ..."], text: Int[Array, "B L"], text_mask: Bool[Array, "B L"]
    ) -> Float[Array, " B"]:
        """How much more likely than not each text belongs to its image: a difference of logits."""
        with mesh_lib.activation_mesh(self.mesh):
            features = self.features(params, {self.seen: images, "text": text, "text_mask": text_mask})
            logits = features.model.match_logits(features.fused)
            return logits[:, 1] - logits[:, 0]

    def classify(self, params: Any, batch: Batch, present: Bool[Array, "B M"]) -> Float[Array, "B C"]:
        """Scores of each class for examples of several modalities, of which only those `present` are looked at.

        Where some have clips and crops, [B, clips, crops, ...], the scores are logarithms of the mean of probabilities.
        """
        scores = lambda part: self._call(params, part, present)
        if not any(self._has_views(name, x) for name, x in batch.items()):
            return scores(batch)
        return jnp.log(self._mean_over_views(lambda part: jax.nn.softmax(scores(part), axis=-1), batch))

    def embed_example(self, params: Any, batch: Batch, present: Bool[Array, "B M"]) -> Float[Array, "B D"]:
        """What a classifier's head reads of examples of several modalities, of unit length; see `classify`."""
        vectors = lambda part: l2_normalize(self._call(params, part, present, pooled=True))
        if not any(self._has_views(name, x) for name, x in batch.items()):
            return vectors(batch)
        return l2_normalize(self._mean_over_views(vectors, batch))

    def sync_similarities(
        self, params: Any, video: Shaped[Array, "B V S S C"], audio: Float[Array, "B T F"]
    ) -> Float[Array, "B M K"]:
        """Similarities of a clip's windows with its sound at each shift, see `synchronization.clip_similarities`."""
        with mesh_lib.activation_mesh(self.mesh):
            features = self.features(params, {"video": video, "audio": audio})
            arrays = features.arrays()
            return synchronization.clip_similarities(features.model, arrays["video"], arrays["audio"])

    def separate(
        self, params: Any, pictures: Shaped[Array, "B ..."], mixture: Float[Array, "B T F"]
    ) -> Float[Array, "B T F"]:
        """Masks, in (0, 1), of what belongs to preprocessed pictures, by the magnitudes of mixtures."""
        with mesh_lib.activation_mesh(self.mesh):
            features = self.features(params, {self.seen: pictures})
            return jax.nn.sigmoid(features.model.mask_logits(features.pixels, mixture))

    def _mean_over_views(self, function: Callable[[Batch], Float[Array, "B D"]], batch: Batch) -> Float[Array, "B D"]:
        """The mean of a function of one clip and crop of each modality; what has one goes with all of another's."""
        views = {name: x.shape[1:3] for name, x in batch.items() if self._has_views(name, x)}
        clips, crops = (max(counts) for counts in zip(*views.values(), strict=True))

        def of_view(view: Int[Array, ""]) -> Float[Array, "B D"]:
            indices = {name: (view // crops % of[0], view % crops % of[1]) for name, of in views.items()}
            part = {name: batch[name][:, *indices[name]] if name in views else batch[name] for name in batch}
            return function(part)

        return jax.lax.map(of_view, jnp.arange(clips * crops)).mean(axis=0)

    def _call(self, params: Any, batch: Batch, present: Bool[Array, "B M"], **options: Any) -> Float[Array, "B _"]:
        """What the model gives for one clip and crop of each modality."""
        with mesh_lib.activation_mesh(self.mesh):
            features = self.features(params, batch)
            return features.model(features.arrays(), present, **options)

    @functools.cached_property
    def available_attention_maps(self) -> tuple[str, ...]:
        """Attention maps that the model gives, see `attention_maps.available_maps`.

        None where it sees neither images nor, by an encoder whose tokens have places, videos or sounds.
        """
        encoder = getattr(self.config.model, self.seen, None)
        has_grid = token_grids.input_grid(encoder) is not None
        # A convolutional tower has no attention.
        has_attention = has_grid or (self.seen == "image" and not isinstance(encoder, ConvEncoderConfig))
        is_shown = has_attention and not self.config.data.blind
        return attention_maps.available_maps(self.model, self.taught) if is_shown else ()

    @functools.cached_property
    def shown_modalities(self) -> tuple[str, ...]:
        """Modalities of a classifier in which `modality_attention` says where it looks."""
        return () if self.config.data.blind else modality_attention.shown_modalities(self.config.model)

    def modality_attention(self, params: Any, batch: Batch, present: Bool[Array, "B M"]) -> dict[str, dict[str, Array]]:
        """Where a classifier looks in each of `shown_modalities`, see `modality_attention.modality_attention`."""
        with mesh_lib.activation_mesh(self.mesh):
            arrays = self.features(params, batch).arrays()
            return modality_attention.modality_attention(self.model, params, arrays, present, self.shown_modalities)

    def attention_maps(
        self,
        params: Any,
        images: Shaped[Array, "B ..."],
        texts: Int[Array, "B K L"],
        texts_mask: Bool[Array, "B K L"],
        words: Int[Array, "B L"],
        words_mask: Bool[Array, "B L"],
    ) -> dict[str, Array]:
        """All that `available_attention_maps` names, see `attention_maps.attention_maps`."""
        with mesh_lib.activation_mesh(self.mesh):
            pixels = self.inputs.normalize(images, self.seen)
            return attention_maps.attention_maps(
                self.model, params, pixels, texts, texts_mask, words, words_mask, self.available_attention_maps
            )
