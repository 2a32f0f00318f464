"""Damaged tables, lists, Parquet files and tars: each is read or refused in one line, soon, and ends no process.

python campaigns/mutated_data.py --count=2000 --seed=0
"""

import argparse
import collections
import csv
import io
import json
import logging
import random
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmjax.data.bad_example import BadExample, one_example
from mmjax.data.mixture import open_source
from mmjax.data.source_protocols import SourceOptions
from mmjax.errors import UserError
from mmjax.utils import terminal

ROWS, IMAGES, SECONDS = 24, 4, 5.0
CAPTIONS = ("a dog, brown", 'he said "hi"', "x\ny, z", "['a', 'b']", "größe")
PIECES = (b'"', b",", b"\n", b"\r", b"\t", b"|", b"[", b"]", b"{", b"}", b"'", b"\\", b"\0", b"\xff", b"\xed\xa0\x80")
WORDS = (b"null", b"1e999", b"-1", b"true", b'"images"', b"[]", b"n01440764", b"../", b"https://", bytes(512))
NAMES = [f"{i % IMAGES}.png" for i in range(ROWS)]
TEXTS = [CAPTIONS[i % len(CAPTIONS)] for i in range(ROWS)]


def _png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(file, "PNG")
    return file.getvalue()


def _separated(separator: str) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator).writerows([("image", "caption"), *zip(NAMES, TEXTS, strict=True)])
    return file.getvalue().encode()


def _lines(rows: list) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def _parquet(**columns: list) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns | {"caption": TEXTS}), file, row_group_size=5)
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for i in range(ROWS):
            for ending, content in (("png", _png(i)), ("txt", TEXTS[i].encode()), ("json", b'{"caption": ["x"]}')):
                info = tarfile.TarInfo(f"{i:05d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def originals() -> dict[str, bytes]:
    """Whole files by the spec that reads them, `{}` for their folder."""
    objects = [{"image": name, "caption": [text]} for name, text in zip(NAMES, TEXTS, strict=True)]
    questions = [{"image": name, "question": "what?", "answers": ["a", "b"]} for name in NAMES]
    karpathy = [{"filename": name, "split": "train", "sentences": [{"raw": "x"}]} for name in NAMES]
    coco = {
        "images": [{"id": i, "file_name": NAMES[i]} for i in range(IMAGES)],
        "annotations": [{"image_id": i % IMAGES, "caption": text} for i, text in enumerate(TEXTS)],
    }
    negatives = {str(i): {"filename": NAMES[i], "caption": "x", "negative_caption": "y"} for i in range(ROWS)}
    pairs = [{"image_0": "0.png", "image_1": "1.png", "caption_0": "x y", "caption_1": "y x"}] * ROWS
    encoded = [{"bytes": _png(i) if i % 3 else None, "path": "x"} for i in range(ROWS)]
    return {
        "pairs:{}/comma.csv": _separated(","),
        "pairs:{}/bar.csv": _separated("|"),
        "pairs:{}/tab.tsv": _separated("\t"),
        "pairs:{}/lines.jsonl": _lines(objects),
        "pairs:{}/array.json": json.dumps(objects).encode(),
        "pairs:{}/captions_val2017.json": json.dumps(coco).encode(),
        "karpathy:{}/dataset.json/train": json.dumps({"images": karpathy}).encode(),
        "vqa:{}/questions.jsonl": _lines(questions),
        "sugarcrepe:{}/negatives.json": json.dumps(negatives).encode(),
        "winoground:{}/winoground.jsonl": _lines(pairs),
        "parquet:{}/images.parquet": _parquet(image=encoded),
        "parquet:{}/paths.parquet": _parquet(filepath=NAMES),
        "wds:{}/data.tar": _tar(),
        "folder:{}/classes": b"cat\ndog\n",  # classnames.txt
    }


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Damages a file a few times: bytes changed, lost, doubled, or put in where they mean something."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        offset, kind = rng.randrange(len(damaged) + 1), rng.randrange(6)
        if kind == 0:
            damaged[offset:offset] = rng.choice(PIECES + WORDS)
        elif kind == 1:
            del damaged[offset : offset + rng.choice((1, 3, 30, 600))]
        elif kind == 2:
            damaged[offset : offset + 1] = rng.randbytes(1)
        elif kind == 3:
            start = rng.randrange(len(damaged) + 1)
            damaged[offset:offset] = damaged[start : start + rng.choice((20, 600))]
        elif kind == 4:
            damaged[offset : offset + 1] = rng.choice(PIECES) * rng.choice((1, 2, 500, 20_000))
        else:
            del damaged[offset:]
    return bytes(damaged)


def _read_all(spec: str, options: SourceOptions, cases: collections.Counter[str]) -> None:
    source = open_source(spec, options)
    for index in range(len(source)):
        try:
            with one_example():
                source[index]
            cases["examples"] += 1
        except BadExample:
            cases["bad examples"] += 1


def _files(folder: Path) -> Iterator[tuple[str, Path, bytes]]:
    """Specs, where the file of each lies, and what it is before it is damaged."""
    for spec, data in originals().items():
        path = spec.partition(":")[2].removesuffix("/train").format(folder)
        yield spec.format(folder), Path(path) / "classnames.txt" if spec.startswith("folder:") else Path(path), data


def run(count: int, seed: int) -> collections.Counter[str]:
    """Damages files `count` times; counts those that were `read` and `refused`, and others by what happened."""
    rng, result = random.Random(seed), collections.Counter()
    logging.getLogger("mmjax.data").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="mmjax-damaged-") as temporary:
        folder = Path(temporary)
        for i in range(IMAGES):
            (folder / f"{i}.png").write_bytes(_png(i))
        for name in ("cat", "dog"):
            (folder / "classes" / name).mkdir(parents=True)
            (folder / "classes" / name / "0.png").write_bytes(_png(0))
        files = list(_files(folder))
        for number in range(count):
            spec, path, data = files[number % len(files)]
            for index in folder.glob("*.index"):
                index.unlink()
            path.write_bytes(mutate(data, rng) if number >= len(files) else data)
            start = time.monotonic()
            try:
                _read_all(spec, SourceOptions(max_bad_fraction=rng.choice((0.01, 1.0))), result)
                outcome = "read"
            except UserError as error:
                outcome = "refused" if "\n" not in str(error) else f"SEVERAL LINES: {error}"
                if number < len(files):
                    outcome = f"REFUSED WHOLE: {error}"
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            if time.monotonic() - start > SECONDS:
                outcome = f"SLOW: {outcome}"
            result[outcome if outcome in ("read", "refused") else f"{outcome} ({spec}, seed {seed}, {number})"] += 1
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    result = run(options.count, options.seed)
    for outcome, number in result.most_common():
        terminal.show(f"{number:5} {outcome}")
    return int(bool(result.keys() - {"read", "refused", "examples", "bad examples"}))


if __name__ == "__main__":
    sys.exit(main())
