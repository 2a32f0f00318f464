"""A restored model with methods to embed, caption, answer, match and classify; what `mmjax.load` returns."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32

from mmjax import tasks
from mmjax.config.typed_groups import to_dict
from mmjax.data.loading.inputs import ModalitySpec
from mmjax.data.loading.modality_transform import ModalityTransform
from mmjax.data.loading.question_transforms import AnswerTransform
from mmjax.errors import UserError
from mmjax.evaluation.evaluators import zero_shot as zero_shot_lib
from mmjax.inference import classifier_inputs, inputs, modality_inputs, prompts, transcription
from mmjax.inference import windows as windows_lib
from mmjax.inference.separation import SeparatingModel
from mmjax.inference.sync_offset import SynchronizingModel
from mmjax.models import generation
from mmjax.models.config import ContrastConfig
from mmjax.models.fusion.config import AloneConfig, FusedConfig
from mmjax.tasks import config_queries

TEMPLATES = ("a photo of a {c}.",)


class Model(SeparatingModel, SynchronizingModel):
    """A restored model, on one device or over a mesh; its methods depend on what it was trained for, see `can`.

    Made by `load` and `create_model`; what is not listed is as in `RestoredModel`.
    """

    def __init__(self, task: tasks.Task, params: Any, *args: Any, **options: Any):
        super().__init__(task, params, *args, **options)
        self._embed_bytes = jax.jit(task.embed_images)
        self._embed_pixels = jax.jit(task.embed_pixels)
        self._embed_text = jax.jit(task.embed_text)
        embed_modality = lambda name, params, arrays: task.embed_modality(params, name, arrays)
        self._embed_modality = jax.jit(embed_modality, static_argnums=0)
        self._generate = jax.jit(functools.partial(_generate, task), static_argnums=0)
        self._classify = jax.jit(functools.partial(_classify, task), static_argnums=0)
        self._answer = jax.jit(lambda *args: jnp.argmax(task.answer(*args), axis=1))
        self._match = jax.jit(lambda *args: jax.nn.sigmoid(task.match(*args)))

    # -- embedding -----------------------------------------------------------------------------------------------------

    def encode_image(self, images: Any) -> Float32[np.ndarray, "B E"]:
        """Embeds images; rows have unit length.

        Args:
          images: paths, files' bytes, PIL images or uint8 arrays [H, W, 3] of any size (a list, one alone, or an array
            [B, H, W, 3]), to be resized and normalised as the model wants; or floats that already are, as `preprocess`
            makes them, see `inputs.to_images`.

        Raises:
          UserError: of another kind, or preprocessed to another size; or the model embeds no images.
        """
        self._check("encode_image")
        parts = [self._no_embeddings()]
        for pixels in inputs.image_batches(images, self._images, self.batch_size):
            embeddings = self._run(self._embed_bytes if pixels.dtype == np.uint8 else self._embed_pixels, (pixels,))
            parts += [] if embeddings is None else [embeddings.astype(np.float32)]
        return np.concatenate(parts)

    def encode_video(
        self, videos: Any, *, rate: float | None = None, clips: int | None = None, crops: int | None = None
    ) -> Float32[np.ndarray, "B E"]:
        """Embeds videos; rows have unit length.

        Args:
          videos: a list of paths, of files as bytes, or of frames uint8 [T, H, W, 3] of any number and size.
          rate: of frames, a second.
          clips, crops: of a video, over which the mean is taken; the run's `eval.video` where they are None.

        Raises:
          UserError: one cannot be decoded; or the model embeds no videos.
        """
        return self._encode_modality("video", videos, rate, clips=clips, crops=crops)

    def encode_audio(
        self, sounds: Any, *, rate: float | None = None, clips: int | None = None
    ) -> Float32[np.ndarray, "B E"]:
        """Embeds sounds; rows have unit length.

        Args:
          sounds: a list of paths, of files as bytes, or of samples float32 [N] in [-1, 1].
          rate: of samples, in Hz.
          clips: windows of a long sound, over which the mean is taken; the run's `eval.audio` where it is None.

        Raises:
          UserError: one cannot be decoded; or the model embeds no sounds.
        """
        return self._encode_modality("audio", sounds, rate, clips=clips)

    def encode_series(self, series: Any) -> Float32[np.ndarray, "B E"]:
        """Embeds time series, a list of arrays [steps, channels]; rows have unit length. Errors as `encode_audio`."""
        return self._encode_modality("series", series)

    def encode_table(self, rows: Any) -> Float32[np.ndarray, "B E"]:
        """Embeds rows of a table, a list of arrays [columns]; rows have unit length. Errors as `encode_audio`."""
        return self._encode_modality("table", rows)

    def _encode_modality(
        self, name: str, values: Any, rate: float | None = None, **views: int | None
    ) -> Float32[np.ndarray, "B E"]:
        self._check(f"encode_{name}")
        specs = modality_inputs.specs_in_views(self._task, name, views)
        spec = next(spec for spec in specs.others if spec.name == name)
        arrays = modality_inputs.to_arrays(values, spec, rate)
        embeddings = self._run(functools.partial(self._embed_modality, name), (arrays,))
        return self._no_embeddings() if embeddings is None else embeddings.astype(np.float32)

    def _spec(self, name: str) -> ModalitySpec:
        """How a modality beside images is prepared."""
        return next(spec for spec in self._task.input_specs.others if spec.name == name)

    def encode_text(self, texts: Any) -> Float32[np.ndarray, "B E"]:
        """Embeds texts; rows have unit length.

        Args:
          texts: strings, or an integer array [B, L] of token ids with L at most the model's context length; a tensor of
            PyTorch or the `input_ids` of a tokenizer's output do as well.

        Raises:
          UserError: strings without a known tokenizer, or ids that the model does not have; or it embeds no texts.
        """
        self._check("encode_text")
        texts = inputs.to_texts(texts)
        if isinstance(texts, list) and not texts:
            return self._no_embeddings()
        text = config_queries.text_config(self.config)
        columns = self.tokenize.with_mask(texts) if isinstance(texts, list) else inputs.to_token_ids(texts, text)
        embeddings = self._run(self._embed_text, columns)
        return self._no_embeddings() if embeddings is None else embeddings.astype(np.float32)

    def similarity(self, images: Any, texts: Any) -> Float32[np.ndarray, "B C"]:
        """Cosine similarities of images and texts; times `logit_scale`, plus `logit_bias`, they are logits.

        Args:
          images: see `encode_image`; of a model with another slot, what that slot's method takes.
          texts: see `encode_text`.

        Raises:
          UserError: see both.
        """
        return self._embed_seen(images) @ self.encode_text(texts).T

    def _no_embeddings(self) -> np.ndarray:
        model = self.config.model
        if isinstance(model, FusedConfig) and isinstance(model.fusion, AloneConfig):
            (encoder,) = to_dict(model)["encoders"].values()
            width = encoder["width"] * (1 + (model.fusion.pool == "cls_mean"))
            return np.zeros((0, model.fusion.projection or width), np.float32)
        if not isinstance(model, ContrastConfig):
            raise TypeError(f"model.kind={model.kind!r} embeds nothing")
        return np.zeros((0, model.embed_dim), np.float32)

    def zero_shot(
        self,
        images: Any,
        class_names: str | Iterable[str] | Float32[np.ndarray, "C E"],
        templates: inputs.Templates = TEMPLATES,
    ) -> Float32[np.ndarray, "B C"]:
        """Classifies images by names of classes; the most probable class is the prediction.

        Args:
          images: see `encode_image`.
          class_names: C names; one alone is a string. Or what `zero_shot_classifier` made of them, for many calls.
          templates: prompts with `{c}` (or `{}`) where the name belongs, functions of a name as open_clip has them, or
            a dictionary of each class's own prompts; a class is the mean of its prompts' embeddings.

        Returns:
          Probabilities: over the classes (softmax) or, for a model with a bias, of each class by itself (sigmoid).

        Raises:
          UserError: see `encode_image`.
        """
        self._check("zero_shot")
        weights = (
            class_names
            if isinstance(class_names, np.ndarray) and class_names.dtype.kind == "f"
            else self.zero_shot_classifier(class_names, templates)
        )
        logits = self.logit_scale * (self._embed_seen(images) @ weights.T)
        if self.logit_bias is not None:
            return np.asarray(jax.nn.sigmoid(logits + self.logit_bias))
        return np.asarray(jax.nn.softmax(logits, axis=-1))

    def zero_shot_classifier(
        self, class_names: str | Iterable[str], templates: inputs.Templates = TEMPLATES
    ) -> Float32[np.ndarray, "C E"]:
        """The embedding of each class, for `zero_shot` of many batches; arguments and errors as there."""
        self._check("zero_shot")
        if isinstance(class_names, Mapping):
            raise UserError(
                f"class_names={str(class_names)[:60]}: give a list of strings; prompts by class are for templates="
            )
        names = inputs.to_strings("class_names", class_names)
        return zero_shot_lib.zero_shot_weights(self.encode_text, names, inputs.to_templates(templates, names))

    def _embed_seen(self, images: Any) -> Float32[np.ndarray, "B E"]:
        """Embeds images, or what the model sees in their place."""
        seen = self._task.seen
        return self.encode_image(images) if seen == "image" else self._encode_modality(seen, images)

    # -- image and text together ---------------------------------------------------------------------------------------

    def caption(
        self,
        images: Any,
        prompt: Any = "",
        *,
        rate: float | None = None,
        windows: float | None = None,
        seed: int = 0,
        **decoding: Any,
    ) -> Any:
        """Writes a text about each image, or about what the model sees in its place.

        Args:
          images: PIL images or uint8 arrays, as `encode_image` takes them; videos and sounds as `encode_video` and
            `encode_audio` take them.
          prompt: what every text begins with, or a string for each image; it is not part of the result. The run's
            `data.caption_prompt` stands before it.
          rate: of frames or samples that are arrays, a second.
          windows: seconds; write about each window of a video or a sound, of which there are as few equal ones as are
            not longer than that.
          seed: of sampling; image i's text depends on it and on i.
          **decoding: fields of `mmjax.models.generation.Decoding` in place of the run's `config.decoding`, such as
            `method="beam", beams=3` or `method="sample", temperature=0.7`.

        Returns:
          A text for each; with `windows` a list for each, of `CaptionedWindow`s: start and end in seconds, and text.

        Raises:
          UserError: of another kind; or the model writes no captions.
        """
        self._check("caption")
        if windows is not None:
            write = lambda arrays, prompts: self._caption(arrays, prompts, seed, decoding)
            return windows_lib.caption_windows(write, self._task, images, prompt, windows, rate)
        return self._caption(self._to_pictures("caption", images, rate), prompt, seed, decoding)

    def _caption(self, pictures: np.ndarray, prompt: Any, seed: int, decoding: Mapping[str, Any]) -> list[str]:
        texts = inputs.broadcast_texts("prompt", prompt, len(pictures))
        ids, mask = inputs.to_prompts(prompts.behind_template(self.config.data.caption_prompt, texts), self._words)
        prompts.check_images_in_texts("prompt", ids, self.config)
        default = self._task.decoding(self._words)
        chosen = inputs.to_decoding(default, ids.shape[1], config_queries.text_positions(self.config), decoding)
        return self._generate_texts(chosen, pictures, ids, mask, seed)

    def transcribe(
        self, sounds: Any, *, rate: float | None = None, timestamps: bool = False, seed: int = 0, **options: Any
    ) -> Any:
        """Writes what is spoken in sounds of any length; long ones are cut at pauses, see `transcription.transcribe`.

        Args:
          sounds: a list of paths (of videos, too), of files as bytes, or of samples float32 [N] in [-1, 1].
          rate: of samples, in Hz.
          timestamps: give the `transcription.Segment`s of each sound, with `start` and `end` in seconds.
          seed: as of `caption`.
          **options: `task` and `language`, where the run's `data.caption_prompt` names them (`task` is `transcribe` by
            default), and fields of `Decoding` as of `caption`.

        Raises:
          UserError: a sound cannot be read; or the model writes nothing about sounds.
        """
        self._check("transcribe")
        prompt, chosen = prompts.of_transcripts(self._task, self._words, options)

        def write(arrays: np.ndarray, first: int) -> list[str]:
            ids = np.tile(np.array(prompt, np.int32), (len(arrays), 1))
            return self._generate_texts(chosen, arrays, ids, np.ones(ids.shape, bool), seed, first)

        spec: Any = self._spec("audio").decoder
        segments = transcription.transcribe(sounds, spec, write, rate=rate, batch_size=self.batch_size)
        return segments if timestamps else [transcription.join(parts) for parts in segments]

    def answer(self, images: Any, questions: Any, *, rate: float | None = None) -> list[str]:
        """Answers questions about images: the likeliest of `answers`, or in the model's own words.

        Args:
          images: what `caption` takes.
          questions: a string for each image, or one for all of them.
          rate: of frames or samples that are arrays, a second.

        Raises:
          UserError: of another kind; or the model answers no questions.
        """
        self._check("answer")
        pictures = self._to_pictures("answer", images, rate)
        questions = inputs.broadcast_texts("questions", questions, len(pictures))
        if not questions:
            return []
        if "answers" in self._task.taught:
            indices = self._run(self._answer, (pictures, *self.tokenize.with_mask(questions)))
            return [] if indices is None else [self.answers[index] for index in indices.tolist()]
        template = self.config.data.question_template
        example_transform = AnswerTransform(self._task.input_specs, self._words, template)
        prompts.check_questions(questions, example_transform)
        ids, mask = (np.stack(column) for column in zip(*map(example_transform.prompt, questions), strict=True))
        prompts.check_images_in_texts("questions", ids, self.config)
        longest = int(mask.any(axis=0).sum())  # prompts are padded on the right
        ids, mask = ids[:, :longest], mask[:, :longest]
        return self._generate_texts(self._task.decoding(self._words), pictures, ids, mask, 0)

    def match(self, images: Any, texts: Any) -> Float32[np.ndarray, " B"]:
        """The probabilities that texts belong to images.

        Args:
          images: PIL images or uint8 arrays, as `encode_image` takes them.
          texts: a string for each image, or one for all of them.

        Returns:
          Probabilities that they belong together.

        Raises:
          UserError: of another kind; or the model was not trained to match.
        """
        self._check("match")
        pictures = self._to_pictures("match", images)
        texts = inputs.broadcast_texts("texts", texts, len(pictures))
        matches = self._run(self._match, (pictures, *self.tokenize.with_mask(texts))) if texts else None
        return np.zeros(0, np.float32) if matches is None else matches.astype(np.float32)

    def classify(
        self,
        modalities: Any,
        present: Bool[np.ndarray, "B M"] | None = None,
        *,
        rates: Mapping[str, float] | None = None,
        top: int = 0,
    ) -> Any:
        """Classifies examples of one modality or several.

        Args:
          modalities: lists by name, or arrays [B, ...]: of paths, of files as bytes, of images or arrays, with None
            where an example lacks it; what is left out is missing from all. Of a model of one modality the list alone.
          present: which of all modalities, in sorted order of name, each example has; None: those that are given.
          rates: of raw frames or samples a second, by name.
          top: give the names of so many classes, and not the probabilities of all.

        Returns:
          Probabilities of the classes, float32 [B, C], which are called as `class_names` says; with `top` a list an
          example, of (name, probability), the likeliest first.

        Raises:
          UserError: another name or shape, or an example without any; or the model classifies no modalities.
        """
        self._check("classify")
        model, transform = self.config.model, self._task.example_transform
        if not isinstance(model, FusedConfig) or not isinstance(transform, ModalityTransform):
            raise TypeError(f"model.kind={model.kind!r} has no modalities")
        specs = modality_inputs.specs_in_views(self._task)
        batch, present = classifier_inputs.to_modalities(modalities, present, transform.names, specs, rates)
        keys = sorted(batch)
        columns = (*(batch[key] for key in keys), present)
        classes = self._run(functools.partial(self._classify, tuple(keys)), columns) if keys else None
        scores = np.zeros((0, model.classes), np.float32) if classes is None else classes.astype(np.float32)
        return classifier_inputs.likeliest(scores, self.class_names, top) if top else scores

    def _to_pictures(self, method: str, images: Any, rate: float | None = None) -> np.ndarray:
        """What the model sees: images, or the modality that takes their place."""
        modality_inputs.check_kinds(images, self._task.seen)
        if self._task.seen != "image":
            return modality_inputs.to_arrays(images, self._spec(self._task.seen), rate)
        if rate is not None:
            raise UserError(f"{method}: rate={rate} is of videos and sounds, and this model sees images")
        pictures = inputs.to_images(images, self._images)
        if pictures.dtype != np.uint8:
            raise UserError(f"{method}: images of floats are for encode_image; give PIL images or uint8 arrays")
        return pictures

    def _generate_texts(
        self, decoding: generation.Decoding, pictures, ids, mask, seed: int, first: int = 0
    ) -> list[str]:
        prompts.check_seed(seed)
        numbers = first + np.arange(len(pictures))
        seeds = np.stack([np.full(len(pictures), seed), numbers], axis=1)
        columns = (pictures, ids, mask, seeds.astype(np.uint32))
        tokens = self._run(functools.partial(self._generate, decoding), columns)
        return [] if tokens is None else [self._words.decode(row) for row in tokens.tolist()]


def _generate(task: tasks.Task, decoding: generation.Decoding, params, images, ids, mask, seeds) -> jax.Array:
    """The tokens that a task writes; `seeds` uint32 [B, 2] are the examples'."""
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed[0]), seed[1]))(seeds)
    return task.generate(params, images, ids, mask, decoding, keys).tokens


def _classify(task: tasks.Task, keys: tuple[str, ...], params, *columns) -> jax.Array:
    """Probabilities of the classes; columns are the modalities by `keys`, and which are present."""
    *values, present = columns
    return jax.nn.softmax(task.classify(params, dict(zip(keys, values, strict=True)), present), axis=-1)
