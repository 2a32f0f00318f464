"""`mmjax.load` and `mmjax.create_model`: a callable model from a workdir, another library's weights, or a name."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax import plugin_imports, tasks
from mmjax.errors import UserError, validate_choice
from mmjax.inference import checkpoint_source
from mmjax.inference.model import Model
from mmjax.interop import named_models
from mmjax.models.config import ImageTextConfig
from mmjax.models.fusion.config import FusedConfig, ImageSizeConfig
from mmjax.models.image_config import CONV_STRIDE, ConvEncoderConfig, PatchesConfig, StreamConfig
from mmjax.nn import positions
from mmjax.parallel import partition
from mmjax.tasks import capabilities

_LONE_POSITIONS = "encoder_image/position_embedding"
_POSITIONS, _POOL_POSITIONS = "image/position_embedding", "image_head/attention/position_embedding"
_MAX_SIDE = 16_384  # pixels


def load(
    path: Any,
    *,
    step: int | None = None,
    image_size: int | None = None,
    tokenizer: str | None = None,
    precision: str | None = None,
    batch_size: int = 64,
    mesh: Mesh | None = None,
    plugins: Sequence[str] = (),
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
      batch_size: rows at a time.
      mesh: of `mmjax.parallel.make_mesh`: the partition rules place every array as it is read, and no device
        holds all of a model that is too large for it.
      plugins: modules of others that register what the model was made with; a checkpoint imports none by itself.
      **settings: those that the files of another library do not hold, such as `activation="quick_gelu"`; for one tower,
        `**{"image.heads": 16}`.

    Raises:
      UserError: the path is missing, damaged or of another kind of model, or a setting is missing.
    """
    _check_options(batch_size, precision, tokenizer, mesh)
    plugin_imports.import_plugins(plugins)
    checkpoint = checkpoint_source.open_checkpoint(path, step=step, tokenizer=tokenizer, settings=settings)
    return _make_model(checkpoint, str(path), image_size, precision, batch_size, mesh)


def create_model(
    name: str,
    weights: Any = None,
    *,
    seed: int = 0,
    image_size: int | None = None,
    tokenizer: str | None = None,
    precision: str | None = None,
    batch_size: int = 64,
    mesh: Mesh | None = None,
) -> Model:
    """Creates a model by OpenCLIP's name of it, such as `ViT-B-32`; `mmjax.list_models` has the names.

    Args:
      name: of the model.
      weights: a path, as `load` takes it, to the weights of a model of this name; what no file beside them says is
        taken from the name. None: fresh parameters, drawn as training draws them.
      seed: of fresh parameters.
      image_size, tokenizer, precision, batch_size, mesh: as of `load`.

    Raises:
      UserError: there is no such model, or the weights are of another one; else as `load`.
    """
    _check_options(batch_size, precision, tokenizer, mesh)
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise UserError(f"seed={seed!r}: give an integer from 0 to 2**32 - 1")
    named = named_models.find(name)
    if weights is None:
        checkpoint, source = checkpoint_source.UntrainedModel(named, seed, tokenizer), f"fresh parameters, seed {seed}"
    else:
        checkpoint = checkpoint_source.open_checkpoint(weights, tokenizer=tokenizer, named=named)
        source = str(weights)
    return _make_model(checkpoint, source, image_size, precision, batch_size, mesh)


def _check_options(batch_size: int, precision: str | None, tokenizer: str | None, mesh: Mesh | None) -> None:
    if type(batch_size) is not int or batch_size < 1:
        raise UserError(f"batch_size={batch_size!r} must be an integer, at least 1")
    if tokenizer is not None and not isinstance(tokenizer, str):
        raise UserError(f"tokenizer={tokenizer!r}: give text as data.tokenizer has it, such as 'json:FILE'")
    if mesh is not None and not isinstance(mesh, Mesh):
        raise UserError(f"mesh={mesh!r}: give what mmjax.parallel.make_mesh makes")
    if precision is not None:
        validate_choice("precision", precision, tasks.DTYPES)


def _make_model(
    checkpoint: checkpoint_source.OpenedCheckpoint,
    source: str,
    image_size: int | None,
    precision: str | None,
    batch_size: int,
    mesh: Mesh | None,
) -> Model:
    """The model of an opened checkpoint; `source` is what its `repr` says of where the parameters come from."""
    checkpoint.log_notes()
    params = checkpoint.read(checkpoint.shardings(mesh))
    if image_size is not None:
        model, prepared = checkpoint.config.model, checkpoint.preprocessing
        is_convolutional = isinstance(getattr(model, "image", None), ConvEncoderConfig)
        has_table = not {_POSITIONS, _LONE_POSITIONS}.isdisjoint(checkpoint.shapes) or is_convolutional
        if prepared is None or not isinstance(model, (ImageTextConfig, FusedConfig)) or not has_table:
            described = capabilities.describe_model(checkpoint.config)
            raise UserError(f"image_size={image_size}: {described} has no image tower to be resized")
        if model.image is not None and image_size != model.image.image_size:
            params = _resize_positions(params, checkpoint, model, image_size, mesh)
            checkpoint.preprocessing = {**prepared, "size": image_size}
    if precision is not None:
        checkpoint.config = dataclasses.replace(checkpoint.config, precision=precision)
    make_tokenizer = lambda: checkpoint.tokenizer
    return Model(checkpoint.make_task(mesh), params, make_tokenizer, batch_size=batch_size, source=source)


def _resize_positions(
    params: Any,
    checkpoint: checkpoint_source.OpenedCheckpoint,
    model: ImageTextConfig | FusedConfig,
    image_size: int,
    mesh: Mesh | None,
) -> Any:
    """Parameters for images of another size, which the checkpoint's config is changed to.

    Args:
      params: of the checkpoint.
      checkpoint: gets the config of the new size.
      model: the config's.
      image_size: pixels of a side.
      mesh: where the parameters are.

    Raises:
      UserError: the size is no multiple of the patches'.
    """
    image = model.encoders.get("image") if isinstance(model, FusedConfig) else model.image
    if isinstance(model, FusedConfig) and isinstance(image, PatchesConfig):
        patch, prefix, path = image.patch_size, int(image.class_token), _LONE_POSITIONS
    elif isinstance(image, ConvEncoderConfig):
        patch, prefix, path = CONV_STRIDE, 1, _POOL_POSITIONS
    elif isinstance(image, (PatchesConfig, StreamConfig)):
        patch, prefix, path = image.patch_size, int(image.class_token), _POSITIONS
    else:
        raise UserError(f"image_size={image_size}: the images of model.kind={model.kind!r} have no patches to resample")
    is_whole = isinstance(image_size, int | np.integer) and patch <= image_size <= _MAX_SIDE
    if not is_whole or image_size % patch:
        raise UserError(
            f"image_size={image_size!r} is not a multiple of the model's patches of {patch} pixels, up to {_MAX_SIDE:,}"
        )
    image_size = int(image_size)
    flat, config = partition.flattened(params), checkpoint.config
    if path in flat:  # ConvNeXt has no positions
        old, new = (side // patch for side in (image.image_size, image_size))
        antialias = getattr(image, "position_antialias", True)
        table = positions.resample_positions(flat[path], (old, old), (new, new), prefix=prefix, antialias=antialias)
        shapes = {**checkpoint.shapes, path: table.shape}
        flat[path] = jax.device_put(table, checkpoint_source.param_shardings(shapes, config.mesh, mesh)[path])
    resized: Any = dataclasses.replace(image, image_size=image_size)
    if isinstance(model, FusedConfig):
        size = ImageSizeConfig(image_size=image_size)
        model = dataclasses.replace(model, encoders={**model.encoders, "image": resized}, image=size)
    else:
        model = dataclasses.replace(model, image=resized)
    checkpoint.config = dataclasses.replace(config, model=model)
    return partition.nested(flat)
