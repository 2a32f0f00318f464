"""Images for evaluation by the rules of the libraries, on made pictures; `test_images_live` asks the libraries."""

import io

import numpy as np
import pytest
from PIL import Image

from mmjax import tasks
from mmjax.config import parse, schema
from mmjax.data.image import crops
from mmjax.data.image.four_nearest import four_nearest
from mmjax.data.image.image_file import decode
from mmjax.data.image.transforms import RULES, ImageSpec, central_box, eval_image
from mmjax.errors import UserError
from mmjax.inference import inputs
from mmjax.interop import preprocessing
from tests.helpers.image_files import encoded, noise, smooth, stored
from tests.helpers.image_modes import FILES, SIXTEEN_BITS


def made(file, rule, size=16, **fields):
    return eval_image(file, ImageSpec(size=size, image_rule=rule, **fields))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "mode", ["La", "RGBa", "LA", "PA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "1", "I", "F", "I;16"]
)
def test_pil_images_of_any_mode_are_prepared_or_refused_by_name(mode, rule):
    picture = Image.fromarray(smooth(40, 30))
    ways = {"La": "LA", "RGBa": "RGBA", "PA": "LA", "LAB": None, "I;16": "I"}
    picture = Image.new("LAB", (40, 30)) if mode == "LAB" else picture.convert(ways.get(mode, "RGB")).convert(mode)
    for antialias in (True, False):
        spec = ImageSpec(size=16, image_rule=rule, antialias=antialias, interpolation="bilinear")
        if mode in ("La", "I", "F", "I;16"):
            with pytest.raises(UserError, match=rf"images: number 0: a PIL image of mode '{mode}'.*RGB"):
                inputs.to_uint8(picture, spec)
        else:
            assert inputs.to_uint8(picture, spec).shape == (1, 16, 16, 3)


def test_a_record_from_before_there_were_rules_reads_as_what_was_done():
    assert ImageSpec(size=16).image_rule == "mmjax" and ImageSpec(size=16).antialias


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("width", [16, 17, 18, 19, 20, 21, 23, 31])
def test_where_a_centre_crop_begins(rule, width):
    """Of a picture as high as the crop, whose columns say where they are: half of the margin, rounded in two ways."""
    columns = np.repeat(np.arange(width, dtype=np.uint8)[None, :, None], 16, axis=0).repeat(3, axis=2)
    first = int(made(encoded(Image.fromarray(columns)), rule)[0, 0, 0])
    margin = width - 16
    if rule in ("huggingface", "big_vision"):
        assert first == margin // 2
    else:
        assert first == (margin // 2 if margin % 4 != 3 else margin // 2 + 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_who_turns_images_upright(orientation):
    upright = smooth(40, 30)
    file = stored(upright, orientation, "PNG")
    plain = encoded(Image.fromarray(upright))
    as_stored = encoded(Image.fromarray(np.asarray(Image.open(io.BytesIO(file)))))
    for rule in RULES:
        expected = made(plain if rule == "mmjax" else as_stored, rule)
        assert np.abs(made(file, rule).astype(int) - expected).max() <= 1
        picture = Image.open(io.BytesIO(file))
        assert np.array_equal(inputs.to_uint8(picture, ImageSpec(size=16, image_rule=rule))[0], made(file, rule))


def test_what_is_transparent():
    """Red that cannot be seen beside blue that can, meeting in the middle of a pixel."""
    pixels = np.zeros((48, 48, 4), np.uint8)
    pixels[:, :24] = (255, 0, 0, 0)
    pixels[:, 24:] = (0, 0, 255, 255)
    file = encoded(Image.fromarray(pixels))
    left = {rule: tuple(made(file, rule)[8, 1].tolist()) for rule in RULES}
    # Dropped, blended away while it is resized (nothing is left to show), or on white.
    assert left["mmjax"] == left["big_vision"] == (255, 0, 0)
    assert left["open_clip"] == (0, 0, 0) and left["huggingface"] == (255, 255, 255)
    assert all(tuple(made(file, rule)[8, 14].tolist()) == (0, 0, 255) for rule in RULES)
    # The same pixels as an array.
    for rule in RULES:
        assert np.array_equal(eval_image(pixels, ImageSpec(size=16, image_rule=rule)), made(file, rule))


def test_palettes_are_resized_before_or_after_they_become_colours():
    picture = Image.fromarray(smooth(48, 48)).quantize(16)
    file = encoded(picture)
    expanded = encoded(picture.convert("RGB"))
    for rule in ("mmjax", "huggingface", "big_vision"):
        assert np.array_equal(made(file, rule), made(expanded, rule))
    nearest = np.asarray(picture.convert("RGB"))[1::3, 1::3]
    assert np.array_equal(made(file, "open_clip"), nearest)


def test_all_files_are_read_by_all_rules():
    for file in FILES.values():
        for rule in RULES:
            for resize in ("crop", "squash"):
                assert made(file, rule, resize=resize).shape == (16, 16, 3)


@pytest.mark.parametrize("rule", RULES)
def test_sixteen_bits_keep_their_high_byte_with_a_colour_key_and_without(rule):
    for name in SIXTEEN_BITS:
        samples = np.asarray(Image.open(io.BytesIO(FILES[name]))).astype(np.int64) >> 8
        grey = encoded(Image.fromarray(samples.astype(np.uint8)).convert("RGB"))
        assert np.array_equal(made(FILES[name], rule), made(grey, rule)), name


# -- without antialiasing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(48, 31), (31, 48), (16, 16), (3, 5), (1, 1), (200, 160)])
def test_four_nearest_pixels_in_float64(size):
    """By the formula: half-pixel centres, neighbours that are not there are the border's, rounded down."""
    pixels = noise(*size)
    result = four_nearest(pixels, 16, 12)
    height, width = pixels.shape[:2]
    for row in range(12):
        for column in range(16):
            y, x = (row + 0.5) * height / 12 - 0.5, (column + 0.5) * width / 16 - 0.5
            top, left = int(np.floor(y)), int(np.floor(x))
            total = np.zeros(3)
            for i, share in ((top, top + 1 - y), (top + 1, y - top)):
                for j, part in ((left, left + 1 - x), (left + 1, x - left)):
                    total += share * part * pixels[np.clip(i, 0, height - 1), np.clip(j, 0, width - 1)]
            assert np.all(result[row, column] <= total + 1e-3) and np.all(result[row, column] > total - 1 - 1e-3)


@pytest.mark.parametrize("window", [(0, 0, 12, 16), (3, 2, 9, 16), (11, 15, 12, 16)])
def test_a_window_of_the_four_nearest_is_that_part_of_all(window):
    pixels = noise(31, 48)
    left, top, right, bottom = window
    assert np.array_equal(four_nearest(pixels, 12, 16, window), four_nearest(pixels, 12, 16)[top:bottom, left:right])


@pytest.mark.parametrize("size", [(1, 12), (12, 1), (1, 2200), (2200, 1), (2, 301), (1, 1)])
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_narrow_pictures_without_antialiasing(size, resize):
    """Also those that would be too long for the memory at full length."""
    spec = ImageSpec(size=224, resize=resize, train_resize="center", interpolation="bilinear", antialias=False)
    pixels = noise(*size)
    made = eval_image(encoded(Image.fromarray(pixels)), spec)
    assert made.shape == (224, 224, 3)
    middle = np.array(pixels.shape[:2]) // 2 - 1, np.array(pixels.shape[:2]) // 2 + 1
    near = pixels[max(0, middle[0][0]) : middle[1][0] + 1, max(0, middle[0][1]) : middle[1][1] + 1]
    if resize == "crop":  # nothing but the middle is seen
        assert near.min() <= made.min() and made.max() <= near.max()
    trained = crops.train_image(pixels, spec, np.random.default_rng(0))
    assert trained.shape == (224, 224, 3)
    if max(size) > 1 and min(size) == 1:  # one pixel of the middle
        assert (trained == trained[0, 0]).all() and (near == trained[0, 0]).all(axis=-1).any()


@pytest.mark.parametrize("antialias", [True, False])
def test_the_middle_is_never_empty(antialias):
    """Boxes lie in the picture, and have the sides that evaluation's have, rounded."""
    for width in (*range(1, 40), 333, 999, 2200):
        for height in (1, 2, 7, 12, 31, 500):
            interpolation = "bicubic" if antialias else "bilinear"
            spec = ImageSpec(size=24, train_resize="center", interpolation=interpolation, antialias=antialias)
            left, top, right, bottom = crops.training_box(width, height, spec, np.random.default_rng(0))
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
            exact = central_box(width, height, spec)
            parts = 1 if not antialias or min(width, height) >= 48 else 8
            for one, other, start, stop in zip((left, top), (right, bottom), exact[:2], exact[2:], strict=True):
                assert abs(other - one - (stop - start)) <= 0.5 / parts and abs(one - start) <= 1 / parts
                assert one * parts == int(one * parts) and other * parts == int(other * parts)


def test_a_picture_of_one_colour_keeps_it():
    assert (four_nearest(np.full((301, 77, 3), 199, np.uint8), 224, 224) == 199).all()


def test_training_takes_the_same_pixels():
    spec = ImageSpec(size=16, resize="squash", train_resize="squash", interpolation="bilinear", antialias=False)
    for name in ("RGB 333x500", "JPEG 300x201", "palette 90x60", "grey 61x90"):
        assert np.array_equal(
            crops.train_image(FILES[name], spec, np.random.default_rng(0)), eval_image(FILES[name], spec)
        )
    box = crops.training_box(90, 60, ImageSpec(size=16), np.random.default_rng(3))
    left, top, right, bottom = map(int, box)
    cropped = ImageSpec(size=16, interpolation="bilinear", antialias=False)
    pixels = np.asarray(decode(FILES["exif 1"]).crop((0, 0, 90, 60)))
    assert np.array_equal(
        crops.train_image(pixels, cropped, np.random.default_rng(3)),
        four_nearest(pixels[top:bottom, left:right], 16, 16),
    )


def test_mistakes_are_told():
    config = schema.base_config()
    config.data.antialias = False
    with pytest.raises(UserError, match="data.antialias=False goes with data.interpolation='bilinear' alone"):
        tasks.make_image_spec(parse(config))
    config.data.interpolation = "bilinear"
    assert not tasks.make_image_spec(parse(config)).antialias
    config.data.resize_on = "device"
    with pytest.raises(
        UserError,
        match="data.antialias=False is done on the host alone; set data.resize_on='auto', or data.antialias to",
    ):
        tasks.check_images(parse(config))
    config.data.image_rule = "openclip"
    with pytest.raises(UserError, match="data.image_rule='openclip'.*did you mean 'open_clip'"):
        tasks.make_image_spec(parse(config))


def test_the_rule_of_each_library():
    assert preprocessing.defaults(True, "open_clip")["image_rule"] == "open_clip"
    defaults = preprocessing.defaults(False, "big_vision")
    assert (defaults["resize"], defaults["interpolation"], defaults["antialias"]) == ("squash", "bilinear", False)
    assert preprocessing.exported_interpolation(defaults) == "bicubic"
    assert preprocessing.exported_interpolation(preprocessing.defaults(False, "huggingface")) == "bicubic"
    assert preprocessing.exported_interpolation(dict(interpolation="bilinear")) == "bilinear"


def test_what_evaluation_depends_on():
    """Told in results and indexes: as before there were rules where nothing else is done now."""
    spec = ImageSpec(size=16)
    assert sorted(spec.of_evaluation()) == ["interpolation", "mean", "resize", "size", "std"]
    other = ImageSpec(size=16, image_rule="huggingface", train_resize="squash", flip=True)
    assert other.of_evaluation() == {**spec.of_evaluation(), "image_rule": "huggingface"}
    aliased = ImageSpec(size=16, interpolation="bilinear", antialias=False)
    assert aliased.of_evaluation() == {**spec.of_evaluation(), "interpolation": "bilinear", "antialias": False}
