"""Inputs of a loaded model, converted to arrays: images, texts, prompts, modalities."""

import dataclasses
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeGuard

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from mmjax.data.bad_example import BadExample
from mmjax.data.image import transforms
from mmjax.data.loading.batches import available_cores
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.data.text.tokenizer import LARGEST_ID, end_of_text_position
from mmjax.errors import UserError, validate_choice
from mmjax.inference import modality_inputs
from mmjax.models import generation
from mmjax.models.text_config import TextConfig

# Fields of `Decoding` that belong to one method.
_OF_METHOD = {"beams": "beam", "length_penalty": "beam", "temperature": "sample", "top_k": "sample", "top_p": "sample"}


Templates = (
    str | Callable[[str], str] | Iterable[str | Callable[[str], str]] | Mapping[str, Sequence[str]]
)  # of a zero-shot classifier

# Normalised floats may lie beyond those of black and white by so many times the range between them. Filters overshoot,
# and tests draw at random; values from 0 to 255 lie far beyond.
_MARGIN = 5
_IMAGES = "paths, PIL images, uint8 arrays [H, W, 3]"  # in messages


def to_images(images: Any, spec: transforms.ImageSpec) -> np.ndarray:
    """Images as arrays of the model's size: uint8 [B, S, S, 3], or float32 where they come preprocessed.

    Args:
      images: paths, files' bytes, PIL images or uint8 arrays [H, W, 3] or [3, H, W], one or several, to be resized; or
        floats [B, S, S, 3] or [B, 3, S, S], taken as resized and normalised. Tensors of PyTorch and `pixel_values` of a
        processor's output are read as arrays are.
      spec: of the model.

    Raises:
      UserError: of another kind, preprocessed to another size, NaN, or floats that are not normalised.
    """
    _check_order("images", images)
    if isinstance(images, Mapping):
        images = images[_key_of("images", images, "pixel_values")]
    images = _to_numpy(images)
    if isinstance(images, Sequence) and not isinstance(images, str) and all(map(_are_floats, images)) and len(images):
        images = _stacked("images", images)
    if not _are_floats(images):
        return to_uint8(images, spec)
    images = images[None] if images.ndim == 3 else images
    side = (spec.size, spec.size)
    if images.ndim == 4 and images.shape[1:] == (3, *side) and spec.size != 3:
        images = images.transpose(0, 2, 3, 1)
    if images.shape[1:] != (*side, 3) or images.ndim != 4:
        raise UserError(
            f"images of shape {list(images.shape)}: floats are taken as preprocessed, [B, {spec.size}, {spec.size}, 3];"
            " load the model with image_size= for another size"
        )
    _check_normalised(images, spec)
    return np.asarray(images, np.float32)


def image_batches(images: Any, spec: transforms.ImageSpec, size: int) -> Iterator[np.ndarray]:
    """Arrays as of `to_images`; of a list of files or images `size` at a time, so that they are never all decoded."""
    entries: Any = list(images) if isinstance(images, Iterator) and not hasattr(images, "read") else images
    is_list = isinstance(entries, list | tuple) and not any(
        hasattr(entry, "dtype") and _are_floats(_to_numpy(entry)) for entry in entries[:1]
    )
    if not is_list or len(entries) <= size:
        yield to_images(entries, spec)
        return
    for start in range(0, len(entries), size):
        yield to_uint8(entries[start : start + size], spec, first=start)


def _check_normalised(images: np.ndarray, spec: transforms.ImageSpec) -> None:
    """Refuses floats that cannot be a normalised image's; warns of those that are most likely not.

    Raises:
      UserError: as `to_images`.
    """
    if not images.size:
        return
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    if not finite.all():
        raise UserError(f"images: image {int(np.argmin(finite))} has NaN or infinite values")
    low, high = float(images.min()), float(images.max())
    black = min(-mean / std for mean, std in zip(spec.mean, spec.std, strict=True))
    white = max((1 - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True))
    margin, remedy = _MARGIN * (white - black), f"normalise them by mean {spec.mean} and std {spec.std}, or give uint8"
    if low < black - margin or high > white + margin:
        raise UserError(f"images: floats from {low:.4g} to {high:.4g} are not normalised; {remedy}")
    if low >= 0 and 0.5 < high <= 1:
        warnings.warn(
            f"images: floats from {low:.4g} to {high:.4g} look as if only divided by 255; {remedy}", stacklevel=4
        )


def to_uint8(images: Any, spec: transforms.ImageSpec, *, first: int = 0) -> np.ndarray:
    """Paths, files' bytes, PIL images or uint8 arrays, one or several, as uint8 [B, S, S, 3] of the model's size.

    Args:
      images: as of `to_images`.
      spec: of the model.
      first: the number of the first of them, in messages.

    Raises:
      UserError: of another kind.
    """
    _check_order("images", images)
    is_one = isinstance(images, Image.Image | str | bytes | os.PathLike)
    if is_one or (isinstance(images, np.ndarray) and images.ndim == 3):
        images = [images]
    if not isinstance(images, Iterable):
        raise UserError(f"images: {type(images).__name__} is no image; give {_IMAGES} or floats")
    entries = list(images)
    with ThreadPoolExecutor(available_cores()) as threads:
        prepared = list(threads.map(_prepare_numbered, itertools.repeat(spec), itertools.count(first), entries))
    return np.stack(prepared) if prepared else np.zeros((0, spec.size, spec.size, 3), np.uint8)


def _channels_last(image: Any) -> Any:
    """A uint8 array [3, H, W], as torchvision reads files, as [H, W, 3]; anything else as it is."""
    is_array = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3
    return image.transpose(1, 2, 0) if is_array and image.shape[0] == 3 and image.shape[2] not in (1, 3, 4) else image


def _are_floats(value: Any) -> TypeGuard[np.ndarray]:
    return isinstance(value, np.ndarray) and jnp.issubdtype(value.dtype, jnp.floating)


def _to_numpy(value: Any) -> Any:
    """Arrays of JAX and tensors of PyTorch as NumPy's, an iterator as a list; anything else as it is."""
    if hasattr(value, "is_floating_point"):  # a tensor: on any device, with a gradient, of a type that NumPy lacks
        try:
            value = value.detach().cpu()
            return (value.float() if value.is_floating_point() else value).numpy()
        except (TypeError, RuntimeError) as error:  # sparse, quantised, or without numbers
            reason = (str(error).splitlines() or [""])[0][:80]
            raise UserError(f"a tensor of PyTorch without plain numbers ({reason}); give a dense one") from error
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if hasattr(value, "read") and not isinstance(value, Image.Image):  # an open file
        return value.read()
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_to_numpy(item) for item in value]
    if isinstance(value, Iterator):
        return [_to_numpy(item) for item in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "US":  # of paths, or of texts
        return value.tolist()
    return np.asarray(value) if hasattr(value, "dtype") and hasattr(value, "shape") else value


def _key_of(field: str, values: Mapping[Any, Any], key: str) -> str:
    """The key under which a tokenizer's or processor's output has an array.

    Raises:
      UserError: it has none.
    """
    if key not in values:
        raise UserError(
            f"{field}: a dictionary with {', '.join(map(str, values)) or 'nothing'}; {key!r} is what is read"
        )
    return key


def _stacked(field: str, values: Any) -> np.ndarray:
    """One array of rows.

    Raises:
      UserError: the rows differ in shape.
    """
    try:
        return np.asarray(values)
    except ValueError as error:
        raise UserError(f"{field}: rows of different lengths or shapes; give rows that are alike") from error


def _prepare_numbered(spec: transforms.ImageSpec, number: int, image: Any) -> UInt8[np.ndarray, "S S 3"]:
    try:
        return prepare(image, spec)
    except UserError as error:
        raise UserError(f"images: number {number}: {str(error).removeprefix('images: ')}") from error


def prepare(image: Any, spec: transforms.ImageSpec) -> UInt8[np.ndarray, "S S 3"]:
    """An image of the model's size: of a path, a file's bytes, a PIL image or a uint8 array [H, W, 3].

    Raises:
      UserError: of another kind, or it cannot be read or decoded.
    """
    image = _channels_last(_to_numpy(image))
    if isinstance(image, Image.Image):
        if image.mode == "F" or image.mode.startswith("I"):
            raise UserError(f"images: a PIL image of mode {image.mode!r} has no defined range; convert it to RGB first")
        if transforms.RULES[spec.image_rule].upright:
            image = ImageOps.exif_transpose(image)
        try:
            if 0 in image.size:
                raise ValueError(f"{image.size[0]} x {image.size[1]} pixels")
            return transforms.eval_transform(transforms.convert_mode(image, spec), spec)
        # A mode such as La, which Pillow turns into LA alone; a file that is cut off or closed.
        except (ValueError, OSError, SyntaxError) as error:
            raise UserError(
                f"images: a PIL image of mode {image.mode!r} that cannot be used ({error}); give a whole one, as RGB"
            ) from error
    is_file = isinstance(image, str | bytes | os.PathLike)
    entry = modality_inputs.read_entry(image, "images")
    try:
        return transforms.eval_image(entry, spec)
    except BadExample as error:
        remedy = "give the path of an image" if is_file else f"give {_IMAGES} or floats"
        path = f"{os.fspath(image)!r}: "[:200] if isinstance(image, str | os.PathLike) else ""
        raise UserError(f"images: {path}{error}; {remedy}") from error


def to_strings(field: str, texts: Any) -> list[str]:
    """Strings; one alone is a list of one.

    Raises:
      UserError: no strings, or a set of them.
    """
    _check_order(field, texts)
    texts = [texts] if isinstance(texts, str) else texts
    strings = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, Mapping | bytes) else None
    if strings is None or not all(isinstance(text, str) for text in strings):
        raise UserError(f"{field}={str(texts)[:60]}: give a list of strings")
    return strings


def to_templates(templates: Any, class_names: Sequence[str]) -> list[str] | Mapping[str, Sequence[str]]:
    """Templates with `{c}` where a class's name belongs; or each class's own prompts, where some are functions of it.

    Args:
      templates: prompts with `{c}` or `{}`, functions from a class's name to a prompt, or prompts by class.
      class_names: that functions are called with.

    Raises:
      UserError: of another kind.
    """
    _check_order("templates", templates)
    if isinstance(templates, Mapping):
        for name, texts in templates.items():
            if isinstance(texts, str) or not isinstance(texts, Iterable):
                raise UserError(f"templates: the prompts of class {name!r} are {texts!r}; give a list of strings")
        lists = {name: to_strings(f"templates[{name!r}]", texts) for name, texts in templates.items()}
        return {name: [text.replace("{}", "{c}") for text in texts] for name, texts in lists.items()}
    if not isinstance(templates, Iterable) and not callable(templates):
        raise UserError(f"templates={templates!r}: give prompts such as 'a photo of a {{c}}.', or None of them")
    several = [templates] if isinstance(templates, str) or callable(templates) else list(templates)
    texts = to_strings("templates", ["{c}" if callable(template) else template for template in several])
    texts = [text.replace("{}", "{c}") for text in texts]
    if not any(map(callable, several)):
        return texts
    pairs = list(zip(several, texts, strict=True))
    prompts = lambda name: [_call(one, name) if callable(one) else text.replace("{c}", name) for one, text in pairs]
    return {name: to_strings("templates", prompts(name)) for name in class_names}


def _call(template: Callable[..., Any], name: str) -> Any:
    try:
        return template(name)
    except Exception as error:
        raise UserError(f"templates: {template!r} fails on {name!r} ({type(error).__name__}: {error})") from error


def to_texts(texts: Any) -> list[str] | np.ndarray:
    """Texts as strings, or as an array of token ids: of an array, a tensor, or `input_ids` of a tokenizer's output.

    Raises:
      UserError: rows of ids of different lengths, a dictionary without ids, or a set.
    """
    _check_order("texts", texts)
    if isinstance(texts, Mapping):
        texts = texts[_key_of("texts", texts, "input_ids")]
    texts = _to_numpy(texts)
    texts = [texts] if isinstance(texts, str) else texts
    if isinstance(texts, Iterable) and all(isinstance(text, str) for text in texts):
        return [str(text) for text in texts]
    return _stacked("texts", texts)


def _check_order(field: str, texts: Any) -> None:
    """Refuses sets, whose order is another one in every process, so that no result would be known to be of which text.

    Raises:
      UserError: it is a set.
    """
    if isinstance(texts, set | frozenset):
        raise UserError(f"{field}: a set has no order; give a list, such as sorted({field})")


def to_token_ids(ids: np.ndarray, text: TextConfig) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [B, L] and which are real: those up to the end of text, or all where there is none.

    Raises:
      UserError: no array of ids that the model has.
    """
    is_valid = ids.ndim == 2 and np.issubdtype(ids.dtype, np.integer)
    if not is_valid or not 1 <= ids.shape[1] <= text.context_length:
        raise UserError(
            f"texts of type {ids.dtype} and shape {list(ids.shape)}: give strings, or ids [B, L] with L at most"
            f" {text.context_length}"
        )
    if ids.size and not 0 <= ids.min() <= ids.max() < text.vocab_size:
        raise UserError(f"texts: ids from {ids.min()} to {ids.max()}; the model has 0 to {text.vocab_size - 1}")
    if text.eos_id is None:
        return ids.astype(np.int32), np.ones(ids.shape, bool)
    end = end_of_text_position(ids, text.eos_id)
    if text.eos_id != LARGEST_ID:
        end = np.where((ids == text.eos_id).any(axis=1), end, ids.shape[1])
    return ids.astype(np.int32), np.arange(ids.shape[1]) <= end[:, None]


def broadcast_texts(field: str, texts: Any, count: int) -> list[str]:
    """`count` texts, one an image; a single one is for all of them.

    Raises:
      UserError: another number of texts, or no strings.
    """
    texts = [texts] * count if isinstance(texts, str) else to_strings(field, texts)
    if len(texts) != count:
        raise UserError(f"{field}: {len(texts)} for {count} images; give a string for each, or one for all of them")
    return texts


def to_prompts(texts: Sequence[str], tokenizer: tokenizer_lib.Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Prompts: the first token of every text and the words that it begins with, as ids [B, P] and a mask of real ones.

    Raises:
      UserError: a text that leaves no room for another token.
    """
    rows = [[tokenizer.bos_id, *tokenizer.words(text)] for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if len(row) >= tokenizer.context_length - 1:  # longer ones are cut to this
            raise UserError(
                f"prompt={text[:40]!r}: it has {len(row)} tokens or more, and data.context_length="
                f"{tokenizer.context_length} leaves no room after them; shorten it"
            )
    longest = max(map(len, rows), default=1)
    ids = np.array([row + [tokenizer.pad_id] * (longest - len(row)) for row in rows], np.int32).reshape(-1, longest)
    return ids, np.arange(longest) < np.array([len(row) for row in rows])[:, None]


def to_decoding(
    default: generation.Decoding,
    prompt_length: int,
    context_length: int,
    overrides: Mapping[str, Any],
    caller: str = "caption",
) -> generation.Decoding:
    """The run's decoding with some fields overridden, in the room that prompts leave.

    Args:
      default: as the run's config has it.
      prompt_length: of the longest prompt, in tokens.
      context_length: tokens that the model reads at most. It does not read the last one it writes.
      overrides: fields of `Decoding`.
      caller: the method of a model that messages begin with.

    Raises:
      UserError: no such field, one of another method, or a value that makes no sense.
    """
    known = [field.name for field in dataclasses.fields(default) if not field.name.endswith("_id")]
    for field, value in overrides.items():
        expected = type(getattr(default, validate_choice(f"{caller}: the argument", field, known)))
        if type(value) not in ((int, float) if expected is float else (expected,)):
            raise UserError(
                f"{caller}: {field}={value!r} is no {expected.__name__}, such as {getattr(default, field)!r}"
            )
    method = overrides.get("method", default.method)
    for field in overrides:
        if _OF_METHOD.get(field, method) != method:
            reason = f"{field}={overrides[field]!r} is of method={_OF_METHOD[field]!r}, and the method is {method!r}"
            raise UserError(f"{caller}: {reason}; give both")
    room = context_length + 1 - prompt_length
    if overrides.get("max_tokens", 0) > room:
        raise UserError(f"{caller}: max_tokens={overrides['max_tokens']}, but the model's context has room for {room}")
    return dataclasses.replace(default, **{"max_tokens": min(default.max_tokens, room), **overrides})
