"""Fields of `data` that images are prepared by: the image spec that they make, mistakes, where images are resized."""

import dataclasses
from typing import Any

from mmjax.config.field_origins import FROM_RECIPE, FieldOrigins
from mmjax.config.schema import RunConfig
from mmjax.data.bad_example import BadExample, one_example
from mmjax.data.config import DataConfig
from mmjax.data.image import frames, jpeg, transforms
from mmjax.errors import UserError, validate_choice
from mmjax.tasks.config_queries import has_frames, has_image, has_pixels, image_size

# The fields with their defaults. Those that are not of an `ImageSpec`, or have another default there, come last.
_SPEC = {field.name: field.default for field in dataclasses.fields(transforms.ImageSpec)}
DEFAULTS = {name: value for name, value in _SPEC.items() if name not in ("size", "mean", "std", "frame")}
DEFAULTS |= {"draft": True, "mean_std": "clip", "resize_on": "auto"}

_LONGEST = 4  # times its height or width: a picture that is longer is no usual one


# Pictures that are looked at to choose a frame: the first ones of the first sources, which lie together.
_SOURCES, _PICTURES = 8, 32
_BEGAN = "as when this run began"


def make_image_spec(config: RunConfig) -> transforms.ImageSpec | None:
    """How images are prepared, from `data` and the model's input size; None for a model that sees no image.

    Raises:
      UserError: a field has a value that makes no sense.
    """
    return image_spec_of(config.data, image_size(config)) if has_image(config) else None


def image_spec_of(data: DataConfig, size: int) -> transforms.ImageSpec:
    """How images of so many pixels a side are prepared, or frames of videos.

    Raises:
      UserError: a field has a value that makes no sense.
    """
    mean, std = transforms.MEAN_STD[validate_choice("data.mean_std", data.mean_std, transforms.MEAN_STD)]
    return transforms.ImageSpec(
        size=size,
        resize=data.resize,
        interpolation=data.interpolation,
        mean=mean,
        std=std,
        antialias=data.antialias,
        image_rule=data.image_rule,
        train_resize=data.train_resize,
        crop_scale=data.crop_scale,
        crop_ratio=data.crop_ratio,
        draft=data.draft,
        flip=data.flip,
        color_jitter=data.color_jitter,
        color_jitter_prob=data.color_jitter_prob,
        grayscale=data.grayscale,
        randaugment=data.randaugment,
        randaugment_policy=data.randaugment_policy,
    )


def check_images(config: RunConfig, origins: FieldOrigins = FROM_RECIPE) -> None:
    """Checks the fields, each by itself and then together.

    Args:
      config: the run's config.
      origins: which of its values are not the recipe's.

    Raises:
      UserError: a value makes no sense, a field has been set though no images are prepared, the command line leaves
        the random crop nothing to choose, or the device would have to do what the host alone can. What
        other fields leave unread, see `training.validate_run`.
    """
    data = config.data

    def is_set(name: str) -> bool:
        value = getattr(data, name)
        return value != DEFAULTS[name] and not origins.is_as_begun(f"data.{name}", value)

    if make_image_spec(config) is None and not has_frames(config):
        for name in filter(is_set, DEFAULTS):
            raise UserError(
                f"data.{name}={getattr(data, name)!r} is not read, as model.image is not set and no images are"
                f" prepared; leave it at {DEFAULTS[name]!r}"
            )
        return
    if has_frames(config) and data.resize_on == "device":
        raise UserError("data.resize_on='device': frames of videos are resized on the host; set 'auto'")
    note = note_on_crop(config, origins)
    if note and "data.crop_scale" in origins.flags:
        raise UserError(note)
    if "data.train_resize" not in origins.kept and data.train_resize == "crop":
        _check_crop(data)
    check_resize_on(config)


def note_on_crop(config: RunConfig, origins: FieldOrigins = FROM_RECIPE) -> str | None:
    """A line on a random crop that has nothing to choose, as recipes written for mmjax 0.1 may have it."""
    data = config.data
    crops = has_pixels(config) and data.train_resize == "crop" and "data.train_resize" not in origins.kept
    if not crops or data.crop_scale[0] < 1:
        return None
    return (
        f"data.crop_scale={data.crop_scale} leaves a random crop nothing to choose: it fits a picture of just its"
        " shape, and of all others the middle is taken; set data.train_resize='squash' for whole pictures, 'center' for"
        " their middles, or a smaller first number"
    )


def _check_crop(data: DataConfig) -> None:
    low, high = data.crop_ratio[0] * data.crop_scale[0], data.crop_ratio[1] / data.crop_scale[0]
    if low > _LONGEST or high < 1 / _LONGEST:
        raise UserError(
            f"data.crop_ratio={data.crop_ratio} with data.crop_scale={data.crop_scale} fits pictures of a width /"
            f" height from {low:.3g} to {high:.3g} alone, and none from 1:{_LONGEST} to {_LONGEST}:1; give ratios"
            " around 1, such as (0.75, 1.33)"
        )


# -- on the host, beside decoding, or on the device ------------------------------------------------------------------


def check_resize_on(config: RunConfig) -> None:
    """Checks `data.resize_on` against what else is done to images.

    Raises:
      UserError: the device would have to do what the host alone can.
    """
    if config.data.resize_on == "device" and (field := _host_only(config.data)):
        raise UserError(
            f"data.resize_on='device': {_describe_host_only(config.data, field)}; set data.resize_on='auto', or"
            f" data.{field} to its default"
        )


def choose_frame(
    config: RunConfig,
    spec: transforms.ImageSpec | None,
    mixture: Any,
    platform: str,
    stored: int | None,
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
        return stored, _describe_frames(stored, _BEGAN)
    side, fitting, seen = frames.choose_side(_pictures(mixture), spec)
    if not seen:
        side = frames.default_side(spec.size)
    elif wanted == "auto" and 2 * fitting < seen:
        return 0, f"training images are resized on the host ({seen - fitting} of {seen} pictures fit no frame)"
    return side, _describe_frames(side, f"{fitting} of {seen} pictures fit, the others are resized on the host")


def planned_frame(config: RunConfig, platform: str) -> int:
    """The side of frames where no data is there to be looked at; 0 where the host resizes, or no images are seen."""
    return 0 if not has_image(config) or _obstacle(config, platform) else frames.default_side(image_size(config))


def _obstacle(config: RunConfig, platform: str) -> str:
    """Why the host resizes, whatever the data; empty where nothing speaks against the device."""
    wanted = config.data.resize_on
    if wanted == "host":
        return "data.resize_on='host'"
    if wanted == "device":
        return ""
    if name := _host_only(config.data):
        return _describe_host_only(config.data, name)
    # There it would take more of the time in which the model is computed than decoding does.
    return "the devices are CPUs" if platform == "cpu" else ""


def _host_only(data: DataConfig) -> str:
    """The field of `data` that asks for what the host alone can do; empty where the device can do all of it."""
    requested = {
        "antialias": not data.antialias,
        "randaugment": data.randaugment[0],
        "color_jitter": any(data.color_jitter),
        "grayscale": data.grayscale,
    }
    return next((name for name, value in requested.items() if value), "")


def _describe_host_only(data: DataConfig, name: str) -> str:
    does = "is done" if name == "antialias" else "works on resized images,"
    return f"data.{name}={getattr(data, name)} {does} on the host alone"


def _pictures(mixture: Any) -> Any:
    for source, _ in mixture[:_SOURCES]:
        for index in range(min(_PICTURES, len(source))):
            try:
                with one_example():
                    image = source[index].get("image")
            except BadExample:  # counted when it is its turn
                continue
            if image is not None:
                yield image


def _describe_frames(side: int, why: str) -> str:
    return (
        f"training images are resized on the device, from frames of {side} x {side} pixels ({why});"
        f" JPEGs are decoded by {jpeg.describe()}"
    )
