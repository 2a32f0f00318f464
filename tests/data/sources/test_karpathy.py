import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from mmjax.data.mixture import open_source
from mmjax.data.source_protocols import Source
from mmjax.data.sources.karpathy import Karpathy, beside
from mmjax.errors import UserError


def entry(number, split, filepath=None, captions=2):
    made = {"filename": f"{number}.png", "split": split, "imgid": number}
    made["sentences"] = [{"raw": f" caption {number}.{i} ", "tokens": []} for i in range(captions)]
    return made | ({"filepath": filepath} if filepath else {})


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(folder, entries, images="", *, flat=False):
    """The JSON and its images; returns the JSON's path."""
    for entry in entries:
        path = folder / images / ("" if flat else entry.get("filepath", "")) / entry["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(entry["imgid"]))
    file = folder / "dataset_coco.json"
    file.write_text(json.dumps({"dataset": "coco", "images": entries}))
    return str(file)


ENTRIES = [
    entry(0, "test", "val2014"),
    entry(1, "restval", "val2014", captions=6),
    entry(2, "train", "train2014"),
    entry(3, "test", "val2014"),
    entry(4, "val", "val2014"),
]


@pytest.mark.parametrize("images", ["", "images"])
def test_splits_in_the_order_of_the_file(tmp_path, images):
    file = write(tmp_path, ENTRIES, images)
    test = Karpathy(f"{file}/test")
    assert isinstance(test, Source) and test.name == "coco" and len(test) == 2
    assert test[0]["captions"] == ["caption 0.0", "caption 0.1"] and test[1]["image"] == png(3)
    assert test[0]["id"] != test[1]["id"] and test[-1]["id"] == test[1]["id"]
    train = Karpathy(f"{file}/train")  # with restval
    assert train.name == "coco/train" and [len(train[i]["captions"]) for i in range(2)] == [6, 2]
    assert len(Karpathy(f"{file}/val")) == len(open_source(f"karpathy:{file}/val")) == 1
    assert pickle.loads(pickle.dumps(test))[1] == test[1]
    with pytest.raises(IndexError):
        test[2]


def test_images_elsewhere(tmp_path):
    (tmp_path / "a").mkdir()
    entries = [entry(0, "test"), entry(1, "test")]  # Flickr's have no filepath
    file = write(tmp_path / "a", entries, "../photos")
    assert Karpathy(f"{file}/test,images={tmp_path}/photos")[1]["image"] == png(1)
    # All of COCO's in one folder, without its sub-folders.
    file = write(tmp_path / "b", ENTRIES, "images", flat=True)
    assert Karpathy(f"{file}/test")[1]["image"] == png(3)


@pytest.mark.parametrize(
    ("spec", "content", "message"),
    [
        ("FILE", None, "no split"),
        ("FILE/tset", ENTRIES, "did you mean 'test'"),
        ("FILE/test", None, "there is no file"),
        ("FILE/test", {"annotations": []}, "no list 'images'"),
        ("FILE/test", "{", "cannot be read as JSON"),
        ("FILE/test", [{"filename": "a.png", "split": "test"}], "image 0 lacks 'sentences'"),
        ("FILE/test", [{**entry(0, "test"), "sentences": [{"raw": None}]}], "image 0: sentence 0 has raw=None"),
        ("FILE/test", [{**entry(0, "test"), "sentences": "x"}], "image 0 has sentences='x'"),
        ("FILE/test", [{**entry(0, "test"), "split": None}], "image 0 has split=None"),
        ("FILE/test", [entry(0, "test", captions=0)], "has no caption"),
        ("FILE/val", [entry(0, "test")], "no image of the file is in 'val'; its splits are test"),
        ("FILE/test", [entry(0, "test")], "is not in"),
        ("FILE/test,images=", [entry(0, "test")], "names no folder"),
        ("FILE/test,images=/nowhere", [entry(0, "test")], "give the folder that holds it"),
    ],
)
def test_mistakes_are_one_line(tmp_path, spec, content, message):
    file = tmp_path / "dataset_x.json"
    if content is not None:
        text = content if isinstance(content, str) else content if isinstance(content, dict) else {"images": content}
        file.write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(UserError) as caught:
        Karpathy(spec.replace("FILE", str(file)), field="data.eval")
    assert message in str(caught.value) and str(caught.value).startswith("data.eval='karpathy:")
    assert "\n" not in str(caught.value)


WINO = [
    {"id": i, "image_0": f"{2 * i}", "image_1": f"{2 * i + 1}.png", "caption_0": f"a {i} b", "caption_1": f"b {i} a"}
    for i in range(2)
]


def winoground(folder, lines, images="images"):
    for number in range(4):
        path = folder / images / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    (folder / "examples.jsonl").write_text(
        "\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in lines)
    )
    return f"{folder}/examples.jsonl"


@pytest.mark.parametrize("images", ["", "images", "elsewhere"])
def test_winoground_has_both_images_each_with_its_own_caption_first(tmp_path, images):
    file = winoground(tmp_path, [WINO[0], "", WINO[1]], images)
    option = f",images={tmp_path}/elsewhere" if images == "elsewhere" else ""
    source = open_source(f"winoground:{file}{option}", field="data.eval")
    assert isinstance(source, Source) and source.name == "winoground" and len(source) == 4
    assert [source[i]["image"] for i in range(4)] == [png(i) for i in range(4)]
    assert [source[i]["captions"] for i in (2, 3)] == [["a 1 b", "b 1 a"], ["b 1 a", "a 1 b"]]
    assert len({source[i]["id"] for i in range(4)}) == 4


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([WINO[0], {**WINO[1], "caption_1": " "}], "example 1 lacks 'caption_1'"),
        (["{"], "line 1 is no JSON"),
        (["[]"], "line 1 is no JSON object"),
        ([], "the file has no examples"),
        ([{**WINO[0], "image_0": "9"}], "its first image, '9.png', is not in"),
    ],
)
def test_winoground_mistakes(tmp_path, lines, message):
    with pytest.raises(UserError, match=message) as caught:
        open_source(f"winoground:{winoground(tmp_path, lines)}", field="data.eval")
    assert "\n" not in str(caught.value)


def sugar(folder, entries, images="val2017"):
    for number in range(2):
        path = folder / images / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    (folder / "swap_att.json").write_text(json.dumps(entries))
    return f"{folder}/swap_att.json"


PAIRS = {str(i): {"filename": f"{i}.png", "caption": f"a {i}", "negative_caption": f"no {i}"} for i in range(2)}


@pytest.mark.parametrize("images", ["val2017", "../val2017", "elsewhere"])
def test_sugarcrepe_has_the_right_caption_first(tmp_path, images):
    (tmp_path / "json").mkdir()
    file = sugar(tmp_path / "json", PAIRS, images)
    option = f",images={tmp_path}/json/elsewhere" if images == "elsewhere" else ""
    source = open_source(f"sugarcrepe:{file}{option}")
    assert isinstance(source, Source) and source.name == "swap_att" and len(source) == 2
    assert source[1]["captions"] == ["a 1", "no 1"] and source[1]["image"] == png(1)
    assert source[0]["id"] != source[1]["id"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"0": {"filename": "0.png", "caption": "x"}}, "example 0 lacks 'negative_caption'"),
        ({**PAIRS, "1": {**PAIRS["1"], "negative_caption": None}}, "example 1 has negative_caption=None"),
        ({**PAIRS, "1": {**PAIRS["1"], "caption": 7}}, "example 1 has caption=7"),
        ({}, "no"),
        ("x", "no"),
    ],
)
def test_sugarcrepe_mistakes(tmp_path, entries, message):
    with pytest.raises(UserError, match=message):
        open_source(f"sugarcrepe:{sugar(tmp_path, entries)}", field="data.eval")


@pytest.mark.parametrize(
    ("file", "name", "path"),
    [
        ("gs://bucket/set/data/file.json", "../images", "gs://bucket/set/images"),
        ("gs://bucket/file.json", "images", "gs://bucket/images"),
        ("a/b/file.json", "../images", "a/images"),
        ("file.json", "", ""),
    ],
)
def test_folders_beside_local_and_remote_files(file, name, path):
    assert beside(file, name) == path
