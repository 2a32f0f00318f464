"""The choice of where training images are resized: on the host, beside decoding, or on the device."""

from typing import Any

import ml_collections

from mmjax.data.bad_example import BadExample
from mmjax.data.image import frames, jpeg
from mmjax.data.image.transforms import ImageSpec
from mmjax.errors import UserError, validate_choice

RESIZE_ON = ("auto", "host", "device")

# Pictures that are looked at to choose a frame: the first ones of the first sources, which lie together.
_SOURCES, _PICTURES = 8, 32
_BEGAN = "as when this run began"


def check_place(config: ml_collections.ConfigDict) -> None:
    """Checks `data.resize_on` against what else is done to images.

    Raises:
      UserError: there is no such place, or the device would have to do what the host alone can.
    """
    if validate_choice("data.resize_on", config.data.resize_on, RESIZE_ON) == "device" and (
        field := _host_only(config.data)
    ):
        raise UserError(
            f"data.resize_on='device': {_tell_host_only(config.data, field)}; set data.resize_on='auto', or"
            f" data.{field} to its default"
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
      The side of the frames in which images travel, 0 where the host resizes them, and a line for the log.
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
    if name := _host_only(config.data):
        return _tell_host_only(config.data, name)
    # There it would take more of the time in which the model is computed than decoding does.
    return "the devices are CPUs" if platform == "cpu" else ""


def _host_only(data: ml_collections.ConfigDict) -> str:
    """The field of `data` that asks for what the host alone can do; empty where the device can do all of it."""
    requested = {
        "antialias": not data.antialias,
        "randaugment": data.randaugment[0],
        "color_jitter": any(data.color_jitter),
        "grayscale": data.grayscale,
    }
    return next((name for name, value in requested.items() if value), "")


def _tell_host_only(data: ml_collections.ConfigDict, name: str) -> str:
    does = "is done" if name == "antialias" else "works on resized images,"
    return f"data.{name}={data[name]} {does} on the host alone"


def _pictures(mixture: Any) -> Any:
    for source, _ in mixture[:_SOURCES]:
        for index in range(min(_PICTURES, len(source))):
            try:
                image = source[index].get("image")
            except (BadExample, OSError):  # counted when it is its turn
                continue
            if image is not None:
                yield image


def _tell(side: int, why: str) -> str:
    return (
        f"training images are resized on the device, from frames of {side} x {side} pixels ({why});"
        f" JPEGs are decoded by {jpeg.describe()}"
    )
