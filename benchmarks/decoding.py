"""Images per second of ONE core, from encoded JPEGs to a batch that can be put on the device: where images are resized.

  python benchmarks/decoding.py                                      256-px JPEGs of quality 95 and 512 x 384 of 90
  python benchmarks/decoding.py --jpegs=1024x768@85 --rounds=9

Contenders, on the same generated JPEGs (1/f noise) and the same random crops, in turns within one process:
  host            decode, crop and resize (`data.resize_on=host`)
  device          decode alone, into a frame; the device crops and resizes (`data.resize_on=device`)
  device, Pillow  the same, where Pillow decodes, as it does without simplejpeg
  decode          what the faster decoder alone takes: the limit
Batches are stacked, as the loader does it. Reported are medians of the rounds, and medians of the rounds' own ratios
to `host`. One JSON line a measurement.
"""

import argparse
import io
import re
import statistics
import sys
from unittest import mock

import common
import loader
import numpy as np
from PIL import Image

from mmjax.cli import runtime
from mmjax.data.image import crops, frames, jpeg, transforms
from mmjax.data.loading import order
from mmjax.errors import UserError

POOL = 32  # JPEGs of a size


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jpegs", default="256x256@95,512x384@90", help="WIDTHxHEIGHT@QUALITY, joined by commas")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--output-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    return parser


def main():
    return runtime.run(make_parser(), None, measure)


def measure(options, overrides):
    """Measures every kind of JPEG."""
    common.refuse_config(overrides)
    for text in options.jpegs.split(","):
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)@([1-9]\d*)", text)
        if not match:
            raise UserError(f"--jpegs={text}: wants WIDTHxHEIGHT@QUALITY, such as 256x256@95")
        files = make_files(*map(int, match.groups()))
        contenders, side = make_contenders(files, options)
        seconds = common.interleaved(contenders, rounds=options.rounds)
        for name, times in seconds.items():
            ratio = statistics.median(host / ours for host, ours in zip(seconds["host"], times, strict=True))
            common.emit(
                benchmark="decoding",
                jpeg=text,
                contender=name,
                images_per_second=options.batch / statistics.median(times),
                ratio_to_host=ratio,
                **common.spread(times),
                kilobytes=sum(map(len, files)) / len(files) / 1e3,
                frame=side,
                decoder="Pillow" if name in ("host", "device, Pillow") else jpeg.describe(),
                **common.versions("mmjax", "pillow", "simplejpeg", "numpy"),
            )
    return 0


def make_files(width, height, quality):
    """JPEGs of noise with the spectrum of natural images."""
    rng, files = np.random.default_rng(width), []
    for _ in range(POOL):
        square = Image.open(io.BytesIO(loader.noise_jpeg(rng, max(width, height), quality=100)))
        file = io.BytesIO()
        square.crop((0, 0, width, height)).save(file, "JPEG", quality=quality)
        files.append(file.getvalue())
    return files


def make_contenders(files, options):
    """Functions that make one batch each, by name, and the side of the frames."""
    host = transforms.ImageSpec(size=options.output_size, draft=True)
    side, _, _ = frames.choose_side(files, host)
    device = transforms.ImageSpec(size=options.output_size, draft=True, frame=side)

    def rows(make):
        return [make(files[row % POOL], order.example_rng(0, row)) for row in range(options.batch)]

    def on_host():
        return np.stack(rows(lambda file, rng: crops.train_image(file, host, rng)))

    def on_device():
        return [
            np.stack(column)
            for column in zip(*rows(lambda file, rng: frames.train_frame(file, device, rng)), strict=True)
        ]

    def by_pillow():
        with mock.patch.object(jpeg, "decode_pixels", lambda *_: None):
            return on_device()

    def decode():
        return rows(lambda file, rng: jpeg.decode_pixels(file, Image.open(io.BytesIO(file)), 1))

    return {"host": on_host, "device": on_device, "device, Pillow": by_pillow, "decode": decode}, side


if __name__ == "__main__":
    sys.exit(main())
