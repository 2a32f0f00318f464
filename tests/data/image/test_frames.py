"""Training images in frames: what they hold, and that the device makes of them what the host would have made."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from PIL import Image

from mmjax.data.bad_example import BadExample
from mmjax.data.image import crops, frames, jpeg
from mmjax.data.image.transforms import ImageSpec
from mmjax.nn import resize
from tests.helpers.image_files import GREY_BLUE, encoded, gradient, noise, smooth, stored

resize_frames = jax.jit(resize.resize_frames, static_argnums=(2, 3))


def both(files, spec, seeds=range(3)):
    """Pixels of the device's way and of the host's, uint8-valued int [N, S, S, 3], for each file and seed."""
    seen = [frames.train_frame(file, spec, np.random.default_rng(seed)) for file in files for seed in seeds]
    pictures, boxes = (np.stack(item) for item in zip(*seen, strict=True))
    host = dataclasses.replace(spec, frame=0)
    expected = [crops.train_image(file, host, np.random.default_rng(seed)) for file in files for seed in seeds]
    result = np.asarray(resize_frames(pictures, boxes, spec.size, spec.interpolation))
    assert np.array_equal(result, result.astype(np.uint8))
    return result.astype(int), np.stack(expected).astype(int), boxes


def assert_alike(result, expected):
    difference = np.abs(result - expected)
    assert difference.max() <= 1
    assert difference.mean() <= 0.01


def test_both_sides_count_in_the_same_parts_of_a_pixel():
    assert frames.UNIT == resize.UNIT


SIZES = [(1, 1), (1, 7), (3, 2), (24, 24), (48, 48), (31, 64), (64, 31), (25, 23), (63, 64), (200, 9), (77, 80)]


# With few pixels many of the bilinear filter's sums are halves, which rounding may take either way.
@pytest.mark.parametrize(("interpolation", "size"), [("bicubic", 24), ("bicubic", 50), ("bilinear", 50)])
@pytest.mark.parametrize("picture", [noise, smooth, gradient])
def test_the_device_resizes_as_the_host_does(picture, interpolation, size):
    spec = ImageSpec(
        size=size, frame=96, interpolation=interpolation, crop_scale=(0.05, 1.0), crop_ratio=(0.4, 2.5), flip=True
    )
    result, expected, boxes = both([picture(*item) for item in SIZES], spec, range(12))
    assert_alike(result, expected)
    assert boxes[:, 6].any() and not boxes[:, 6].all()
    # Most travelled as they were, up and down in size; only some were resized on the host.
    extents = (boxes[:, 2:4] - boxes[:, :2]) / frames.UNIT
    assert (extents > size).any() and (extents < size).any() and (boxes[:, 4:6] != size).any(axis=1).mean() > 0.7


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"mode": "L"}, {"mode": "CMYK"}])
def test_jpegs_of_every_scale_come_out_alike(options):
    spec = ImageSpec(size=24, frame=64, crop_scale=(0.4, 1.0), draft=True, flip=True)
    sizes = [(20, 30), (47, 47), (48, 49), (97, 120), (211, 193), (401, 600)]
    options = dict(options)
    mode = options.pop("mode", "RGB")
    files = [encoded(Image.fromarray(smooth(*size)).convert(mode), "JPEG", quality=93, **options) for size in sizes]
    result, expected, boxes = both(files, spec, range(8))
    assert_alike(result, expected)
    assert (boxes[:, :4] % frames.UNIT).any()  # libjpeg divided some


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_files_of_any_mode_come_out_alike(mode):
    picture = smooth(60, 50)
    if mode == "I;16":
        image = Image.fromarray(picture[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(picture).convert(mode)
    spec = ImageSpec(size=32, frame=64, crop_scale=(0.3, 0.8))
    result, expected, _ = both([encoded(image, "TIFF" if mode == "CMYK" else "PNG")], spec)
    if mode in ("P", "1"):
        assert np.abs(result - expected).max() <= 1
    else:
        assert_alike(result, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_images_come_out_alike(orientation):
    spec = ImageSpec(size=24, frame=64, crop_scale=(0.5, 0.9), flip=True)
    result, expected, boxes = both([stored(smooth(60, 45), orientation, "JPEG", quality=95)], spec, range(6))
    assert_alike(result, expected)
    assert (boxes[:, 4] == 24).all() == (orientation > 1)  # resized and turned on the host


@pytest.mark.gpu
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_gpu_resizes_as_the_host_does(interpolation):
    assert jax.default_backend() == "gpu"
    spec = ImageSpec(size=224, frame=384, interpolation=interpolation, crop_scale=(0.3, 1.0), flip=True)
    files = [smooth(*size) for size in ((256, 256), (341, 256), (256, 341), (240, 375), (100, 80))]
    result, expected, _ = both(files, spec, range(12))
    assert_alike(result, expected)


def test_both_orders_of_the_passes_come_out_alike(monkeypatch):
    """Of Pillow before version 13, which always begins with the horizontal pass, and since."""
    spec = ImageSpec(size=24, frame=96, crop_scale=(0.5, 1.0))
    files = [noise(30, 90), noise(90, 30), noise(20, 60), noise(25, 40)]
    result, expected, boxes = both(files, spec, range(6))
    assert_alike(result, expected)
    assert len(set(boxes[:, 7].tolist())) == 1 + frames._has_order()
    resize_in_c = Image.Image.resize

    def horizontal_first(self, size, resample, box):
        left, top, right, bottom = box
        narrow = resize_in_c(self, (size[0], self.height), resample, box=(left, 0, right, self.height))
        return resize_in_c(narrow, size, resample, box=(0, top, size[0], bottom))

    monkeypatch.setattr(Image.Image, "resize", horizontal_first)
    monkeypatch.setattr(frames, "_has_order", lambda: False)
    result, expected, boxes = both(files, spec, range(6))
    assert_alike(result, expected)
    assert not boxes[:, 7].any()


def test_what_the_host_resized_passes_through_unchanged():
    spec = ImageSpec(size=24, frame=32, flip=True)
    result, expected, boxes = both([noise(300, 200), noise(24, 24)], spec, range(8))
    assert np.array_equal(result, expected)
    assert (boxes[:, :4] == [0, 0, 24 * frames.UNIT, 24 * frames.UNIT]).all() or (boxes[8:, :4] >= 0).all()


def test_what_lies_beside_the_picture_does_not_count():
    spec = ImageSpec(size=24, frame=96, crop_scale=(0.5, 1.0))
    frame, box = frames.train_frame(smooth(50, 40), spec, np.random.default_rng(0))
    other = np.full_like(frame, 255)
    other[: box[5], : box[4]] = frame[: box[5], : box[4]]
    assert not np.array_equal(frame, other)
    results = [np.asarray(resize_frames(item[None], box[None], 24, "bicubic")) for item in (frame, other)]
    assert np.array_equal(*results)


def test_the_frame_holds_only_what_the_filter_sees():
    spec = ImageSpec(size=24, frame=64, crop_scale=(0.02, 0.05), crop_ratio=(1, 1))
    result, expected, boxes = both([noise(200, 200)], spec, range(20))  # the picture would not fit
    assert_alike(result, expected)
    assert (boxes[:, 4:6] < 64).all() and (boxes[:, 4:6] > 24).all()


def test_a_black_picture_is_black():
    spec = ImageSpec(size=24, frame=32)
    frame, box = frames.blank_frame(spec)
    assert not np.asarray(resize_frames(frame[None], box[None], 24, "bicubic")).any()


# -- the side of frames ------------------------------------------------------------------------------------------------


def side(sizes, **options):
    spec = ImageSpec(**{"size": 32, "crop_scale": (1.0, 1.0), **options})
    files = [encoded(Image.new("RGB", size), "JPEG") for size in sizes]
    return frames.choose_side(files, spec)


def test_frames_are_as_large_as_nine_tenths_of_the_pictures():
    assert side([(32, 32)] * 10) == (32, 10, 10)
    assert side([(33, 32)] * 10) == (64, 10, 10)
    assert side([(32, 32)] * 9 + [(70, 70)]) == (32, 9, 10)
    assert side([(32, 32)] * 8 + [(70, 70)] * 2) == (96, 10, 10)


def test_pictures_that_are_too_large_for_any_frame_do_not_count():
    assert side([(33, 40)] * 5 + [(500, 500)] * 5) == (64, 5, 10)
    assert side([(500, 500)] * 5) == (32, 0, 5)
    assert side([(500, 500)] * 5, draft=True) == (64, 5, 5)  # libjpeg divides them by eight


def test_pictures_that_cannot_be_opened_do_not_count():
    spec = ImageSpec(size=32, crop_scale=(1.0, 1.0))
    assert frames.choose_side([b"", b"text", GREY_BLUE, noise(40, 40)], spec) == (64, 2, 2)
    assert frames.choose_side([], spec) == (32, 0, 0)


def test_the_side_without_a_picture():
    assert [frames.default_side(size) for size in (224, 256, 336, 384)] == [256, 320, 384, 448]


# -- decoders ----------------------------------------------------------------------------------------------------------


def test_the_faster_decoder_is_the_one_that_runs():
    assert jpeg.describe().startswith("libjpeg-turbo (simplejpeg ")


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 75, 95, 100])
def test_both_decoders_give_the_same_pixels(quality, subsampling, mode, options):
    for picture in (noise, smooth):
        for size in ((96, 64), (127, 33), (17, 250), (8, 8), (1, 1)):
            image = Image.fromarray(picture(*size)).convert(mode)
            file = encoded(image, "JPEG", quality=quality, subsampling=subsampling, **options)
            for scale in (1, 2, 4, 8):
                if min(size) < 2 * scale and scale > 1:
                    continue
                opened = Image.open(io.BytesIO(file))
                if scale > 1:
                    opened.draft(None, (size[0] // scale, size[1] // scale))
                decoded = jpeg.decode_pixels(file, opened, scale)
                expected = np.asarray(opened)
                assert np.array_equal(decoded.reshape(expected.shape), expected)


def test_what_is_no_plain_jpeg_is_left_to_pillow():
    for file in (encoded(Image.fromarray(smooth(20, 20)).convert("CMYK"), "JPEG"), encoded(Image.new("RGB", (8, 8)))):
        assert jpeg.decode_pixels(file, Image.open(io.BytesIO(file)), 1) is None
    broken = encoded(Image.fromarray(noise(64, 64)), "JPEG")[:-300]
    assert jpeg.decode_pixels(broken, Image.open(io.BytesIO(broken)), 1) is None


@pytest.mark.parametrize("decoded", [None, "other pixels"])
def test_another_decoder_is_used_only_if_it_decodes_alike(decoded, monkeypatch):
    import simplejpeg

    decode = simplejpeg.decode_jpeg
    if decoded is None:
        monkeypatch.setitem(__import__("sys").modules, "simplejpeg", None)
    else:
        monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **options: decode(*args, **options) ^ 1)
    jpeg._library.cache_clear()
    try:
        assert jpeg.describe().startswith("Pillow (simplejpeg ")
        file = encoded(Image.fromarray(smooth(20, 20)), "JPEG")
        assert jpeg.decode_pixels(file, Image.open(io.BytesIO(file)), 1) is None
        assert_alike(*both([file], ImageSpec(size=8, frame=32))[:2])
    finally:
        monkeypatch.undo()
        jpeg._library.cache_clear()


@pytest.mark.parametrize(("data", "reason"), [(b"", "empty"), (b"<html>", "not_image"), (GREY_BLUE[:300], "corrupt")])
def test_a_bad_file_is_a_bad_example_here_too(data, reason):
    with pytest.raises(BadExample) as caught:
        frames.train_frame(data, ImageSpec(size=8, frame=32, draft=True), np.random.default_rng(0))
    assert caught.value.reason == reason


def test_a_frame_smaller_than_the_model_s_images_is_refused():
    from mmjax.errors import UserError

    with pytest.raises(UserError, match="smaller"):
        ImageSpec(size=64, frame=32)
