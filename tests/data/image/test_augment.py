"""Changes of colour against formulas in float64; how often each is drawn."""

import collections
import colorsys

import numpy as np
import pytest
from PIL import Image

from mmjax.data.image import augment
from mmjax.data.image.crops import train_image
from mmjax.data.image.transforms import ImageSpec
from tests.helpers.image_files import encoded, gradient, noise

PIXELS = noise(23, 17)
IMAGE = Image.fromarray(PIXELS)


def luma(pixels):
    """ITU-R 601."""
    return np.rint(pixels @ np.array([0.299, 0.587, 0.114]))


def clipped(values):
    return np.clip(values, 0, 255)


def close(image, expected, tolerance=1.0):
    return np.abs(np.asarray(image, dtype=float) - expected).max() <= tolerance


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7, 2.5])
def test_brightness_contrast_and_saturation_follow_their_formulas(factor):
    x, grey = PIXELS.astype(float), luma(PIXELS)[..., None]
    assert close(augment.adjust_brightness(IMAGE, factor), clipped(factor * x))
    assert close(augment.adjust_contrast(IMAGE, factor), clipped(factor * x + (1 - factor) * np.rint(grey.mean())))
    assert close(
        augment.adjust_saturation(IMAGE, factor), clipped(factor * x + (1 - factor) * grey), 1 + abs(1 - factor)
    )


@pytest.mark.parametrize("shift", [-0.5, -0.2, 0.0, 0.1, 0.35, 0.5])
def test_hue_turns_the_colour_circle(shift):
    # Hue has 256 steps: a vivid colour moves by up to 6 levels (255 / 256 * 6 sectors), a shift is cut to whole steps.
    result = np.asarray(augment.adjust_hue(IMAGE, shift), dtype=float)
    turned = int(shift * 255) / 256
    for (r, g, b), got in zip(PIXELS.reshape(-1, 3).tolist(), result.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(r / 255, g / 255, b / 255)
        expected = 255 * np.array(colorsys.hsv_to_rgb((hue + turned) % 1, saturation, value))
        assert np.abs(got - expected).max() <= 9
    assert abs(np.mean(result) - np.mean(PIXELS)) < 8  # no drift
    assert np.abs(np.asarray(augment.adjust_hue(IMAGE, 0.0), dtype=float) - PIXELS).mean() < 1.5


def test_grayscale_is_the_luma_in_three_channels():
    assert close(augment.grayscale(IMAGE), np.repeat(luma(PIXELS)[..., None], 3, -1))


class Recorder:
    """Stands in for the four adjustments and notes what they are called with."""

    def __init__(self, monkeypatch):
        self.calls = []
        names = ("brightness", "contrast", "saturation", "hue")
        record = lambda name: lambda image, value: self.calls.append((name, value)) or image
        monkeypatch.setattr(augment, "_JITTERS", tuple(record(name) for name in names))


def test_jitter_s_factors_are_uniform_and_the_order_is_random(monkeypatch):
    recorder, rng = Recorder(monkeypatch), np.random.default_rng(0)
    orders = collections.Counter()
    values = collections.defaultdict(list)
    for _ in range(4000):
        recorder.calls.clear()
        augment.color_jitter(IMAGE, (0.4, 1.5, 0.2, 0.1), rng)
        orders[tuple(name for name, _ in recorder.calls)] += 1
        for name, value in recorder.calls:
            values[name].append(value)
    assert len(orders) == 24 and min(orders.values()) > 110 and max(orders.values()) < 230  # 167 each
    for name, low, high in (
        ("brightness", 0.6, 1.4),
        ("contrast", 0, 2.5),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
    ):
        draws = (np.array(values[name]) - low) / (high - low)
        assert 0 <= draws.min() < 0.01 and 0.99 < draws.max() <= 1
        assert np.histogram(draws, 8, (0, 1))[0].min() > 400  # 500 each


def test_jitter_leaves_out_what_has_no_strength(monkeypatch):
    recorder = Recorder(monkeypatch)
    augment.color_jitter(IMAGE, (0, 0.4, 0, 0.1), np.random.default_rng(0))
    assert {name for name, _ in recorder.calls} == {"contrast", "hue"}


@pytest.mark.parametrize("seed", range(5))
def test_jitter_is_its_adjustments_one_after_the_other(seed):
    result = augment.color_jitter(IMAGE, (0.8, 0.8, 0.8, 0.2), np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    order, draws = rng.permutation(4), rng.random(4)
    adjustments = (augment.adjust_brightness, augment.adjust_contrast, augment.adjust_saturation, augment.adjust_hue)
    expected = IMAGE
    for i in order:
        factor = -0.2 + 0.4 * draws[3] if i == 3 else 0.2 + 1.6 * draws[i]
        expected = adjustments[i](expected, float(factor))
    assert np.array_equal(result, expected)


# -- what the spec asks for --------------------------------------------------------------------------------------------

FILE = encoded(Image.fromarray(gradient(24, 24)))


def share(changed, n=400, **options):
    spec = ImageSpec(size=24, crop_scale=(1, 1), crop_ratio=(1, 1), **options)
    return np.mean([changed(train_image(FILE, spec, np.random.default_rng(seed))) for seed in range(n)])


@pytest.mark.parametrize("probability", [0.0, 0.2, 1.0])
def test_the_probabilities_are_those_of_the_spec(probability):
    grey = lambda pixels: np.ptp(pixels.astype(int), axis=-1).max() == 0
    jittered = lambda pixels: not np.array_equal(pixels, gradient(24, 24))
    within = pytest.approx(probability, abs=0.06 if 0 < probability < 1 else 0)
    assert share(grey, grayscale=probability) == within
    assert share(jittered, color_jitter=(0.4, 0.4, 0.4, 0.1), color_jitter_prob=probability) == within


def test_what_is_off_changes_nothing_and_draws_nothing():
    plain, off = np.random.default_rng(0), np.random.default_rng(0)
    a = train_image(FILE, ImageSpec(size=12), plain)
    b = train_image(FILE, ImageSpec(size=12, color_jitter_prob=0.5, randaugment=(0, 30)), off)
    assert np.array_equal(a, b) and plain.random() == off.random()
