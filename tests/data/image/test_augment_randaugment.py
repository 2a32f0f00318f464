"""RandAugment's policies: each operation against its source's formula, and how often each is drawn."""

import collections
import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mmjax.data.image import augment
from mmjax.data.image.augment import POLICIES
from mmjax.data.image.crops import train_image
from mmjax.data.image.transforms import ImageSpec
from mmjax.errors import UserError
from tests.helpers.image_files import encoded, gradient, noise, smooth

PIXELS = noise(23, 17)
IMAGE = Image.fromarray(PIXELS)
RNG = np.random.default_rng(0)
TORCHVISION = POLICIES["torchvision"].operations


def luma(pixels):
    """ITU-R 601."""
    return np.rint(pixels @ np.array([0.299, 0.587, 0.114]))


def clipped(values):
    return np.clip(values, 0, 255)


def gathered(pixels, source):
    """out[y, x] = pixels at source(x, y), of pixel centres and rounded down; black outside."""
    out = np.zeros_like(pixels)
    height, width = pixels.shape[:2]
    for y in range(height):
        for x in range(width):
            u, v = (math.floor(c) for c in source(x + 0.5, y + 0.5))
            if 0 <= u < width and 0 <= v < height:
                out[y, x] = pixels[v, u]
    return out


def stretched(channel):
    low, high = int(channel.min()), int(channel.max())
    return clipped((channel.astype(float) - low) * 255 / (high - low)).astype(np.uint8)


def equalized(channel):
    """Pillow's and torchvision's rule: cumulative counts divided by a step that leaves the last value out."""
    counts = np.bincount(channel.ravel(), minlength=256)
    step = (counts.sum() - counts[counts > 0][-1]) // 255
    if step == 0:
        return channel
    table = (step // 2 + np.concatenate([[0], np.cumsum(counts)[:-1]])) // step
    return np.clip(table, 0, 255).astype(np.uint8)[channel]


def per_channel(function):
    return np.stack([function(PIXELS[..., c]) for c in range(3)], -1)


WIDTH, HEIGHT = IMAGE.size


def expected_operation(name, bins, sign):
    """torchvision's `_augmentation_space` with 31 bins and its `_apply_op`, on PIXELS."""
    level = sign * np.linspace(0, 0.9, 31)[bins]
    shear = sign * np.linspace(0, 0.3, 31)[bins]
    dx = int(sign * np.linspace(0, 150 / 331 * WIDTH, 31)[bins])
    dy = int(sign * np.linspace(0, 150 / 331 * HEIGHT, 31)[bins])
    angle = math.radians(sign * np.linspace(0, 30, 31)[bins])
    bits = 8 - int(round(bins / (30 / 4)))
    threshold = np.linspace(255, 0, 31)[bins]
    cos, sin, cx, cy = math.cos(angle), math.sin(angle), WIDTH / 2, HEIGHT / 2
    x, grey = PIXELS.astype(float), luma(PIXELS)[..., None]
    blurred = np.asarray(IMAGE.filter(ImageFilter.SMOOTH), dtype=float)
    return {
        "Identity": lambda: PIXELS,
        "ShearX": lambda: gathered(PIXELS, lambda u, v: (u + shear * v, v)),
        "ShearY": lambda: gathered(PIXELS, lambda u, v: (u, v + shear * u)),
        "TranslateX": lambda: gathered(PIXELS, lambda u, v: (u - dx, v)),
        "TranslateY": lambda: gathered(PIXELS, lambda u, v: (u, v - dy)),
        "Rotate": lambda: gathered(
            PIXELS,
            lambda u, v: (cx + cos * (u - cx) - sin * (v - cy), cy + sin * (u - cx) + cos * (v - cy)),
        ),
        "Brightness": lambda: clipped((1 + level) * x),
        "Color": lambda: clipped((1 + level) * x - level * grey),
        "Contrast": lambda: clipped((1 + level) * x - level * np.rint(grey.mean())),
        "Sharpness": lambda: clipped((1 + level) * x - level * blurred),
        "Posterize": lambda: PIXELS & (256 - (1 << (8 - bits))),
        "Solarize": lambda: np.where(threshold > PIXELS, PIXELS, 255 - PIXELS),
        "AutoContrast": lambda: per_channel(stretched),
        "Equalize": lambda: per_channel(equalized),
    }[name]()


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("bins", [0, 5, 9, 17, 30])
@pytest.mark.parametrize("name", TORCHVISION)
def test_an_operation_of_randaugment_equals_its_definition(name, bins, sign):
    result = np.asarray(TORCHVISION[name](IMAGE, bins / 30, sign, RNG), dtype=float)
    difference = np.abs(result - expected_operation(name, bins, sign))
    if name in ("ShearX", "ShearY", "Rotate"):  # a pixel whose source lies on a border may round to the neighbour
        assert (difference.max(-1) > 0).mean() < 0.02
    else:
        assert difference.max() <= (
            2 if name in ("Brightness", "Color", "Contrast", "Sharpness", "AutoContrast") else 0
        )


def test_equalize_of_a_large_image_uses_all_levels():
    dark = Image.fromarray((smooth(64, 64) // 4).astype(np.uint8))
    result = np.asarray(TORCHVISION["Equalize"](dark, 0.3, 1.0, RNG))
    assert np.asarray(dark).max() < 64 and result.max() == 255


# -- TensorFlow's AutoAugment, of which ALBEF and big_vision have copies -----------------------------------------------


def blended(degenerate, image, factor):
    return clipped(degenerate + factor * (image - degenerate))


def filled(pixels, source):
    """`gathered`, with grey outside."""
    inside = gathered(np.ones_like(pixels), source)
    return np.where(inside, gathered(pixels, source), 128)


def expected_of_tensorflow(name, magnitude, sign, translation):
    """`level_to_arg` and the operation of tensorflow/tpu's autoaugment.py, on PIXELS."""
    level, x = magnitude / 10, PIXELS.astype(float)
    factor = level * 1.8 + 0.1
    shear, shift, angle = sign * level * 0.3, sign * level * translation, math.radians(sign * level * 30)
    cos, sin, cx, cy = math.cos(angle), math.sin(angle), WIDTH / 2, HEIGHT / 2
    turn = lambda u, v: (cx + cos * (u - cx) - sin * (v - cy), cy + sin * (u - cx) + cos * (v - cy))
    blurred = np.asarray(IMAGE.filter(ImageFilter.SMOOTH), dtype=float)
    return {
        "Identity": lambda: x,
        "ShearX": lambda: filled(PIXELS, lambda u, v: (u + shear * v, v)),
        "ShearY": lambda: filled(PIXELS, lambda u, v: (u, v + shear * u)),
        "TranslateX": lambda: filled(PIXELS, lambda u, v: (u + shift, v)),
        "TranslateY": lambda: filled(PIXELS, lambda u, v: (u, v + shift)),
        "Rotate": lambda: filled(PIXELS, turn),
        "Brightness": lambda: blended(0.0, x, factor),
        "Color": lambda: blended(luma(PIXELS)[..., None], x, factor),
        "Contrast": lambda: blended(float(WIDTH * HEIGHT // 256), x, factor),  # a count divided by 256, not a mean
        "Sharpness": lambda: blended(blurred, x, factor),
        "Posterize": lambda: (PIXELS >> (8 - int(level * 4))) << (8 - int(level * 4)),
        "Solarize": lambda: np.where(int(level * 256) > PIXELS, PIXELS, 255 - PIXELS),
        "SolarizeAdd": lambda: np.where(x < 128, clipped(x + int(level * 110)), x),
        "Invert": lambda: 255 - PIXELS,
        "AutoContrast": lambda: per_channel(stretched),
        "Equalize": lambda: per_channel(equalized),
    }[name]()


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("magnitude", [1, 5, 7, 10])
@pytest.mark.parametrize("name", sorted(POLICIES["big_vision"].operations.keys() - {"Cutout"}))
def test_an_operation_of_big_vision_equals_its_definition(name, magnitude, sign):
    result = POLICIES["big_vision"].operations[name](IMAGE, magnitude / 10, sign, RNG)
    difference = np.abs(np.asarray(result, dtype=float) - expected_of_tensorflow(name, magnitude, sign, 100))
    if name in ("ShearX", "ShearY", "Rotate"):  # a pixel whose source lies on a border may round to the neighbour
        assert (difference.max(-1) > 0).mean() < 0.02
    else:
        assert difference.max() <= (
            2 if name in ("Brightness", "Color", "Contrast", "Sharpness", "AutoContrast") else 0
        )


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("name", sorted(POLICIES["albef"].operations))
def test_an_operation_of_albef_equals_its_definition(name, sign):
    """At magnitude 7; moved images are interpolated, so that only whole pixels are compared exactly."""
    result = np.asarray(POLICIES["albef"].operations[name](IMAGE, 0.7, sign, RNG), dtype=float)
    expected = expected_of_tensorflow(name, 7, sign, 10)
    if name in ("ShearX", "ShearY", "Rotate"):
        assert np.corrcoef(result.ravel(), expected.ravel())[0, 1] > 0.7
        assert (result == 128).all(-1).sum() >= 0.5 * (expected == 128).all(-1).sum() > 0
    else:
        assert np.abs(result - expected).max() <= (2 if name in ("Brightness", "Sharpness", "AutoContrast") else 0)


def test_cutout_paints_a_grey_square_anywhere():
    white = Image.new("RGB", (224, 224), (255, 255, 255))
    rng, centres = np.random.default_rng(0), []
    for _ in range(200):
        grey = np.asarray(POLICIES["big_vision"].operations["Cutout"](white, 1.0, 1.0, rng))[..., 0] == 128
        rows, columns = np.flatnonzero(grey.any(1)), np.flatnonzero(grey.any(0))
        assert grey.sum() == len(rows) * len(columns) and 40 <= len(rows) <= 80 and 40 <= len(columns) <= 80
        centres.append((rows.mean(), columns.mean()))
    assert np.std(centres, axis=0).min() > 40


# -- drawing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, count", [("torchvision", 14), ("albef", 10), ("big_vision", 16)])
def test_every_operation_and_sign_is_drawn_alike(name, count):
    calls, policy = collections.Counter(), POLICIES[name]
    recorded = lambda op: lambda image, level, sign, rng: calls.update([(op, level, sign)]) or image
    policy = augment.Policy(policy.max_magnitude, {op: recorded(op) for op in policy.operations}, policy.probability)
    rng = np.random.default_rng(0)
    for _ in range(200 * count):
        augment.rand_augment(IMAGE, policy, 2, 9, rng)
    assert len(policy.operations) == count and len(calls) == 2 * count
    assert {level for _, level, _ in calls} == {9 / policy.max_magnitude}
    expected_count = 200 * policy.probability
    assert min(calls.values()) > 0.7 * expected_count and max(calls.values()) < 1.3 * expected_count


FILE = encoded(Image.fromarray(gradient(24, 24)))


def test_randaugment_gives_its_operations_on_the_crop():
    spec = ImageSpec(size=24, crop_scale=(1, 1), crop_ratio=(1, 1), randaugment=(3, 30))
    results = {train_image(FILE, spec, np.random.default_rng(seed)).tobytes() for seed in range(60)}
    assert len(results) > 50


def test_randaugment_is_its_operations_one_after_the_other():
    result = augment.rand_augment(IMAGE, POLICIES["torchvision"], 3, 20, np.random.default_rng(7))
    rng, expected = np.random.default_rng(7), IMAGE
    for _ in range(3):
        name = list(TORCHVISION)[int(14 * rng.random())]
        expected = TORCHVISION[name](expected, 20 / 30, -1.0 if rng.random() < 0.5 else 1.0, RNG)
    assert np.array_equal(result, expected) and not np.array_equal(result, IMAGE)


def test_a_policy_is_part_of_the_spec():
    strongest = {"torchvision": 30, "albef": 10, "big_vision": 10}
    for policy, largest in strongest.items():
        spec = ImageSpec(size=24, randaugment=(2, largest), randaugment_policy=policy)
        results = {train_image(FILE, spec, np.random.default_rng(seed)).tobytes() for seed in range(40)}
        assert len(results) > 20
        with pytest.raises(UserError, match=f"magnitude from 0 to {largest}, the largest of data.randaugment_policy"):
            ImageSpec(size=24, randaugment=(2, largest + 1), randaugment_policy=policy)


def test_a_policy_without_operations_is_refused():
    with pytest.raises(
        UserError, match=r"data.randaugment_policy='albef' is not read: data.randaugment=\(0, 9\) is off"
    ):
        ImageSpec(size=24, randaugment_policy="albef")
    with pytest.raises(UserError, match="big_visoin.*did you mean.*big_vision"):
        ImageSpec(size=24, randaugment=(2, 9), randaugment_policy="big_visoin")
