"""Everything that can be wrong in shards, planted where it is known: a run goes on, counts it, and shifts nothing."""

import collections
import io
import os
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image

from mmjax.data.bad_example import REASONS
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.example_transforms import PairTransform
from mmjax.data.loading.train_examples import TrainExamples
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.sources.wds import WebDataset
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.data.webdataset.shard_cache import ShardCache
from mmjax.errors import MachineError
from mmjax.io import file_pool
from mmjax.io.reader import Reader
from tests.helpers.http_server import serve
from tests.helpers.tar_sets import example, jpeg, write_set

LENGTHS = (20, 20, 20, 20, 20)
TOTAL = sum(LENGTHS)


def encoded(image, kind, **how):
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def noise(mode="RGB", size=(20, 16)):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    return image.convert(mode)


def animated():
    return encoded(noise(), "GIF", save_all=True, append_images=[noise().rotate(90)])


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(), "JPEG", exif=exif)


def deep():
    samples = np.random.default_rng(2).integers(0, 65536, (16, 20), dtype=np.uint16)
    return encoded(Image.fromarray(samples), "PNG")


def bomb():
    """A PNG of a few hundred bytes that says it is 60,000 pixels wide and high."""
    import struct
    import zlib

    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def with_image(make):
    return lambda number, members: example(number, image=make(number))


# What replaces the members of an example, and the reason that it is counted by ("" where it can be used).
PLANTED = {
    3: (with_image(lambda number: jpeg(number)[:300]), "corrupt"),
    8: (with_image(lambda number: b""), "empty"),
    11: (with_image(lambda number: b"<html>404</html>" * 20), "not_image"),
    14: (with_image(lambda number: bomb()), "too_large"),
    17: (lambda number, members: members[1:], "no_image"),
    22: (lambda number, members: members[:1], "no_caption"),
    25: (lambda number, members: [members[0], (members[1][0], b"{not json"), (members[2][0], b" \n")], "no_caption"),
    28: (with_image(lambda number: animated()), ""),
    30: (with_image(lambda number: encoded(noise("CMYK"), "JPEG")), ""),
    31: (with_image(lambda number: deep()), ""),
    33: (with_image(lambda number: encoded(noise("P"), "PNG", transparency=0)), ""),
    35: (with_image(lambda number: rotated()), ""),
    37: (lambda number, members: example(number, caption="w " * 50_000), ""),
}


def options(tmp_path, **fields):
    return SourceOptions(**{"cache": str(tmp_path / "cache"), "retry_seconds": 10.0, **fields})


def make_examples(source, order):
    # A window that holds the whole set, so that nearly all stand-ins are drawn from good examples.
    return TrainExamples(
        [(source, 1)],
        seed=1,
        transform=PairTransform(ImageSpec(size=8), make_tokenizer("bytes", 16)),
        order=order,
        window=5,
    )


def epoch(source, order):
    examples = make_examples(source, order)
    indices = [examples.locate(position)[2] for position in range(TOTAL)]
    return indices, [examples[position] for position in range(TOTAL)]


def counts(read):
    return collections.Counter(
        REASONS[int(example["substitution_reason"])] for example in read if example["substitution_reason"]
    )


def same(one, other):
    return all(np.array_equal(one[key], other[key]) for key in one)


def plant(number, members):
    return PLANTED[number][0](number, members) if number in PLANTED else members


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_an_epoch_over_damaged_shards_is_the_intact_one_but_for_what_was_planted(tmp_path, order):
    folder = write_set(tmp_path / "set", LENGTHS)
    indices, intact = epoch(WebDataset(str(folder), options=options(tmp_path, order=order)), order)
    assert sorted(indices) == list(range(TOTAL)) and not counts(intact)

    write_set(folder, LENGTHS, change=plant)
    for index in folder.glob("*.index"):
        index.unlink()
    pattern = str(folder / "{00000..00004}.tar")
    source = WebDataset(pattern, options=options(tmp_path, order=order))  # indexed before the shards themselves break
    # Shard 3 is cut off in its thirteenth image, shard 4 vanishes, and a header in shard 2 is damaged.
    starts = {number: move(folder, number) for number in (53, 72)}
    rewrite(folder / "00003.tar", lambda data: data[: starts[72] + 600])
    rewrite(folder / "00002.tar", lambda data: data[: starts[53]] + b"damage" + data[starts[53] + 6 :])
    os.remove(folder / "00004.tar")
    for shard in range(5):
        file_pool.evict(str(folder / f"{shard:05d}.tar"))

    expected = {number: reason for number, (_, reason) in PLANTED.items()}
    expected |= dict.fromkeys(range(72, 80), "cut") | dict.fromkeys(range(80, 100), "missing")
    # Without an index a shard ends where it cannot be read on.
    expected |= {53: "read"} if order == "global" else dict.fromkeys(range(53, 60), "cut")
    again, damaged = epoch(source, order)
    assert again == indices
    assert counts(damaged) == collections.Counter(reason for reason in expected.values() if reason)
    survivors = 0
    for number, was, now in zip(indices, intact, damaged, strict=True):
        assert REASONS[int(now["substitution_reason"])] == (expected.get(number) or "ok")
        if number not in expected:
            survivors += 1
            assert same(was, now)
    assert survivors > 40
    assert all(example["image"].shape == (8, 8, 3) for example in damaged)


def move(folder, number):
    """The byte at which an example starts in its shard."""
    import tarfile

    with tarfile.open(folder / f"{number // 20:05d}.tar") as tar:
        return next(info.offset for info in tar if info.name.startswith(f"{number:09d}"))


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_a_bucket_that_fails_for_a_while_changes_nothing(tmp_path, order):
    folder = write_set(tmp_path / "set", LENGTHS)
    WebDataset(str(folder / "{00000..00004}.tar"), options=options(tmp_path))  # an index beside them
    with serve(tmp_path) as bucket:
        pattern = f"{bucket.url}/set/{{00000..00004}}.tar"
        _, expected = epoch(WebDataset(pattern, options=options(tmp_path, order=order)), order)
        shutil.rmtree(tmp_path / "cache" / "shards", ignore_errors=True)
        examples = make_examples(WebDataset(pattern, options=options(tmp_path, order=order)), order)
        read = []
        for position in range(TOTAL):
            if position in (0, 40):
                bucket.fail_next, bucket.failure = 3, (503 if position else "cut")
            read.append(examples[position])
        assert all(map(same, read, expected)) and not counts(read)


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_a_bucket_that_fails_for_ever_ends_the_run(tmp_path, order):
    write_set(tmp_path / "set", LENGTHS)
    WebDataset(str(tmp_path / "set" / "{00000..00004}.tar"), options=options(tmp_path))
    with serve(tmp_path) as bucket:
        source = WebDataset(
            f"{bucket.url}/set/{{00000..00004}}.tar", options=options(tmp_path, order=order, retry_seconds=0.5)
        )
        bucket.fail_until = time.monotonic() + 1000
        started = time.monotonic()
        with pytest.raises(MachineError, match="the storage of 'set' fails .*503.*start again once it answers"):
            make_examples(source, order)[0]
        assert time.monotonic() - started < 30


@pytest.mark.parametrize(("status", "reason"), [(404, "missing"), (403, "read")])
@pytest.mark.parametrize("order", ["global", "windowed"])
def test_a_shard_that_a_bucket_does_not_give_is_replaced(tmp_path, order, status, reason):
    write_set(tmp_path / "set", LENGTHS)
    WebDataset(str(tmp_path / "set" / "{00000..00004}.tar"), options=options(tmp_path))
    with serve(tmp_path) as bucket:
        source = WebDataset(f"{bucket.url}/set/{{00000..00004}}.tar", options=options(tmp_path, order=order))
        bucket.failing, bucket.failure, bucket.fail_until = "00002.tar", status, time.monotonic() + 1000
        _, read = epoch(source, order)
    assert counts(read) == {reason: 20}


# The cache of shards.


def test_a_shard_is_downloaded_once_however_many_want_it(tmp_path):
    write_set(tmp_path / "set", LENGTHS)
    with serve(tmp_path) as bucket:
        url = f"{bucket.url}/set/00001.tar"
        caches = [ShardCache(str(tmp_path / "cache"), 1e9, Reader(5.0)) for _ in range(2)]
        caches[0].prefetch([url])
        copies = []
        threads = [threading.Thread(target=lambda i=i: copies.append(caches[i % 2].get(url))) for i in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(set(copies)) == 1 and len(copies) == 8
        assert [method for method, path, _ in bucket.requests] == ["GET"]
        with open(copies[0], "rb") as file:
            assert file.read() == (tmp_path / "set" / "00001.tar").read_bytes()


def test_the_least_recently_used_shards_make_room_and_those_needed_stay(tmp_path):
    write_set(tmp_path / "set", LENGTHS)
    size = os.path.getsize(tmp_path / "set" / "00000.tar")
    with serve(tmp_path) as bucket:
        urls = [f"{bucket.url}/set/{shard:05d}.tar" for shard in range(5)]
        cache = ShardCache(str(tmp_path / "cache"), 2.5 * size, Reader(5.0))
        cache.get(urls[0])
        cache.get(urls[1])
        for age, url in ((300, urls[1]), (200, urls[0])):
            os.utime(cache.copy_of(url), (time.time() - age,) * 2)
        cache.get(urls[0])
        cache.get(urls[2])
        assert [cache.has(url) for url in urls] == [True, False, True, False, False]
        cache.prefetch(urls[:4])
        for url in urls[:4]:
            cache.get(url)
        assert all(cache.has(url) for url in urls[:4])  # more than the limit, but a window needs them


def test_what_a_crash_leaves_is_not_taken_for_a_shard(tmp_path):
    write_set(tmp_path / "set", LENGTHS)
    with serve(tmp_path) as bucket:
        url = f"{bucket.url}/set/00000.tar"
        cache = ShardCache(str(tmp_path / "cache"), 1e9, Reader(5.0))
        os.makedirs(tmp_path / "cache")
        left = f"{cache.copy_of(url)}.123-456.part"
        with open(left, "wb") as file:
            file.write(b"half")
        os.utime(left, (0, 0))
        with open(cache.copy_of(url) + ".lock", "wb"):
            pass
        assert os.path.getsize(cache.get(url)) == os.path.getsize(tmp_path / "set" / "00000.tar")
        assert not os.path.exists(left)
        bucket.failure, bucket.fail_next = "cut", 1
        other = url.replace("00000", "00001")
        assert os.path.getsize(cache.get(other)) == os.path.getsize(tmp_path / "set" / "00001.tar")


def test_fetching_ahead_fails_no_run(tmp_path):
    write_set(tmp_path / "set", LENGTHS)
    with serve(tmp_path) as bucket:
        source = WebDataset(
            f"{bucket.url}/set/{{00000..00004}}.tar", options=options(tmp_path, order="windowed", retry_seconds=0.3)
        )
        bucket.fail_until = time.monotonic() + 1000
        source.prefetch_shards([0, 1, 2, 3, 4])
        deadline = time.monotonic() + 20
        while any(thread.name == "shard-cache" for thread in threading.enumerate()) and time.monotonic() < deadline:
            time.sleep(0.02)
        bucket.fail_until = 0.0
        source._cache._failed.clear()
        assert source[0]["captions"] == ["caption 0"]
        (tmp_path / "file").write_text("")
        source._cache.folder = str(tmp_path / "file" / "below")  # a folder that cannot be made
        source.prefetch_shards([3])
