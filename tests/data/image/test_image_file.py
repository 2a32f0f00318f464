import struct
import subprocess
import sys
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from mmjax.data.bad_example import BadExample
from mmjax.data.image import image_file
from mmjax.data.image.image_file import decode
from tests.helpers.image_files import encoded, gradient, noise, smooth, stored


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


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, fmt):
    upright = smooth(48, 32)
    options = {"lossless": True} if fmt == "WEBP" else {} if fmt in ("PNG", "TIFF") else {"quality": 95}
    result = np.asarray(decode(stored(upright, orientation, fmt, **options)))
    assert result.shape == (32, 48, 3)
    assert np.abs(result.astype(int) - upright).max() <= (0 if fmt in ("PNG", "WEBP", "TIFF") else 24)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_does_not_exist_changes_nothing(value):
    pixels = gradient(12, 8)
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(decode(encoded(Image.fromarray(pixels), exif=exif)), pixels)


def test_metadata_that_cannot_be_parsed_costs_no_image():
    pixels = gradient(8, 8)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels), exif=b"Exif\0\0garbage")), pixels)


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(fmt):
    first, second = Image.new("RGB", (16, 12), (250, 10, 10)), Image.new("RGB", (16, 12), (10, 250, 10))
    lossless = {"lossless": True} if fmt == "WEBP" else {}
    result = np.asarray(decode(encoded(first, fmt, save_all=True, append_images=[second], **lossless)))
    assert result.shape == (12, 16, 3) and np.ptp(result, axis=(0, 1)).max() == 0
    assert result[0, 0, 0] > 240 and result[0, 0, 1] < 20


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpegs_are_inverted_back_as_photoshop_writes_them(adobe):
    image = encoded(Image.fromarray(smooth(32, 24)).convert("CMYK"), "JPEG", quality=97)
    start = image.index(b"\xff\xee\x00\x0eAdobe")
    image = image if adobe else image[:start] + image[start + 16 :]  # readers in use invert without the marker too
    assert np.abs(np.asarray(decode(image)).astype(int) - smooth(32, 24)).mean() < 2


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P"])
def test_a_colour_that_is_marked_transparent_keeps_its_pixels(mode):
    image = Image.fromarray(gradient(16, 16)).convert(mode)
    transparency = {"1": 1, "L": 60, "RGB": tuple(gradient(16, 16)[3, 4].tolist()), "P": 3}[mode]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = decode(encoded(image, transparency=transparency))
    assert np.array_equal(result, image.convert("RGB"))


def png_with(*chunks):
    """A PNG of 8 x 8 pixels with chunks (name, content) before its pixels."""
    image = encoded(Image.fromarray(noise(8, 8)))
    header = 8 + 25  # signature and IHDR
    body = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    return image[:header] + body + image[header:]


def tiled_tiff(side):
    """A TIFF of 16 x 16 pixels in one tile that its header calls `side` x `side`."""
    tags = [(256, 16), (257, 16), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side), (324, 8), (325, 99)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(tags)) + entries + bytes(4) + bytes(200)


def many_scans(count):
    image = encoded(Image.fromarray(smooth(640, 480)), "JPEG", progressive=True)
    last = image.rindex(b"\xff\xda")
    return image[:last] + image[last : last + 10] * count + image[last:]


JPEG = encoded(Image.fromarray(noise(64, 64)), "JPEG")
BITMAP, GIF = (encoded(Image.new("L", (8, 8)), fmt) for fmt in ("BMP", "GIF"))
BOMB = encoded(Image.new("1", (20000, 20000)))
BAD = {
    "empty": (b"", "empty"),
    "array without pixels": (np.zeros((0, 4, 3), np.uint8), "empty"),
    "text": (b"<html>404 not found</html>", "not_image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not_image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "not_image"),
    "a start of zeros": (bytes(64) + JPEG, "not_image"),
    "header alone": (JPEG[:200], "corrupt"),
    "truncated jpeg": (JPEG[: len(JPEG) // 2], "corrupt"),
    "truncated png": (encoded(Image.fromarray(noise(64, 64)))[:-2000], "corrupt"),
    "truncated webp": (encoded(Image.fromarray(noise(64, 64)), "WEBP")[:-500], "corrupt"),
    "float samples": (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "corrupt"),
    "float array": (np.zeros((4, 4, 3), np.float32), "corrupt"),
    "five channels": (np.zeros((4, 4, 5), np.uint8), "corrupt"),
    "text chunk bomb": (png_with((b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))), "corrupt"),
    "colour profile bomb": (png_with(*[(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))] * 80), "corrupt"),
    "many scans": (many_scans(600), "corrupt"),
    "pixel bomb": (BOMB, "too_large"),
    "tile bomb": (tiled_tiff(40_000), "too_large"),
    "huge bitmap": (BITMAP[:18] + struct.pack("<ii", 60000, 60000) + BITMAP[26:], "too_large"),
    "huge gif": (GIF[:6] + struct.pack("<HH", 60000, 60000) + GIF[10:], "too_large"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_decoded_is_a_bad_example_with_its_reason(name):
    image, reason = BAD[name]
    with pytest.raises(BadExample) as caught:
        decode(image)
    assert caught.value.reason == reason and caught.value.detail


def test_a_pillow_that_lacks_a_format_still_tells_what_is_no_image(monkeypatch):
    monkeypatch.delitem(Image.OPEN, "AVIF")
    image_file._formats.cache_clear()
    try:
        with pytest.raises(BadExample, match="not_image"):
            decode(b"\0\0\0\x20ftypavif" + bytes(64))
        assert decode(JPEG).size == (64, 64)
    finally:
        image_file._formats.cache_clear()


def test_many_pixels_are_refused_and_as_many_as_allowed_are_not():
    assert len(BOMB) < 100_000
    with pytest.raises(BadExample, match="too_large: 64 x 64"):
        decode(JPEG, max_pixels=64 * 64 - 1)
    assert decode(JPEG, max_pixels=64 * 64).size == (64, 64)
    assert decode(many_scans(100)).size == (640, 480)


def test_metadata_take_no_longer_than_pixels():
    part = b"\xff\xe1" + struct.pack(">H", 65535) + b"Exif\0\0" + bytes(65535 - 8)
    started = time.thread_time()
    with pytest.raises(BadExample, match="corrupt: 800 parts of EXIF"):
        decode(JPEG[:2] + part * 800 + JPEG[2:])
    assert decode(JPEG[:2] + part * 200 + JPEG[2:]).size == (64, 64)
    assert time.thread_time() - started < 5


def test_what_pillow_says_about_damaged_files_stays_out_of_the_log():
    """In a process of its own: pytest has its own filters for warnings."""
    palette = Image.fromarray(gradient(16, 16)).quantize(16)
    large = encoded(Image.new("L", (9500, 9500)))  # Pillow warns of it
    files = [large, encoded(palette, transparency=bytes(16)), *BAD_FILES]
    code = """if True:
        import sys
        from mmjax.data.bad_example import BadExample
        from mmjax.data.image import image_file
        reasons = []
        for image in eval(sys.stdin.read()):
            try:
                image_file.decode(image)
            except BadExample as error:
                reasons.append(error.reason)
        print(len(reasons))"""
    done = subprocess.run([sys.executable, "-c", code], input=repr(files), capture_output=True, text=True, check=True)
    assert done.stderr == "" and int(done.stdout) == len(BAD_FILES) + 1


BAD_FILES = [image for image, _ in BAD.values() if isinstance(image, bytes)]


@pytest.mark.full
@pytest.mark.parametrize(("kind", "side"), [("PNG of 16 bits", 9400), ("WEBP", 6600), ("JPEG2000", 6600)])
def test_no_small_file_takes_a_gigabyte(kind, side):
    image = Image.new("I;16" if kind.startswith("PNG") else "RGBA" if kind == "WEBP" else "RGB", (side, side))
    data = encoded(image, kind.partition(" ")[0], **({"lossless": True} if kind == "WEBP" else {}))
    assert len(data) < 400_000
    code = """if True:
        import sys
        from mmjax.data.image.image_file import decode
        decode(sys.stdin.buffer.read())
        print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])"""
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert int(done.stdout) < 1e6  # KiB
