"""What training sees of an image, and where it is resized: on the host, beside decoding, or on the device."""

import dataclasses
from collections.abc import Collection
from typing import Any

import ml_collections

from mmjax.data import frames, jpeg
from mmjax.data.faults import BadExample
from mmjax.data.images import TRAIN_RESIZE, ImageSpec
from mmjax.errors import UserError, choose

RESIZE_ON = ("auto", "host", "device")

# Pictures that are looked at to choose a frame: the first ones of the first sources, which lie together.
_SOURCES, _PICTURES = 8, 32
_BEGAN = "as when this run began"
_CROP = ("crop_scale", "crop_ratio")
_LONGEST = 4  # times its height or width: a picture that is longer is no usual one


def check_resize(config: ml_collections.ConfigDict, kept: Collection[str] = ()) -> None:
    """Checks `data.resize_on` and `data.train_resize` against what else is done to images.

    Args:
      config: the run's config.
      kept: fields that the run began without, see `training.begun`: what it did then is not questioned.

    Raises:
      UserError: there is no such place, the device would have to do what the host alone can, or the random crop has
        fields that nobody reads, or that leave it nothing to choose.
    """
    if "image" in config.model and "data.train_resize" not in kept:
        _check_crop(config.data)
    if choose("data.resize_on", config.data.resize_on, RESIZE_ON) == "device":
        reason = _host_only(config)
        if reason:
            raise UserError(
                f"data.resize_on='device': {reason}, on the host; set data.resize_on='auto', or that to its default"
            )


def _check_crop(data: ml_collections.ConfigDict) -> None:
    if choose("data.train_resize", data.train_resize, TRAIN_RESIZE) == "crop":
        if data.crop_scale[0] == 1:
            raise UserError(
                f"data.crop_scale={data.crop_scale} leaves a random crop nothing to choose: it fits a picture of just"
                " its shape, and of all others the middle is taken; set data.train_resize='squash' for whole pictures,"
                " 'center' for their middles, or a smaller first number"
            )
        low, high = data.crop_ratio[0] * data.crop_scale[0], data.crop_ratio[1] / data.crop_scale[0]
        if low > _LONGEST or high < 1 / _LONGEST:
            raise UserError(
                f"data.crop_ratio={data.crop_ratio} with data.crop_scale={data.crop_scale} fits pictures of a width /"
                f" height from {low:.3g} to {high:.3g} alone, and none from 1:{_LONGEST} to {_LONGEST}:1; give ratios"
                " around 1, such as (0.75, 1.33)"
            )
        return
    usual = {field.name: field.default for field in dataclasses.fields(ImageSpec)}
    for name in _CROP:
        if data[name] != usual[name]:
            raise UserError(
                f"data.{name}={data[name]} is not read with data.train_resize={data.train_resize!r}; leave it out, or"
                " set data.train_resize='crop'"
            )


def choose_frame(
    config: ml_collections.ConfigDict, spec: ImageSpec | None, mixture: Any, platform: str, stored: int | None
) -> tuple[int, str]:
    """Chooses where a run's training images are resized, see `ImageSpec.frame`.

    Args:
      config: the run's config.
      spec: how its images are prepared; None for a model that sees none.
      mixture: its sources, whose first pictures are looked at.
      platform: jax's name for the devices.
      stored: the choice that the run began with; None for a new run.

    Returns:
      The side of the frames in which images travel, 0 where the host resizes them, and a line that tells it.
    """
    if spec is None:
        return 0, ""
    wanted = config.data.resize_on
    reason = _obstacle(config, platform if stored is None else "")
    if not reason and wanted == "auto" and stored == 0:
        reason = _BEGAN
    if reason:
        return 0, f"training images are resized on the host ({reason})"
    if stored:  # also on other devices: the pixels stay the same
        return stored, _tell(stored, _BEGAN)
    side, fitting, seen = frames.choose_side(_pictures(mixture), spec)
    if not seen:
        side = frames.default_side(spec.size)
    elif wanted == "auto" and 2 * fitting < seen:
        return 0, f"training images are resized on the host ({seen - fitting} of {seen} pictures fit no frame)"
    return side, _tell(side, f"{fitting} of {seen} pictures fit, the others are resized on the host")


def planned_frame(config: ml_collections.ConfigDict, platform: str) -> int:
    """The side of frames where no data is there to be looked at; 0 where the host resizes."""
    return 0 if _obstacle(config, platform) else frames.default_side(config.model.image.image_size)


def _obstacle(config: ml_collections.ConfigDict, platform: str) -> str:
    """Why the host resizes, whatever the data; empty where nothing speaks against the device."""
    wanted = config.data.resize_on
    if wanted == "host":
        return "data.resize_on='host'"
    if wanted == "device":
        return ""
    if reason := _host_only(config):
        return reason
    # There it would take more of the time in which the model is computed than decoding does.
    return "the devices are CPUs" if platform == "cpu" else ""


def _host_only(config: ml_collections.ConfigDict) -> str:
    """What of a run's images the host alone can do; empty where the device can do all of it."""
    data = config.data
    if not data.antialias:
        return "data.antialias=False resizes"
    on = {"randaugment": data.randaugment[0], "color_jitter": any(data.color_jitter), "grayscale": data.grayscale}
    return next((f"data.{field}={data[field]} works on resized images" for field, value in on.items() if value), "")


def _pictures(mixture: Any) -> Any:
    for source, _ in mixture[:_SOURCES]:
        for index in range(min(_PICTURES, len(source))):
            try:
                image = source[index].get("image")
            except (BadExample, OSError):  # told when it is its turn
                continue
            if image is not None:
                yield image


def _tell(side: int, why: str) -> str:
    return (
        f"training images are resized on the device, from frames of {side} x {side} pixels ({why});"
        f" JPEGs are decoded by {jpeg.describe()}"
    )
