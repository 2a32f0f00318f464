"""Shards for tests."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.example_transforms import PairTransform
from mmjax.data.loading.train_examples import TrainExamples
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.text.make_tokenizer import make_tokenizer

LENGTHS = (7, 5, 9, 6)
TOTAL = sum(LENGTHS)


def options(tmp_path, **fields):
    return SourceOptions(**{"cache": str(tmp_path / "cache"), "retry_seconds": 5.0, **fields})


def make_examples(source, order="global", window=2):
    return TrainExamples(
        [(source, 1)],
        seed=3,
        transform=PairTransform(ImageSpec(size=8), make_tokenizer("bytes", 16)),
        order=order,
        window=window,
    )


def number_of(record):
    return int(record["captions"][0].split()[-1])


def ids(batches):
    """[steps, rows] of 64-bit ids."""
    return [[int(low) | int(high) << 32 for low, high in batch["id"]] for batch in batches]


def jpeg(number, size=(20, 16)):
    """A small JPEG that is `number`'s alone."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=80)
    return out.getvalue()


def write_tar(path, members, format=tarfile.USTAR_FORMAT):
    """Writes (name, bytes) pairs."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def example(number, image=None, caption=None):
    """Members of one example as img2dataset writes them."""
    key = f"{number:09d}"
    text = f"caption {number}" if caption is None else caption
    metadata = {"key": key, "caption": text, "width": 16, "url": f"http://x/{number}"}
    image = jpeg(number) if image is None else image
    return [(f"{key}.jpg", image), (f"{key}.json", json.dumps(metadata).encode()), (f"{key}.txt", text.encode())]


def write_set(folder, lengths=LENGTHS, stats=True, change=lambda number, members: members):
    """Writes shards 00000.tar, ... as img2dataset does; `change` may alter an example's members."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, length in enumerate(lengths):
        members = []
        for _ in range(length):
            members += change(number, example(number))
            number += 1
        write_tar(folder / f"{shard:05d}.tar", members)
        if stats:
            (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"count": length + 2, "successes": length}))
    return folder


def mutate(data, rng):
    """Damages a tar at random: bytes, headers with a right checksum, pieces left out or put in, a cut."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        kind, offset = rng.randrange(5), rng.randrange(len(data))
        if kind == 0:
            data[offset] = rng.randrange(256)
        elif kind == 1:  # in a header, with the checksum made right again
            offset -= offset % 512
            position = offset + rng.choice([*range(0, 10), *range(124, 136), 156, 345])
            if position < len(data) and offset + 512 <= len(data):
                data[position] = rng.choice([0, 0x30, 0x37, 0x39, 0x80, 0xFF, 0x4C, 0x78, 0x53, rng.randrange(256)])
                total = 256 + sum(data[offset : offset + 148]) + sum(data[offset + 156 : offset + 512])
                data[offset + 148 : offset + 156] = b"%06o\0 " % total
        elif kind == 2:
            del data[offset:]
        elif kind == 3:
            del data[offset : offset + rng.randint(1, 2000)]
        else:
            data[offset:offset] = rng.randbytes(rng.randint(1, 2000))
        if not data:
            break
    return bytes(data)
