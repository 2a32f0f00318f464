"""Small files of every kind that mmjax reads, what reads them, and ways to change them for the worse."""

import collections
import dataclasses
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from campaigns import hostile_models
from mmjax.config import parse, serialize
from mmjax.config.schema import base_config
from mmjax.data import mixture
from mmjax.data.bad_example import REASONS, BadExample, one_example, reason_code
from mmjax.data.image import crops, transforms
from mmjax.data.loading.example_transforms import PairTransform
from mmjax.data.loading.train_examples import TrainExamples
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.interop import tensor_files
from mmjax.io import paths
from mmjax.search import index as search_index
from mmjax.training import checkpoint, metrics_log, resumed_run, stored_meta

EXAMPLES = 12
_READ = 40  # examples of a source that are read
_SPEC = transforms.ImageSpec(size=16)
_NUMBERS = ("-1", "0", "1e400", "NaN", "9" * 30, "4294967296", "null", "[]", "{}", '""', "true", "18446744073709551616")
_HOSTILE = (
    *(
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xff" * 9,
        b"\x1b[31m",
        b"\r",
        b"\n\n",
        b'"',
        b"'",
        b"\\ud83d",
        b"\\u0000",
    ),
    *("\ud83d".encode("utf-8", "surrogatepass"), "\u202e\u2028".encode(), b"%s{}{0.__class__}", b"../../../etc/passwd"),
    *(
        b"/dev/zero",
        b"http://127.0.0.1:1/x",
        b"weird://x",
        b"&" + b"amp;" * 5000,
        b"a" * 200_000,
        b"[" * 3000,
        b'{"a":' * 3000,
    ),
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
      name: what a file of it is called.
      make: writes a good one, with what it needs beside it.
      read: reads it as mmjax does; raises what that raises.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], None]


def mutate(content: bytes, rng: random.Random) -> bytes:
    """A file with bits flipped, parts cut out, repeated, exchanged, and numbers and texts set to extremes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        end = min(len(data), 300) if rng.random() < 0.4 else len(data)
        a, b = sorted((rng.randrange(end + 1), rng.randrange(end + 1)))
        kind = rng.randrange(9)
        if kind == 0 and a < len(data):
            data[a] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[a : a + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
        elif kind == 2:
            del data[a:b]
        elif kind == 3:
            data[a:a] = data[a:b] * rng.choice((1, 1, 30))
        elif kind == 4:
            del data[a:]
        elif kind == 5:
            data[a:a] = rng.choice(_HOSTILE)
        elif kind == 6:
            _replace_token(data, rng)
        elif kind == 7:
            c = rng.randrange(len(data) + 1)
            data[c:c] = data[a : min(b, a + 5000)]
        else:
            data[a : a + 16] = rng.randbytes(16)
        del data[4 << 20 :]
    return bytes(data)


def _replace_token(data: bytearray, rng: random.Random) -> None:
    """Puts an extreme value in place of a word or number between marks."""
    marks = [i for i, byte in enumerate(data[:20_000]) if byte in b',:[]{}"\t\n']
    if len(marks) > 1:
        i = rng.randrange(len(marks) - 1)
        data[marks[i] + 1 : marks[i + 1]] = rng.choice(_NUMBERS).encode()


def kinds() -> dict[str, Kind]:
    """All kinds of files, by name."""
    pairs = lambda name: Kind(name, _write_images(name, _TABLES[name]), _source(f"pairs:{{}}/{name}"))
    lists = lambda name, spec, write: Kind(name, _write_images(name, write), _source(spec))
    return {
        **{name: pairs(name) for name in _TABLES},
        "tar": Kind("set.tar", _write_tar, _source("wds:{}/set.tar")),
        "windowed tar": Kind("set.tar", _write_tar, _source("wds:{}/set.tar", order="windowed")),
        "tar's index": Kind("mmjax-set.index", _write_index, _source("wds:{}/set.tar")),
        "image": Kind("image", _write_image, _read_image),
        "text beside images": Kind("003.txt", _write_files, _source("files:{}")),
        "JSON beside images": Kind("003.json", _write_files, _source("files:{}", caption_keys="json:caption")),
        "parquet": Kind("rows.parquet", _write_parquet, _source("parquet:{}/rows.parquet")),
        "karpathy": lists("k.json", "karpathy:{}/k.json/test,images={}", _karpathy),
        "vqa": lists("q.jsonl", "vqa:{}/q.jsonl,images={}", _vqa),
        "winoground": lists("w.jsonl", "winoground:{}/w.jsonl,images={}", _winoground),
        "class names": Kind("classnames.txt", _write_folders, _source("folder:{}")),
        "tokenizer.json": Kind("tokenizer.json", _write_tokenizer, _read_tokenizer("json")),
        "words": Kind(
            "words.txt", lambda folder: _write(folder / "words.txt", b"a\nphoto\nof\ncat\n"), _read_tokenizer("words")
        ),
        "safetensors": Kind("model.safetensors", _write_safetensors, _read_weights),
        "npz": Kind("model.npz", _write_npz, _read_weights),
        "torch": Kind("model.pt", _write_torch, _read_weights),
        "config.json": Kind("config.json", _write_config, _read_config),
        "metrics.jsonl": Kind("metrics.jsonl", _write_metrics, _read_metrics),
        "meta": Kind("7/meta/metadata", _write_meta, _read_meta),
        "search index": Kind("part-000000.npz", _write_search, _read_search),
        **{name: Kind(file, make, read) for name, file, make, read in hostile_models.kinds()},
    }


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _encoded(number: int, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def _rows() -> list[dict[str, Any]]:
    return [{"image": f"{i:03d}.png", "caption": f"a photo, of “cat” {i}"} for i in range(EXAMPLES)]


def _separated(separator: str) -> bytes:
    rows = [f'{row["image"]}{separator}"{row["caption"]}"' for row in _rows()]
    return "\n".join([f"image{separator}caption", *rows, ""]).encode()


_TABLES: dict[str, Callable[[], bytes]] = {
    "t.csv": lambda: _separated(","),
    "t.tsv": lambda: _separated("\t"),
    "t.jsonl": lambda: "".join(json.dumps(row) + "\n" for row in _rows()).encode(),
    "t.json": lambda: json.dumps(_rows()).encode(),
    "bars.csv": lambda: _separated("|"),
    "captions_2017.json": lambda: _coco(),
}


def _coco() -> bytes:
    images = [{"id": i, "file_name": row["image"]} for i, row in enumerate(_rows())]
    annotations = [{"image_id": i, "caption": row["caption"]} for i, row in enumerate(_rows())]
    return json.dumps({"images": images, "annotations": annotations}).encode()


def _karpathy() -> bytes:
    images = [
        {"filename": row["image"], "split": "test", "sentences": [{"raw": row["caption"]}], "imgid": i}
        for i, row in enumerate(_rows())
    ]
    return json.dumps({"images": images}).encode()


def _vqa() -> bytes:
    rows = [{"image": row["image"], "question": "what is it?", "answers": ["cat"] * 10} for row in _rows()]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _winoground() -> bytes:
    names = [row["image"] for row in _rows()]
    rows = [
        {"id": i, "image_0": a, "image_1": b, "caption_0": "a b", "caption_1": "b a"}
        for i, (a, b) in enumerate(zip(names, names[1:], strict=False))
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _write_images(name: str, content: Callable[[], bytes]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for i in range(EXAMPLES):
            _write(folder / f"{i:03d}.png", _encoded(i))
        _write(folder / name, content())

    return make


def _write_tar(folder: Path) -> None:
    with tarfile.open(folder / "set.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for i in range(EXAMPLES):
            row = json.dumps({"caption": f"a cat {i}"}).encode()
            for ending, content in (("jpg", _encoded(i, "JPEG")), ("txt", f"a café {i}".encode()), ("json", row)):
                info = tarfile.TarInfo(f"é{i:03d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def _write_index(folder: Path) -> None:
    _write_tar(folder)
    mixture.open_source(f"wds:{folder}/set.tar", SourceOptions(cache=str(folder / "cache")))
    (index,) = folder.rglob("*.index")
    (folder / "name").write_text(str(index.relative_to(folder)))


def _write_image(folder: Path) -> None:
    forms = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000")
    _write(folder / "image", _encoded(0, random.choice(forms)))


def _write_files(folder: Path) -> None:
    for i in range(EXAMPLES):
        _write(folder / f"{i:03d}.jpg", _encoded(i, "JPEG"))
        _write(folder / f"{i:03d}.txt", f"a cat {i}".encode())
        _write(folder / f"{i:03d}.json", json.dumps({"caption": f"a cat {i}"}).encode())


def _write_folders(folder: Path) -> None:
    for i, name in enumerate(("cat", "dog")):
        _write(folder / name / "0.png", _encoded(i))
    _write(folder / "classnames.txt", b"cat\ndog\n")


def _write_parquet(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    images = [{"bytes": _encoded(i) if i % 4 else None, "path": "x"} for i in range(EXAMPLES)]  # some failed downloads
    columns = {"image": images, "caption": [f"a cat {i}" for i in range(EXAMPLES)]}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "rows.parquet", row_group_size=5)


def _write_tokenizer(folder: Path) -> None:
    import tokenizers

    model = tokenizers.models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2, "photo": 3}, "<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Lowercase()])
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def _arrays() -> dict[str, np.ndarray]:
    return {f"layer{i}.weight": np.arange(12, dtype=np.float32).reshape(3, 4) + i for i in range(4)}


def _write_safetensors(folder: Path) -> None:
    import safetensors.numpy

    safetensors.numpy.save_file(_arrays(), folder / "model.safetensors")


def _write_npz(folder: Path) -> None:
    np.savez(folder / "model.npz", **_arrays())


def _write_torch(folder: Path) -> None:
    import torch

    torch.save({name: torch.from_numpy(array) for name, array in _arrays().items()}, folder / "model.pt")


def _config() -> Any:
    config = base_config("tiny")
    config.data.train, config.objectives.itc = "shapes", 1.0
    return config


def _write_config(folder: Path) -> None:
    _write(folder / "config.json", serialize.to_json(_config()).encode())


def _write_metrics(folder: Path) -> None:
    lines = [{"step": i, "kind": "train", "loss": 1.0 / (i + 1)} for i in range(EXAMPLES)]
    _write(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())


def _write_meta(folder: Path) -> None:
    meta = checkpoint.make_meta(parse(_config()), 96, None, None, bad_examples={}, evaluated=True)
    _write(folder / "7" / "meta" / "metadata", json.dumps(meta).encode())


def _write_search(folder: Path) -> None:
    index = search_index.Index(folder, {"name": "x"})
    index.update({"a.jpg": "1", "b.jpg": "2"}, lambda paths: (np.ones((1, 4), np.float32), [0], {1: "corrupt"}))


def _source(spec: str, **fields: Any) -> Callable[[Path], None]:
    """What opens a source, reads each of its examples, and then trains on them: the counts of both must agree."""

    def read(folder: Path) -> None:
        options = SourceOptions(cache=str(folder / "cache"), retry_seconds=0.5, max_bad_fraction=1.0, **fields)
        source = mixture.open_source(spec.replace("{}", str(folder)), options)
        transform = PairTransform(_SPEC, make_tokenizer("bytes", 16))
        if spec.startswith("vqa"):
            transform = lambda record, rng: {"image": transforms.eval_image(record["image"], _SPEC)}
        count, expected, counted = min(len(source), _READ), collections.Counter(), collections.Counter()
        for index in range(count):
            try:
                with one_example():
                    transform(source[index], np.random.default_rng(index))
                expected["ok"] += 1
            except BadExample as error:
                expected[REASONS[reason_code(error)]] += 1
        examples = TrainExamples([(source, 1)], seed=0, transform=transform, shuffle=False)
        if expected["ok"] < count / 2:
            return  # training may end
        for position in range(count):
            counted[REASONS[examples[position]["substitution_reason"]]] += 1
        if counted != expected:
            raise AssertionError(f"counted {dict(counted)} of {dict(expected)}")

    return read


def _read_image(folder: Path) -> None:
    content = (folder / "image").read_bytes()
    for read in (
        lambda: transforms.eval_image(content, _SPEC),
        lambda: crops.train_image(content, _SPEC, np.random.default_rng(0)),
    ):
        try:
            read()
        except BadExample as error:
            if "\n" in str(error):
                raise


def _read_tokenizer(kind: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        tokenizer = make_tokenizer(f"{kind}:{next(folder.glob('*o*'))}", 16)
        for text in ("", "a photo of a cat", "naïve 日本 \x1b", "a" * 3000, "half \ud83d"):
            try:
                tokenizer([text])
            except BadExample as error:
                if "\n" in str(error):
                    raise

    return read


def _read_weights(folder: Path) -> None:
    tensors = tensor_files.open_tensors(next(folder.glob("model.*")))
    for name in list(tensors)[:20]:
        tensors.read(name)


def _read_config(folder: Path) -> None:
    resumed_run.check_workdir(parse(_config()), paths.as_path(folder))


def _read_metrics(folder: Path) -> None:
    file = metrics_log.MetricsFile(folder / "metrics.jsonl")
    file.drop_after(6)
    if any(line["step"] > 6 for line in file.lines()):
        raise AssertionError("lines of later steps are kept")


def _read_meta(folder: Path) -> None:
    meta = checkpoint.Checkpoints(folder, read_only=True).read_meta(7)
    stored_meta.check(meta, str(folder))
    serialize.from_json(json.dumps(meta["config"]), str(folder))


def _read_search(folder: Path) -> None:
    index = search_index.Index(folder, {"name": "x"})
    index.gallery()
    index.unreadable()
