"""Decodes damaged images: `python fuzz_images.py COUNT SEED`. Anything but an array or a BadExample ends it in error.

Run in a process of its own with limits on memory and time, so that a crash, a hang or a bomb is seen as one.
"""

import collections
import resource
import sys
from unittest import mock

import numpy as np
from PIL import Image

from mmjax.data.bad_example import BadExample
from mmjax.data.image import crops, frames, jpeg, transforms
from tests.helpers.image_files import encoded, noise, smooth


def originals():
    photo, small = Image.fromarray(smooth(61, 47)), Image.fromarray(noise(19, 23))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [small.resize(photo.size)]}
    yield from (encoded(photo, "JPEG", exif=exif, progressive=progressive) for progressive in (False, True))
    yield encoded(photo.convert("CMYK"), "JPEG")
    yield encoded(photo.convert("L"), "JPEG")
    yield encoded(photo, "JPEG", quality=97, subsampling=0)
    yield from (encoded(small.convert(mode)) for mode in ("1", "L", "LA", "P", "RGB", "RGBA"))
    yield encoded(Image.fromarray(noise(9, 9)[..., 0].astype(np.uint16) * 257))
    yield encoded(photo, "PNG", exif=exif, **frames)
    yield from (encoded(photo, "WEBP", exif=exif, lossless=lossless) for lossless in (False, True))
    yield from (encoded(photo, fmt, **frames) for fmt in ("WEBP", "GIF", "TIFF"))
    yield from (encoded(small, "TIFF", compression=c) for c in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"))
    yield encoded(small.convert("1"), "TIFF", compression="group4")
    yield from (encoded(small.convert(mode), fmt) for fmt in ("BMP", "PPM") for mode in ("1", "L", "RGB"))
    yield from (encoded(photo, fmt) for fmt in ("JPEG2000", "AVIF"))


def damaged(files, rng):
    """Bytes flipped, cut out, repeated, or spliced from another file; sizes and offsets set to extremes."""
    data = bytearray(files[rng.integers(len(files))])
    for _ in range(rng.integers(1, 5)):
        # Headers steer the decoders, and are short.
        end = min(len(data), 200) if rng.random() < 0.6 else len(data)
        if end < 2:
            break
        a, b = sorted(rng.integers(0, end, 2).tolist())
        kind = rng.integers(6)
        if kind == 0:
            data[a] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[a] = int(rng.integers(256))
        elif kind == 2:
            data[a : a + 4] = bytes([[0, 255, 127, 128][rng.integers(4)]] * 4)
        elif kind == 3:
            del data[a:b]
        elif kind == 4:
            data[a:a] = data[a:b]
        else:
            data[a:] = files[rng.integers(len(files))][a:]
    return bytes(data)


def framed(data, spec, key):
    """What becomes of a file on its way to a device that resizes it: frame and box, or why it is a bad example."""
    try:
        frame, box = frames.train_frame(data, spec, np.random.default_rng(key))
        return frame.tobytes(), box.tobytes()
    except BadExample as error:
        return error.reason, error.detail


def check_decoders(data, key):
    """Both decoders of JPEGs make the same of a file; whether it can be used is what the host's way says, too."""
    spec = transforms.ImageSpec(size=16, draft=True, frame=64)
    result = framed(data, spec, key)
    with mock.patch.object(jpeg, "decode_pixels", lambda *_: None):
        assert framed(data, spec, key) == result, key
    try:
        crops.train_image(data, spec, np.random.default_rng(key))
        assert isinstance(result[0], bytes), key
    except BadExample as error:
        assert (error.reason, error.detail) == result, key
    return isinstance(result[0], bytes)


def main(count, seed):
    # A decoder that believes a wrong size may take what MAX_PIXELS allows: two copies of 4 bytes a pixel.
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    files, outcomes = list(originals()), collections.Counter()
    jpegs = [file for file in files if file.startswith(b"\xff\xd8")]
    spec = transforms.ImageSpec(size=16, draft=True)
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        data = damaged(files, rng)
        usable = check_decoders(damaged(jpegs, rng), (seed, i))
        outcomes["jpeg ok" if usable else "jpeg bad"] += 1
        try:
            training = crops.train_image(data, spec, rng)
            evaluation = transforms.eval_image(data, spec)
            assert training.shape == evaluation.shape == (16, 16, 3) and training.dtype == evaluation.dtype == np.uint8
            outcomes["ok"] += 1
        except BadExample as error:
            assert "MemoryError" not in error.detail, (i, error)
            outcomes[error.reason] += 1
    print(dict(outcomes), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MB")
    assert min(outcomes["ok"], outcomes["corrupt"], outcomes["not_image"]) > count // 50
    assert min(outcomes["jpeg ok"], outcomes["jpeg bad"]) > count // 10


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
