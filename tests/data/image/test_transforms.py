import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from mmjax import tasks
from mmjax.config import schema
from mmjax.data.image.image_file import decode
from mmjax.data.image.transforms import MEAN_STD, ImageSpec, eval_transform
from mmjax.errors import UserError
from tests.helpers.image_files import encoded, gradient, noise, smooth


def reference_eval(image, size, resize, resampling):
    """torchvision's Resize and CenterCrop, written out for Pillow images; `squash` is Resize((size, size))."""
    image = image.convert("RGB")
    if resize == "squash":
        return np.asarray(image.resize((size, size), resampling))
    width, height = image.size
    short, long = sorted((width, height))
    new_long = int(size * long / short)
    target = (size, new_long) if width <= height else (new_long, size)
    if target != image.size:
        image = image.resize(target, resampling)
    top, left = int(round((target[1] - size) / 2.0)), int(round((target[0] - size) / 2.0))
    return np.asarray(image.crop((left, top, left + size, top + size)))


SIZES = [(500, 375), (375, 500), (333, 501), (501, 333), (224, 300), (64, 64), (31, 640), (227, 225)]
SIZES += [(1, 1), (1, 9), (7, 1), (2000, 31), (31, 1999), (224, 224), (223, 225), (1023, 769)]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("size", SIZES)
def test_evaluation_equals_torchvision_on_pillow(size, resize, interpolation):
    spec = ImageSpec(size=224, resize=resize, interpolation=interpolation)
    image = Image.fromarray(noise(*size))
    result = eval_transform(decode(encoded(image, compress_level=1)), spec)
    assert result.shape == (224, 224, 3) and result.dtype == np.uint8
    assert np.array_equal(result, reference_eval(image, 224, resize, Image.Resampling[interpolation.upper()]))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_evaluation_converts_any_mode_before_it_resizes(mode):
    image = Image.fromarray(smooth(70, 50)).convert(mode)
    file = encoded(image, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    with Image.open(io.BytesIO(file)) as read:
        expected = reference_eval(read, 32, "crop", Image.Resampling.BICUBIC)
    assert np.array_equal(eval_transform(decode(file), ImageSpec(size=32)), expected)


def test_evaluation_does_not_depend_on_what_is_for_training():
    image = encoded(Image.fromarray(smooth(900, 700)), "JPEG")
    training = dict(draft=True, flip=True, color_jitter=(1, 1, 1, 0.5), grayscale=1.0, randaugment=(3, 30))
    results = [eval_transform(decode(image), ImageSpec(size=64, **options)) for options in ({}, training)]
    assert np.array_equal(*results)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 2)])
def test_a_ribbon_fits_into_the_memory(size):
    """At 224 pixels its long side would have 13 million."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, 30_000:] = pixels[30_000:] = 255
    result = eval_transform(Image.fromarray(pixels), ImageSpec(size=224))
    assert result.shape == (224, 224, 3) and abs(int(result.mean()) - 127) < 12


def test_eval_crop_rounds_half_to_even():
    # 227 x 224 needs no resize; 1.5 pixels off on the left become 2. 225 x 224: 0.5 become 0.
    for width, left in ((227, 2), (225, 0)):
        pixels = noise(width, 224)
        assert np.array_equal(
            eval_transform(Image.fromarray(pixels), ImageSpec(size=224)), pixels[:, left : left + 224]
        )


def test_squash_keeps_the_whole_image():
    image = Image.fromarray(gradient(90, 30))
    result = eval_transform(image, ImageSpec(size=32, resize="squash", interpolation="bilinear"))
    assert np.array_equal(result, image.resize((32, 32), Image.Resampling.BILINEAR))
    assert result[0, 0, 0] < 8 and result[0, -1, 0] > 247
    cropped = eval_transform(image, ImageSpec(size=32))
    assert cropped[0, 0, 0] > 70 and cropped[0, -1, 0] < 185


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_eval_is_the_identity_at_the_target_size(resize):
    pixels = noise(32, 32)
    assert np.array_equal(eval_transform(Image.fromarray(pixels), ImageSpec(size=32, resize=resize)), pixels)


def test_a_spec_survives_json_and_a_record_without_the_newer_fields_is_read():
    spec = ImageSpec(
        size=32, mean=MEAN_STD["siglip"][0], crop_scale=[0.5, 1], randaugment=[2, 9], color_jitter=[1, 0, 0, 0]
    )
    record = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(spec).items()}
    restored = ImageSpec(**record)
    assert restored == spec and hash(restored) == hash(spec)
    older = ("size", "resize", "interpolation", "mean", "std", "crop_scale", "crop_ratio", "flip")
    read = ImageSpec(**{name: record[name] for name in older})
    assert (read.draft, read.grayscale, read.randaugment[0], any(read.color_jitter)) == (False, 0.0, 0, False)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data.resize", "crp", "did you mean 'crop'"),
        ("data.interpolation", "cubic", "bicubic"),
        ("data.mean_std", "openai", "choose one of: clip, siglip, none, imagenet"),
        ("data.crop_scale", (0.9, 1.1), "low <= high <= 1"),
        ("data.crop_ratio", (2.0, 1.0), "low <= high"),
        ("data.color_jitter", (0.4, 0.4, 0.4, 0.6), "hue <= 0.5"),
        ("data.color_jitter", (0.4, -0.1, 0.4, 0.1), "none negative"),
        ("data.color_jitter", (0.4, 0.4), "a tuple of 4 numbers"),
        ("data.color_jitter_prob", 1.5, "from 0 to 1"),
        ("data.grayscale", -0.1, "from 0 to 1"),
        ("data.randaugment", (2, 31), "magnitude from 0 to 30"),
        ("data.randaugment", (-1, 9), "operations >= 0"),
        ("data.randaugment", (2.5, 9), "integers"),
        ("model.image.image_size", 0, "1 or more"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_field_and_remedy(field, value, message):
    settings = schema.base_config()
    with settings.unlocked(), settings.ignore_type():
        settings.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message) as caught:
        tasks.make_image_spec(schema.parse(settings))
    assert field in str(caught.value) and "\n" not in str(caught.value)


def test_the_config_s_fields_reach_the_spec():
    settings = schema.base_config()
    values = dict(draft=False, flip=True, color_jitter=(0.1, 0.2, 0.3, 0.4), color_jitter_prob=0.5, grayscale=0.25)
    values |= dict(randaugment=(1, 5), crop_scale=(0.4, 0.8), resize="squash", interpolation="bilinear")
    for name, value in values.items():
        settings.data[name] = value
    spec = tasks.make_image_spec(schema.parse(settings))
    assert {name: getattr(spec, name) for name in values} == values
