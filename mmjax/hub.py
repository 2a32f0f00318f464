"""`mmjax.load(PATH)`: a restored model that a person can call."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, Sharding, SingleDeviceSharding
from jaxtyping import Float32
from PIL import Image, ImageOps

from mmjax import config as config_lib
from mmjax import storage, tasks
from mmjax.data import images as image_lib
from mmjax.data import tokenizers
from mmjax.errors import UserError
from mmjax.evaluation import zero_shot as zero_shot_lib
from mmjax.interop import configs, source, translate
from mmjax.nn import embed
from mmjax.parallel import arrays, partition
from mmjax.parallel import mesh as mesh_lib
from mmjax.training import checkpoint

TEMPLATES = ("a photo of a {c}.",)
_POSITIONS = "image/position_embedding"


class Model:
    """An image tower, a text tower and the scale of their similarities, on one device or over a mesh.

    Made by `load`. Inputs are taken in batches, filled up to a power of two, so that few shapes are compiled.

    Args:
      config: as of a run; `config.model` are the model's settings.
      params: its parameters.
      image_spec: how images are prepared.
      make_tokenizer: makes the tokenizer when the first string comes; raises `UserError` where there is none.
      batch_size: rows embedded at a time.
      mesh: over which `params` lie, and batches are spread; every process of it makes the same calls.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        params: Any,
        image_spec: image_lib.ImageSpec,
        make_tokenizer: Callable[[], tokenizers.Tokenizer],
        *,
        batch_size: int = 64,
        mesh: Mesh | None = None,
    ):
        self.config, self.params, self.image_spec, self.batch_size = config, params, image_spec, batch_size
        self.mesh = mesh
        self._make_tokenizer, self._tokenizer = make_tokenizer, None
        self._task = task = tasks.Task(config, image_spec, mesh=mesh)
        self._embed_bytes = jax.jit(task.embed_images)
        self._embed_pixels = jax.jit(task.embed_pixels)
        self._embed_text = jax.jit(task.embed_text)

    @property
    def logit_scale(self) -> float:
        """What cosine similarities are multiplied with (not its logarithm)."""
        return float(np.exp(np.asarray(self.params["logit_scale"], np.float32)))

    @property
    def logit_bias(self) -> float | None:
        """What is added to scaled similarities (SigLIP), or None."""
        return float(self.params["logit_bias"]) if "logit_bias" in self.params else None

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The model's tokenizer.

        Raises:
          UserError: none is known.
        """
        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
        return self._tokenizer

    def encode_image(self, images: Any) -> Float32[np.ndarray, "B E"]:
        """Embeds images; rows have unit length.

        Args:
          images: PIL images or uint8 arrays [H, W, 3] of any size (a list, or one array [B, H, W, 3]), to be resized
            and normalised as the model wants; or a float array [B, H, W, 3] that already is.

        Raises:
          UserError: of another kind, or preprocessed to another size.
        """
        if isinstance(images, Image.Image):
            images = [images]
        is_array = hasattr(images, "dtype") and hasattr(images, "shape")
        if is_array and jnp.issubdtype(images.dtype, jnp.floating):
            size = self.image_spec.size
            if images.ndim != 4 or tuple(images.shape[1:]) != (size, size, 3):
                raise UserError(
                    f"images of shape {list(images.shape)}: floats are taken as preprocessed, [B, {size}, {size}, 3];"
                    " load the model with image_size= for another size"
                )
            return self._run(self._embed_pixels, (np.asarray(images, np.float32),))
        if is_array and images.ndim == 3:
            images = [images]
        prepared = [self._prepare(image) for image in images]
        size = self.image_spec.size
        return self._run(
            self._embed_bytes, (np.stack(prepared) if prepared else np.zeros((0, size, size, 3), np.uint8),)
        )

    def _prepare(self, image: Any) -> np.ndarray:
        if isinstance(image, Image.Image):
            decoded = _to_rgb(image)
        else:
            try:
                decoded = image_lib.decode(np.asarray(image))
            except image_lib.BadExample as error:
                raise UserError(f"images: {error}; give PIL images, uint8 arrays [H, W, 3] or floats") from error
        return image_lib.eval_transform(decoded, self.image_spec)

    def encode_text(self, texts: Any) -> Float32[np.ndarray, "B E"]:
        """Embeds texts; rows have unit length.

        Args:
          texts: strings, or an integer array [B, L] of token ids with L at most the model's context length.

        Raises:
          UserError: strings without a known tokenizer, or ids that the model does not have.
        """
        if isinstance(texts, str):
            texts = [texts]
        if not len(texts):
            return np.zeros((0, self.config.model.embed_dim), np.float32)
        if all(isinstance(text, str) for text in texts):
            return self._run(self._embed_text, self.tokenizer(list(texts)))
        ids, text = np.asarray(texts), self.config.model.text
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or ids.shape[1] > text.context_length:
            raise UserError(
                f"texts of type {ids.dtype} and shape {list(ids.shape)}: give strings, or ids [B, L] with L at most"
                f" {text.context_length}"
            )
        if ids.size and not 0 <= ids.min() <= ids.max() < text.vocab_size:
            raise UserError(f"texts: ids from {ids.min()} to {ids.max()}; the model has 0 to {text.vocab_size - 1}")
        return self._run(self._embed_text, (ids.astype(np.int32), self._mask(ids)))

    def _mask(self, ids: np.ndarray) -> np.ndarray:
        """Real tokens are those up to the first end-of-text id; all are, where there is none."""
        is_end = ids == self.config.model.text.eos_id
        end = np.where(is_end.any(axis=1), is_end.argmax(axis=1), ids.shape[1])
        return np.arange(ids.shape[1]) <= end[:, None]

    def zero_shot(
        self, images: Any, class_names: Sequence[str], templates: Sequence[str] = TEMPLATES
    ) -> Float32[np.ndarray, "B C"]:
        """Classifies images by names of classes; the most probable class is the prediction.

        Args:
          images: see `encode_image`.
          class_names: C names.
          templates: prompts with `{c}` where the name belongs; a class is the mean of its prompts' embeddings.

        Returns:
          Probabilities: over the classes (softmax) or, for a model with a bias, of each class by itself (sigmoid).
        """
        weights = zero_shot_lib.zero_shot_weights(self.encode_text, list(class_names), list(templates))
        logits = self.logit_scale * (self.encode_image(images) @ weights.T)
        if self.logit_bias is not None:
            return np.asarray(jax.nn.sigmoid(logits + self.logit_bias))
        return np.asarray(jax.nn.softmax(logits, axis=-1))

    def _run(self, function: Any, columns: tuple[np.ndarray, ...]) -> np.ndarray:
        """Runs batches of the next power of two of rows; the last row is repeated to fill one up.

        Over a mesh a batch also divides over its devices.
        """
        unit = 1 if self.mesh is None else mesh_lib.batch_devices(self.mesh)
        total, parts = len(columns[0]), []
        for start in range(0, total, self.batch_size):
            rows = [column[start : start + self.batch_size] for column in columns]
            count = len(rows[0])
            filled = -(-min(self.batch_size, 1 << (count - 1).bit_length()) // unit) * unit
            rows = [np.concatenate([x, np.repeat(x[-1:], filled - count, axis=0)]) for x in rows]
            if self.mesh is not None:
                own = mesh_lib.local_rows(self.mesh, filled)
                rows = arrays.to_global(self.mesh, [x[own] for x in rows])
            parts.append(np.asarray(arrays.to_host(function(self.params, *rows)), np.float32)[:count])
        return np.concatenate(parts) if parts else np.zeros((0, self.config.model.embed_dim), np.float32)


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        raise UserError(f"images: a PIL image of mode {image.mode!r} has no defined range; convert it to RGB first")
    return image.convert("RGBA").convert("RGB") if image.mode in ("P", "PA") else image.convert("RGB")


def load(
    path: Any,
    *,
    step: int | None = None,
    image_size: int | None = None,
    tokenizer: str | None = None,
    precision: str | None = None,
    batch_size: int = 64,
    mesh: Mesh | None = None,
    **settings: Any,
) -> Model:
    """Loads a model, onto one device or over a mesh, from wherever it comes.

    Args:
      path: a workdir; a file or folder in OpenCLIP's (and OpenAI's), Hugging Face's or big_vision's format; or
        `hf-hub:NAME`, which needs the package huggingface_hub.
      step: checkpoint of a workdir; the latest by default.
      image_size: side of the images in pixels, where it is to be another one: position embeddings are resampled.
      tokenizer: as `data.tokenizer` has it, such as `sentencepiece:FILE`, where none lies beside the weights.
      precision: compute type of the towers, `float32` or `bfloat16`; a run's own, and else float32.
      batch_size: rows embedded at a time.
      mesh: of `mmjax.parallel.mesh.make_mesh`: the partition rules place every array as it is read, and no device
        holds all of a model that is too large for it.
      **settings: what the files of another library do not tell, such as `activation="quick_gelu"`; for one tower,
        `**{"image.heads": 16}`.

    Raises:
      UserError: nothing there, damaged, of another kind of model, or not enough told.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1")
    opened = open_path(path, step=step, tokenizer=tokenizer, settings=settings)
    config, preprocessing = opened.config, dict(opened.preprocessing)
    params = opened.read(shardings(opened.shapes, config, mesh))
    image = config.model.image
    if image_size is not None and image_size != image.image_size:
        if type(image_size) is not int or image_size < image.patch_size or image_size % image.patch_size:
            raise UserError(
                f"image_size={image_size} is not a multiple of the model's patches of {image.patch_size} pixels"
            )
        old, new = (side // image.patch_size for side in (image.image_size, image_size))
        table = params["image"]["position_embedding"]
        table = embed.resample_positions(table, (old, old), (new, new), prefix=int(image.class_token))
        places = shardings({**opened.shapes, _POSITIONS: table.shape}, config, mesh)
        table = jax.device_put(table, places[_POSITIONS])
        params = params | {"image": params["image"] | {"position_embedding": table}}
        image.image_size = preprocessing["size"] = image_size
    if precision is not None:
        config.precision = precision
    spec = image_lib.ImageSpec(**preprocessing)
    return Model(config, params, spec, opened.make_tokenizer, batch_size=batch_size, mesh=mesh)


@dataclasses.dataclass(frozen=True)
class Opened:
    """A model of which no parameter has been read.

    Attributes:
      config: as of a run; may be changed before the parameters are read.
      preprocessing: fields of `data.images.ImageSpec`.
      shapes: of the parameters, by path.
      make_tokenizer: see `Model`.
      read: shardings by path -> parameters, each read straight to its place.
    """

    config: ml_collections.ConfigDict
    preprocessing: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    make_tokenizer: Callable[[], tokenizers.Tokenizer]
    read: Callable[[Mapping[str, Sharding]], Any]


def open_path(
    path: Any, *, step: int | None = None, tokenizer: str | None = None, settings: Mapping[str, Any] | None = None
) -> Opened:
    """Opens what `load` reads; arguments and errors as there."""
    if path is None or not isinstance(path, str | os.PathLike):
        raise UserError(f"path={path!r}: give a workdir, a file or folder of weights, or hf-hub:NAME")
    if is_workdir(path):
        if settings:
            raise UserError(f"{next(iter(settings))}: the run in {path} has its own config; load it without")
        return _open_workdir(path, step, tokenizer)
    if step is not None:
        raise UserError(f"step={step}: {path} is not the workdir of a run")
    opened = source.open_source(path, settings)
    config = configs.make_config(opened)
    if tokenizer is not None:
        config.data.tokenizer = tokenizer

    def make_tokenizer():
        if config.data.tokenizer == configs.NO_TOKENIZER:
            raise UserError(
                f"{opened.path}: no tokenizer lies beside it, so give token ids, or its file:"
                ' mmjax.load(path, tokenizer="sentencepiece:FILE") or "json:FILE", the flag --tokenizer=... of mmjax'
                " eval and search"
            )
        return tasks.make_tokenizer(config)

    def read(places):
        def place(name, array):
            # Each device takes its part; a file that is mapped into memory is read no further.
            return jax.make_array_from_callback(array.shape, places[name], lambda index: array[index])

        return translate.nested(opened.read(place))

    return Opened(config, opened.preprocessing, opened.shapes, make_tokenizer, read)


def shardings(
    shapes: Mapping[str, tuple[int, ...]], config: ml_collections.ConfigDict, mesh: Mesh | None
) -> dict[str, Sharding]:
    """Where parameters belong, by path: by the partition rules of `config.mesh`, or on one device without a mesh."""
    if mesh is None:
        return dict.fromkeys(shapes, SingleDeviceSharding(jax.local_devices()[0]))
    tree = translate.nested({name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()})
    placed, _ = partition.param_shardings(tree, mesh, preset=config.mesh.sharding, rules=config.mesh.rules)
    return translate.flattened(placed)


def is_workdir(path: Any) -> bool:
    """Whether there are a run's checkpoints."""
    return not str(path).startswith(source.HUB) and (storage.as_path(path) / "checkpoints").is_dir()


def open_step(path: Any, step: int | None, field: str = "step") -> tuple[checkpoint.Checkpoints, int, dict[str, Any]]:
    """Opens a workdir at a step, or at the latest; to be closed by the caller. Also returns what meta.json says.

    Raises:
      UserError: there is no such checkpoint, naming `field`.
    """
    checkpoints = checkpoint.Checkpoints(storage.as_path(path) / "checkpoints", read_only=True)
    steps = checkpoints.all_steps()
    if not steps:
        raise UserError(f"{path}: no complete checkpoint in {checkpoints.folder}; train until one has been saved")
    if step is not None and step not in steps:
        raise UserError(f"{field}={step}: there is no such checkpoint; there are {', '.join(map(str, steps))}")
    step = steps[-1] if step is None else step
    return checkpoints, step, checkpoints.read_meta(step)


def _open_workdir(path: Any, step: int | None, tokenizer: str | None) -> Opened:
    """Opens a run's parameters: the moving average, where there is one."""
    checkpoints, step, meta = open_step(path, step)
    checkpoints.close()
    config = config_lib.from_json(json.dumps(meta["config"]))
    shapes = translate.param_shapes(config.model.to_dict())
    file = checkpoint.tokenizer_file(meta)
    if tokenizer is not None:
        config.data.tokenizer, file = tokenizer, None

    def read(places):
        target = {
            name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=places[name]) for name, shape in shapes.items()
        }
        again, _, _ = open_step(path, step)
        try:
            return again.restore_params(step, translate.nested(target))
        finally:
            again.close()

    return Opened(config, meta["preprocessing"], shapes, lambda: tasks.make_tokenizer(config, file=file), read)


def read_workdir(
    path: Any, step: int | None, field: str = "step"
) -> tuple[ml_collections.ConfigDict, dict[str, Any], Any]:
    """Reads config, meta.json and parameters (the moving average, where there is one) of a run, onto one device."""
    checkpoints, step, meta = open_step(path, step, field)
    checkpoints.close()
    opened = _open_workdir(path, step, None)
    return opened.config, meta, opened.read(shardings(opened.shapes, opened.config, None))
