import json

import pytest

from mmjax.data.sources.karpathy import Karpathy
from mmjax.data.sources.pairs import Pairs
from mmjax.errors import UserError
from tests.helpers.source_checks import png


def coco(**changes):
    return {
        "info": {},
        "images": [
            {"id": 7, "file_name": "000007.png"},
            {"id": 5, "file_name": "000005.png"},
            {"id": 1, "file_name": "1"},
        ],
        "annotations": [
            {"id": 1, "image_id": 5, "caption": "five"},
            {"id": 2, "image_id": 7, "caption": " seven\n"},
            {"id": 3, "image_id": 5, "caption": "fünf"},
        ],
        **changes,
    }  # fmt: skip


@pytest.mark.parametrize("folder", ["", "images", "train2017", "../train2017", "../images/train2017", "elsewhere"])
def test_captions_are_of_the_images_beside_or_in_a_named_folder(tmp_path, folder, caplog):
    (tmp_path / "annotations").mkdir()
    images = tmp_path / "annotations" / folder
    images.resolve().mkdir(parents=True, exist_ok=True)
    for number in (5, 7):
        (images / f"00000{number}.png").resolve().write_bytes(png(number))
    file = tmp_path / "annotations" / "captions_train2017.json"
    file.write_text(json.dumps(coco()), encoding="utf-8")
    source = Pairs(f"{file},images={images.resolve()}" if folder == "elsewhere" else str(file))
    assert [source[i]["captions"] for i in range(len(source))] == [["seven"], ["five", "fünf"]]
    assert [source[i]["image"] for i in range(2)] == [png(7), png(5)]
    assert source.name == "captions_train2017"
    assert [record.getMessage() for record in caplog.records if "1 of 3 images" in record.getMessage()]


def test_images_may_have_folders_of_their_own(tmp_path):
    content = coco(images=[{"id": 5, "file_name": "train2017/000005.png"}, {"id": 7, "file_name": "train2017/7.png"}])
    (tmp_path / "images" / "train2017").mkdir(parents=True)
    (tmp_path / "images" / "train2017" / "000005.png").write_bytes(png(5))
    (tmp_path / "captions.json").write_text(json.dumps(content))
    source = Pairs(f"{tmp_path}/captions.json")
    assert source[0]["image"] == png(5) and source[0]["captions"] == ["five", "fünf"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (coco(), ["first image", "000007.png", "images=DIR"]),
        (coco(annotations=None), ["annotations", "captions_*.json"]),
        (coco(annotations=[{"image_id": 5, "bbox": []}]), ["annotation 0", "'caption'"]),
        (coco(annotations=[{"image_id": 6, "caption": "x"}]), ["annotation 0", "image 6"]),
        (coco(annotations=[{"image_id": [6], "caption": "x"}]), ["annotation 0", "image [6]"]),
        (coco(annotations=["x"]), ["annotation 0"]),
        (coco(images=[{"id": 5}]), ["'file_name'"]),
        (coco(images=[{"id": [5], "file_name": "x"}]), ["image 0", "id=[5]"]),
        (coco(images=[{"id": 5, "file_name": 7}]), ["image 0", "file_name=7"]),
        (coco(images=[{"id": 5, "file_name": "x"}, {"id": 5, "file_name": "y"}]), ["image 1", "id=5", "'x'"]),
        ({"images": [{"filename": "x", "sentences": [], "split": "val"}]}, ["karpathy:", "/SPLIT"]),
    ],
)
def test_files_of_another_form_are_named(tmp_path, content, words):
    path = tmp_path / "captions_val2017.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        Pairs(str(path))
    assert str(error.value).startswith(f"data.train='pairs:{path}'")
    assert all(word in str(error.value) for word in words), error.value


def test_karpathys_source_names_the_one_for_cocos_file(tmp_path):
    path = tmp_path / "captions_val2017.json"
    path.write_text(json.dumps(coco()))
    with pytest.raises(UserError, match=f"COCO's own file.*write pairs:{path}"):
        Karpathy(f"{path}/val")
