import dataclasses
import io
import warnings

import numpy as np
import pytest
from PIL import Image

from mmjax.data.images import (
    MEAN_STD,
    BadExample,
    ImageSpec,
    decode,
    eval_transform,
    random_crop_box,
    train_transform,
)
from mmjax.errors import UserError


def encoded(image, fmt="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def gradient(width, height):
    y, x = np.mgrid[:height, :width]
    red, green = x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1)
    return np.stack([red, green, (red + green) // 2], -1).astype(np.uint8)


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_lossless_files_and_arrays_keep_their_pixels():
    pixels = noise(7, 5)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels))), pixels)
    assert np.array_equal(decode(pixels), pixels)
    assert np.array_equal(decode(pixels[:, ::-1]), pixels[:, ::-1])
    grey = pixels[..., 0]
    for array in (grey, grey[..., None]):
        assert np.array_equal(decode(array), np.repeat(grey[..., None], 3, -1))


def test_alpha_is_dropped_not_composited():
    pixels = np.dstack([noise(6, 4), np.full((4, 6), 3, np.uint8)])
    for image in (encoded(Image.fromarray(pixels)), pixels):
        assert np.array_equal(decode(image), pixels[..., :3])


def test_a_palette_with_transparency_is_expanded_without_a_warning():
    pixels = gradient(16, 16)
    palette = Image.fromarray(pixels).quantize(256)
    expected = np.asarray(palette.convert("RGB"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode(encoded(palette, transparency=bytes(range(256))))
    assert image.mode == "RGB" and np.array_equal(image, expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode):
    image = Image.fromarray(gradient(16, 12)).convert(mode)
    fmt = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    result = decode(encoded(image, fmt))
    assert (result.mode, result.size) == ("RGB", (16, 12))
    assert np.abs(np.asarray(result).astype(int) - np.asarray(image.convert("RGB"))).mean() < 12


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_greyscale_keeps_its_high_byte(fmt):
    samples = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).astype(np.uint16)
    result = np.asarray(decode(encoded(Image.fromarray(samples), fmt)))
    assert np.array_equal(result, np.repeat((samples >> 8).astype(np.uint8)[..., None], 3, -1))


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(fmt):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, 16:] = 255  # the right half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    result = np.asarray(decode(encoded(Image.fromarray(pixels), fmt, exif=exif)))
    assert result.shape == (32, 16, 3)
    assert result[:14].max() < 40 and result[-14:].min() > 215


def test_metadata_that_cannot_be_parsed_costs_no_image():
    pixels = gradient(8, 8)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels), exif=b"Exif\0\0garbage")), pixels)


JPEG = encoded(Image.fromarray(noise(64, 64)), "JPEG")
BAD = {
    "empty": b"",
    "text": b"<html>404 not found</html>",
    "truncated jpeg": JPEG[: len(JPEG) // 2],
    "truncated png": encoded(Image.fromarray(noise(64, 64)))[:-2000],
    "float samples": encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
    "float array": np.zeros((4, 4, 3), np.float32),
    "five channels": np.zeros((4, 4, 5), np.uint8),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_decoded_is_a_bad_example(name):
    with pytest.raises(BadExample) as caught:
        decode(BAD[name])
    assert caught.value.reason == {"empty": "empty", "text": "not_image"}.get(name, "corrupt") and caught.value.detail


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    bomb = encoded(Image.new("1", (20000, 20000)))
    assert len(bomb) < 100_000
    with pytest.raises(BadExample) as caught:
        decode(bomb)
    assert caught.value.reason == "too_large"
    with pytest.raises(BadExample, match="too_large: 64 x 64"):
        decode(JPEG, max_pixels=64 * 64 - 1)
    assert decode(JPEG, max_pixels=64 * 64).size == (64, 64)


def reference_eval(image, size):
    """torchvision's Resize(size, BICUBIC) and CenterCrop(size), written out for PIL images."""
    width, height = image.size
    short, long = sorted((width, height))
    new_long = int(size * long / short)
    target = (size, new_long) if width <= height else (new_long, size)
    if target != image.size:
        image = image.resize(target, Image.Resampling.BICUBIC)
    top, left = int(round((target[1] - size) / 2.0)), int(round((target[0] - size) / 2.0))
    return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (333, 501), (501, 333), (224, 300), (64, 64), (31, 640), (227, 225)]
)
def test_eval_crop_equals_torchvision_on_pillow(size):
    image = Image.fromarray(noise(*size))
    result = eval_transform(image, ImageSpec(size=224))
    assert result.shape == (224, 224, 3) and result.dtype == np.uint8
    assert np.array_equal(result, reference_eval(image, 224))


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


def test_train_crops_have_the_area_and_ratio_asked_for():
    spec = ImageSpec(size=16, crop_scale=(0.3, 0.6))
    rng = np.random.default_rng(0)
    lefts, areas, ratios = [], [], []
    for _ in range(2000):
        left, top, width, height = random_crop_box(400, 300, spec, rng)
        assert 0 <= left <= 400 - width and 0 <= top <= 300 - height
        lefts.append(left / (400 - width))
        areas.append(width * height / 120_000)
        ratios.append(width / height)
    assert 0.295 < min(areas) < 0.31 and 0.59 < max(areas) < 0.605
    assert 0.74 < min(ratios) < 0.77 and 1.3 < max(ratios) < 1.35
    assert np.mean(lefts) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("size", "box"),
    [((1000, 10), (493, 0, 13, 10)), ((10, 1000), (0, 493, 10, 13)), ((1, 1), (0, 0, 1, 1)), ((1, 50), (0, 24, 1, 1))],
)
def test_an_image_that_no_crop_fits_gives_its_centre(size, box):
    assert random_crop_box(*size, ImageSpec(size=16, crop_scale=(1.0, 1.0)), np.random.default_rng(0)) == box


def test_train_transform_is_the_crop_resized():
    image = Image.fromarray(gradient(200, 100))
    spec = ImageSpec(size=24, crop_scale=(0.2, 0.5))
    left, top, width, height = random_crop_box(200, 100, spec, np.random.default_rng(5))
    result = train_transform(image, spec, np.random.default_rng(5))
    expected = image.crop((left, top, left + width, top + height)).resize((24, 24), Image.Resampling.BICUBIC)
    assert result.shape == (24, 24, 3) and result.dtype == np.uint8
    # Only at the border may they differ: there the filter of an in-place crop sees the pixels around it.
    difference = np.abs(result.astype(int) - np.asarray(expected))
    assert difference[2:-2, 2:-2].max() <= 1 and difference.max() <= 8


def test_flip_mirrors_about_half_of_the_images():
    image, rng = Image.fromarray(gradient(64, 64)), np.random.default_rng(0)
    mirrored = [int(train_transform(image, ImageSpec(size=8, flip=True), rng)[0, 0, 0] > 127) for _ in range(400)]
    assert 150 < sum(mirrored) < 250
    assert all(train_transform(image, ImageSpec(size=8), rng)[0, 0, 0] < 127 for _ in range(50))


def test_a_spec_survives_json_and_names_mistakes():
    spec = ImageSpec(size=32, mean=MEAN_STD["siglip"][0], crop_scale=[0.5, 1])
    restored = ImageSpec(**{k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(spec).items()})
    assert restored == spec and hash(restored) == hash(spec)
    for field, value in [("resize", "crp"), ("interpolation", "cubic"), ("crop_scale", (0.9, 1.1)), ("size", 0)]:
        with pytest.raises(UserError, match=f"image.{field}"):
            ImageSpec(**{"size": 32, field: value})
    with pytest.raises(UserError, match="image.std"):
        ImageSpec(size=32, std=(0.0, 1.0, 1.0))
