"""Training images: the crop's distribution, draft scaling, orientation, the flip."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mmjax.data.bad_example import BadExample
from mmjax.data.image.crops import random_crop_box, train_image
from mmjax.data.image.image_file import decode
from mmjax.data.image.transforms import ImageSpec
from tests.helpers import runs
from tests.helpers.image_files import GREY_BLUE, encoded, gradient, smooth, stored


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def reference_crop(image, spec, seed):
    """Crop of the upright image with Pillow alone."""
    box = random_crop_box(*image.size, spec, np.random.default_rng(seed))
    return np.asarray(image.resize((spec.size, spec.size), Image.Resampling.BICUBIC, box=box))


def test_train_crops_have_the_area_and_ratio_asked_for():
    spec = ImageSpec(size=16, crop_scale=(0.3, 0.6))
    rng = np.random.default_rng(0)
    lefts, areas, ratios = [], [], []
    for _ in range(2000):
        left, top, right, bottom = random_crop_box(400, 300, spec, rng)
        width, height = right - left, bottom - top
        assert 0 <= left <= 400 - width and 0 <= top <= 300 - height
        lefts.append(left / (400 - width))
        areas.append(width * height / 120_000)
        ratios.append(width / height)
    assert 0.295 < min(areas) < 0.31 and 0.59 < max(areas) < 0.605
    assert 0.74 < min(ratios) < 0.77 and 1.3 < max(ratios) < 1.35
    assert np.mean(lefts) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((1000, 10), (493, 0, 506, 10)),
        ((10, 1000), (0, 493, 10, 506)),
        ((1, 1), (0, 0, 1, 1)),
        ((1, 50), (0, 24, 1, 25)),
    ],
)
def test_an_image_that_no_crop_fits_gives_its_centre(size, box):
    assert random_crop_box(*size, ImageSpec(size=16, crop_scale=(1.0, 1.0)), np.random.default_rng(0)) == box


def test_the_crop_is_cut_out_and_resized():
    spec = ImageSpec(size=24, crop_scale=(0.2, 0.5))
    box = random_crop_box(200, 100, spec, np.random.default_rng(5))
    result = train_image(gradient(200, 100), spec, np.random.default_rng(5))
    expected = Image.fromarray(gradient(200, 100)).crop(box).resize((24, 24), Image.Resampling.BICUBIC)
    assert result.shape == (24, 24, 3) and result.dtype == np.uint8
    # Only at the border may they differ: there the filter of an in-place crop sees the pixels around it.
    difference = np.abs(result.astype(int) - np.asarray(expected))
    assert difference[2:-2, 2:-2].max() <= 1 and difference.max() <= 8


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16"])
def test_a_file_of_any_mode_gives_the_crop_of_its_decoded_image(mode):
    picture = smooth(90, 70)
    if mode == "I;16":
        image = encoded(Image.fromarray(picture[..., 0].astype(np.uint16) * 257), "PNG")
    else:
        image = encoded(Image.fromarray(picture).convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    spec = ImageSpec(size=32, crop_scale=(0.3, 0.8))
    for seed in range(4):
        expected = reference_crop(decode(image), spec, seed)
        assert np.array_equal(train_image(image, spec, np.random.default_rng(seed)), expected)


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_crop_of_a_turned_image_is_that_of_the_upright_one(orientation, draft):
    upright = smooth(301, 215)
    image = stored(upright, orientation, "JPEG", quality=97)
    spec = ImageSpec(size=48, crop_scale=(0.6, 0.9), draft=draft)
    for seed in range(3):
        expected = reference_crop(Image.fromarray(upright), spec, seed)
        result = train_image(image, spec, np.random.default_rng(seed))
        assert np.abs(result.astype(int) - expected).mean() < 1.5 and psnr(result, expected) > 38


@pytest.mark.parametrize(
    ("size", "options"),
    [((1024, 768), {}), ((777, 1033), {}), ((640, 640), {"progressive": True}), ((515, 389), {"subsampling": 0})],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_draft_gives_nearly_the_same_pixels(size, options, mode):
    image = encoded(Image.fromarray(smooth(*size)).convert(mode), "JPEG", quality=92, **options)
    plain, draft = (ImageSpec(size=64, crop_scale=(0.5, 1.0), draft=draft) for draft in (False, True))
    for seed in range(3):
        a, b = (train_image(image, spec, np.random.default_rng(seed)) for spec in (plain, draft))
        assert np.abs(a.astype(int) - b).mean() < 1.0 and psnr(a, b) > 42
        assert not np.array_equal(a, b)  # it was another way


@pytest.mark.parametrize(
    ("side", "decoded"), [(47, 47), (48, 24), (95, 48), (96, 24), (191, 48), (192, 24), (900, 113)]
)
def test_draft_keeps_at_least_the_target_size(side, decoded, monkeypatch):
    sizes, resize, crop = [], Image.Image.resize, Image.Image.crop
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a, **k: sizes.append(self.size) or resize(self, *a, **k))
    monkeypatch.setattr(Image.Image, "crop", lambda self, *a, **k: sizes.append(self.size) or crop(self, *a, **k))
    image = encoded(Image.fromarray(smooth(side, side)), "JPEG")
    sizes.clear()
    spec = ImageSpec(size=24, crop_scale=(1, 1), crop_ratio=(1, 1), draft=True)
    assert train_image(image, spec, np.random.default_rng(0)).shape == (24, 24, 3)
    assert sizes[0] == (decoded, decoded)


def test_draft_changes_no_other_format_and_no_evaluation():
    png = encoded(Image.fromarray(smooth(200, 150)))
    plain, draft = (ImageSpec(size=16, draft=draft) for draft in (False, True))
    a, b = (train_image(png, spec, np.random.default_rng(0)) for spec in (plain, draft))
    assert np.array_equal(a, b)


def test_the_flip_mirrors_about_half_of_the_images():
    rng = np.random.default_rng(0)
    spec = ImageSpec(size=8, flip=True, crop_scale=(1, 1), crop_ratio=(1, 1))
    plain = train_image(gradient(64, 64), ImageSpec(size=8), rng)
    assert plain[0, 0, 0] < 127
    results = [train_image(gradient(64, 64), spec, rng) for _ in range(400)]
    mirrored = [result[0, 0, 0] > 127 for result in results]
    assert 150 < sum(mirrored) < 250
    one, other = results[mirrored.index(True)], results[mirrored.index(False)]
    assert np.array_equal(one, other[:, ::-1])


def test_everything_is_a_function_of_the_generator_s_seed():
    image = encoded(Image.fromarray(smooth(80, 60)), "JPEG")
    spec = ImageSpec(
        size=16, flip=True, color_jitter=(0.4, 0.4, 0.4, 0.1), color_jitter_prob=0.8, grayscale=0.2, randaugment=(2, 9)
    )
    first, again = ([train_image(image, spec, np.random.default_rng(seed)) for seed in range(20)] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({a.tobytes() for a in first}) == 20


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty"), (b"<html>", "not_image"), (GREY_BLUE[:300], "corrupt")])
def test_a_bad_file_is_told_apart_in_training_too(data, reason):
    with pytest.raises(BadExample) as caught:
        train_image(data, ImageSpec(size=8, draft=True), np.random.default_rng(0))
    assert caught.value.reason == reason
    with pytest.raises(BadExample, match="too_large"):
        train_image(GREY_BLUE, ImageSpec(size=8), np.random.default_rng(0), max_pixels=1023)


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.full)])
def test_damaged_files_are_bad_examples_or_images_in_bounded_time_and_memory(count):
    script = runs.ROOT / "tests/helpers/fuzz_images.py"
    done = subprocess.run([sys.executable, script, str(count), "0"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
