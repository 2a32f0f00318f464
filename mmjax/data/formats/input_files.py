"""Files that an example is made of: images, videos, sounds and arrays, by their endings or by their first bytes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.data.audio import waveform
from mmjax.data.bad_example import BadExample
from mmjax.data.formats.json_arrays import inputs_of_fields, member_of
from mmjax.data.formats.media_bytes import AUDIO_SUFFIXES, VIDEO_FORMATS, VIDEO_SUFFIXES, media_format
from mmjax.data.formats.npy_file import read_npy
from mmjax.data.image import image_file
from mmjax.data.image.image_file import IMAGE_SUFFIXES
from mmjax.data.video import container
from mmjax.io.reader import Reader

ARRAY_SUFFIXES = (".npy",)
MEDIA_SUFFIXES = (*VIDEO_SUFFIXES, *AUDIO_SUFFIXES)
INPUT_SUFFIXES = (*dict.fromkeys((*IMAGE_SUFFIXES, *MEDIA_SUFFIXES, *ARRAY_SUFFIXES)),)
# A GIF is an image, and a video.
ONLY_MEDIA_SUFFIXES = tuple(suffix for suffix in MEDIA_SUFFIXES if suffix not in IMAGE_SUFFIXES)

# Prompts of a class, by what shows it.
TEMPLATES = {
    "image": ["a photo of a {c}.", "a picture of a {c}.", "an image of a {c}."],
    "video": ["a video of {c}.", "a clip of {c}.", "someone is filming {c}."],
    "audio": ["the sound of {c}.", "a recording of {c}.", "this is a sound of {c}."],
    "array": ["{c}", "a measurement of {c}.", "this is {c}."],
}


def suffix_of(path: str) -> str:
    """The ending of a path in small letters, with its dot; "" without one."""
    name = path.rpartition("/")[2]
    return name[name.rindex(".") :].lower() if "." in name else ""


def kind_of(suffix: str) -> str:
    """What a file of this ending is first of all: `image`, `video`, `audio`, `array`, or "" for any other."""
    suffixes = {"image": IMAGE_SUFFIXES, "video": VIDEO_SUFFIXES, "audio": AUDIO_SUFFIXES, "array": ARRAY_SUFFIXES}
    return next((kind for kind, endings in suffixes.items() if suffix in endings), "")


def inputs_of_file(content: bytes, suffix: str) -> dict[str, Any]:
    """What a file gives of an example, by modality.

    A video may have sound, and so is the audio, too; a GIF is an image and a video; an array is by its shape an image
    uint8 [H, W, 3], a video uint8 [T, H, W, 3], a `series` [steps, channels] or a `table` [columns].

    Args:
      content: of the file.
      suffix: its ending, with the dot; what is none of INPUT_SUFFIXES is an image.

    Raises:
      BadExample: an array that cannot be read, or is none of these.
    """
    if suffix in ARRAY_SUFFIXES:
        return _inputs_of_array(read_npy(content))
    inputs: dict[str, Any] = {}
    if suffix in IMAGE_SUFFIXES or suffix not in MEDIA_SUFFIXES:
        inputs["image"] = content
    if suffix in VIDEO_SUFFIXES:
        inputs["video"] = content
    if suffix in AUDIO_SUFFIXES or (suffix in VIDEO_SUFFIXES and suffix not in IMAGE_SUFFIXES):
        inputs["audio"] = content
    return inputs


def inputs_of_bytes(content: bytes) -> dict[str, Any]:
    """What an encoded file whose name is not known gives of an example, see `inputs_of_file`."""
    if content[:6] == b"\x93NUMPY":
        return inputs_of_file(content, ".npy")
    name = media_format(content)
    suffix = {"": "", "gif": ".gif"}.get(name, ".mp4" if name in VIDEO_FORMATS else ".wav")
    return inputs_of_file(content, suffix)


def inputs_of_members(members: Mapping[str, bytes], endings: Sequence[str], *, arrays: bool) -> dict[str, Any]:
    """What the members of an example give of it, by modality: of those of one kind the first.

    Args:
      members: contents by ending, without the dot.
      endings: in the order in which they are looked for; `json:a,b` are numbers in fields of one.
      arrays: whether arrays count beside files; else they do where there are none.

    Raises:
      BadExample: see `inputs_of_file`.
    """
    present = [ending for ending in endings if member_of(ending) in members]
    is_array = lambda ending: f".{ending}" in ARRAY_SUFFIXES or ":" in ending
    if not arrays and not all(map(is_array, present)):
        present = [ending for ending in present if not is_array(ending)]
    inputs: dict[str, Any] = {}
    # The sound of a video counts where there is no other.
    for ending in sorted(present, key=lambda ending: f".{ending}" in VIDEO_SUFFIXES):
        member, colon, fields = ending.partition(":")
        content = members[member]
        made = inputs_of_fields(content, fields.split(",")) if colon else inputs_of_file(content, f".{ending}")
        inputs = made | inputs
    return inputs


def record_fields(inputs: Mapping[str, Any], span: tuple[float, float] | None = None) -> dict[str, Any]:
    """The fields of a record: `image`, and the others as `modalities`, with the `spans` of what has seconds."""
    fields = {"image": inputs["image"]} if "image" in inputs else {}
    others = {name: value for name, value in inputs.items() if name != "image"}
    if others:
        fields["modalities"] = others
        if span is not None:
            fields["spans"] = {name: span for name in others if name in ("video", "audio")}
    return fields


def read_input(reader: Reader, path: str) -> bytes:
    """A file's contents, no larger than its kind may be.

    Raises:
      OSError: it is not there, or cannot be read.
      BadExample: as `image_file.read_image` does.
    """
    kind = kind_of(suffix_of(path))
    limits = {"video": container.MAX_BYTES, "audio": waveform.MAX_BYTES}
    return image_file.read_image(reader, path, limit=limits.get(kind, image_file.MAX_BYTES))


def _inputs_of_array(array: np.ndarray) -> dict[str, Any]:
    """An array by its modality, see `inputs_of_file`."""
    if array.dtype == np.uint8 and array.ndim in (3, 4) and array.shape[-1] == 3:
        return {"image" if array.ndim == 3 else "video": array}
    if array.dtype.kind in "biuf" and array.ndim in (1, 2):
        return {"table" if array.ndim == 1 else "series": array.astype(np.float32)}
    raise BadExample(
        "corrupt",
        f"an .npy file of {array.dtype} {list(array.shape)} is no image, video (uint8), series [steps, channels] or"
        " table [columns]",
    )
