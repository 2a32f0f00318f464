"""Fields of `data` that images are prepared by: the image spec that they make, and mistakes in them."""

import dataclasses

import ml_collections

from mmjax.config.field_origins import FROM_RECIPE, FieldOrigins
from mmjax.data.image import transforms
from mmjax.errors import UserError, validate_choice
from mmjax.tasks import resizing
from mmjax.tasks.config_queries import has_image

# The fields with their defaults. Those that are not of an `ImageSpec`, or have another default there, come last.
_SPEC = {field.name: field.default for field in dataclasses.fields(transforms.ImageSpec)}
DEFAULTS = {name: value for name, value in _SPEC.items() if name not in ("size", "mean", "std", "frame")}
DEFAULTS |= {"draft": True, "mean_std": "clip", "resize_on": "auto"}

_LONGEST = 4  # times its height or width: a picture that is longer is no usual one


def make_image_spec(config: ml_collections.ConfigDict) -> transforms.ImageSpec | None:
    """How images are prepared, from `data` and the model's input size; None for a model that sees no image.

    Raises:
      UserError: a field has a value that makes no sense.
    """
    data = config.data
    if not has_image(config):
        return None
    mean, std = transforms.MEAN_STD[validate_choice("data.mean_std", data.mean_std, transforms.MEAN_STD)]
    return transforms.ImageSpec(
        size=config.model.image.image_size,
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


def check_images(config: ml_collections.ConfigDict, origins: FieldOrigins = FROM_RECIPE) -> None:
    """Checks the fields, each by itself and then together.

    Args:
      config: the run's config.
      origins: which of its values are not the recipe's.

    Raises:
      UserError: a value makes no sense, a field has been set though no images are prepared, the command line leaves
        the random crop nothing to choose, or the device would have to do what the host alone can. What
        other fields leave unread, see `training.unread_fields`.
    """
    data = config.data

    def is_set(name: str) -> bool:
        return data[name] != DEFAULTS[name] and not origins.is_as_begun(f"data.{name}", data[name])

    if make_image_spec(config) is None:
        for name in filter(is_set, DEFAULTS):
            raise UserError(
                f"data.{name}={data[name]!r} is not read, as model.image is not set and no images are prepared; leave"
                f" it at {DEFAULTS[name]!r}"
            )
        return
    note = note_on_crop(config, origins)
    if note and "data.crop_scale" in origins.flags:
        raise UserError(note)
    if "data.train_resize" not in origins.kept and data.train_resize == "crop":
        _check_crop(data)
    resizing.check_place(config)


def note_on_crop(config: ml_collections.ConfigDict, origins: FieldOrigins = FROM_RECIPE) -> str | None:
    """A line on a random crop that has nothing to choose, as recipes written for mmjax 0.1 may have it."""
    data = config.data
    crops = has_image(config) and data.train_resize == "crop" and "data.train_resize" not in origins.kept
    if not crops or data.crop_scale[0] < 1:
        return None
    return (
        f"data.crop_scale={data.crop_scale} leaves a random crop nothing to choose: it fits a picture of just its"
        " shape, and of all others the middle is taken; set data.train_resize='squash' for whole pictures, 'center' for"
        " their middles, or a smaller first number"
    )


def _check_crop(data: ml_collections.ConfigDict) -> None:
    low, high = data.crop_ratio[0] * data.crop_scale[0], data.crop_ratio[1] / data.crop_scale[0]
    if low > _LONGEST or high < 1 / _LONGEST:
        raise UserError(
            f"data.crop_ratio={data.crop_ratio} with data.crop_scale={data.crop_scale} fits pictures of a width /"
            f" height from {low:.3g} to {high:.3g} alone, and none from 1:{_LONGEST} to {_LONGEST}:1; give ratios"
            " around 1, such as (0.75, 1.33)"
        )
