import io
import json
import pickle

import fsspec
import numpy as np
import pytest
from PIL import Image

from mmjax.data.files import Folder, Pairs
from mmjax.data.source import Source
from mmjax.errors import UserError


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        (tmp_path / "images" / f"{i}.png").write_bytes(png(i))
    return tmp_path


def write(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_rows_are_grouped_by_image_in_order(images, kind):
    rows = [
        ("images/2.png", "two, with a comma"),
        ("images/0.png", 'zero "quoted"'),
        (str(images / "images" / "2.png"), "zwei"),  # the same image, by its full path
        ("./images/0.png", "größe 零"),
    ]
    if kind == "jsonl":
        text = "\n".join(json.dumps({"score": 1, "title": c, "filepath": p}) for p, c in rows) + "\n\n"
    else:
        sep = {"csv": ",", "tsv": "\t"}[kind]
        quoted = ['"' + c.replace('"', '""') + '"' for _, c in rows]
        text = f"score{sep}title{sep}filepath\n" + "".join(
            f"1{sep}{c}{sep}{p}\n" for (p, _), c in zip(rows, quoted, strict=True)
        )
    source = Pairs(write(images, f"table.{kind}", text))
    assert isinstance(source, Source) and source.name == "table" and source.class_names is None
    assert [source[i]["captions"] for i in range(len(source))] == [
        ["two, with a comma", "zwei"],
        ['zero "quoted"', "größe 零"],
    ]
    assert [source[i]["image"] for i in range(len(source))] == [png(2), png(0)]
    assert source[0]["id"] != source[1]["id"] and source[-2]["id"] == source[0]["id"]
    again = pickle.loads(pickle.dumps(source))  # worker processes get it this way
    assert again[1] == source[1]


def test_the_usual_columns_have_an_order_and_can_be_chosen(images):
    path = write(images, "t.csv", "\ufeffpath,image,text,caption,alt\nnone.png,images/1.png,no,yes,perhaps\n")
    assert Pairs(path)[0]["captions"] == ["yes"] and Pairs(path)[0]["image"] == png(1)
    assert Pairs(path, caption_column="alt")[0]["captions"] == ["perhaps"]
    with pytest.raises(UserError, match="column of captions: found 'path', 'image', .*did you mean 'alt'.*'alts'"):
        Pairs(path, caption_column="alts")


def test_tables_and_images_on_another_file_system():
    fs = fsspec.filesystem("memory")
    fs.pipe("/pairs-test/a/1.png", png(1))
    fs.pipe("/pairs-test/b_c/2.png", png(2))
    fs.pipe("/pairs-test/t.tsv", b"image\tcaption\na/1.png\tone\nmemory://pairs-test/b_c/2.png\ttwo\n")
    try:
        source = Pairs("memory://pairs-test/t.tsv")
        assert [source[i]["image"] for i in range(2)] == [png(1), png(2)]
        folder = Folder("memory://pairs-test")
        assert folder.class_names == ["a", "b c"] and folder[1]["image"] == png(2)
        fs.rm("/pairs-test/b_c/2.png")
        with pytest.raises(FileNotFoundError):
            source[1]
    finally:
        fs.rm("/pairs-test", recursive=True)
    with pytest.raises(UserError, match="memory://pairs-test/t.tsv.*no such file"):
        Pairs("memory://pairs-test/t.tsv")
    with pytest.raises(UserError, match="memory://pairs-test'.*no such file or folder"):
        Folder("memory://pairs-test")


def test_an_image_that_is_missing_later_is_told_when_it_is_read(images):
    source = Pairs(write(images, "t.csv", "image,caption\nimages/0.png,a\nimages/9.png,b\n"))
    assert len(source) == 2 and source[0]["captions"] == ["a"]
    with pytest.raises(FileNotFoundError):
        source[1]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "", ["no rows", "header"]),
        ("t.csv", "image,caption\n", ["no rows"]),
        ("t.jsonl", "\n\n", ["no rows"]),
        ("t.csv", "img,caption\na.png,x\n", ["column of images", "'img', 'caption'", "image, filepath or path"]),
        ("t.tsv", "image,caption\na.png,x\n", ["column of images", "'image,caption'"]),
        ("t.jsonl", '{"image": "a.png", "words": "x"}\n', ["column of captions", "'words'", "caption, title or text"]),
        ("t.csv", "image,caption\nnowhere.png,x\n", ["first image", "nowhere.png", "relative to the table's folder"]),
        ("t.csv", "image,caption\nimages/0.png,x\nimages/1.png\n", ["line 3", "'caption'"]),
        ("t.jsonl", '{"image": "images/0.png", "caption": 3}', ["line 1", "3", "'caption'"]),
        ("t.jsonl", '{"image": "images/0.png", "caption": "a"}\n{"image"', ["line 2", "not JSON"]),
        ("t.jsonl", "[1]", ["line 1", "object"]),
        ("t.txt", "image,caption\n", [".csv, .tsv or .jsonl"]),
    ],
)
def test_mistakes_in_a_table_are_named(images, name, text, words):
    path = write(images, name, text)
    with pytest.raises(UserError) as error:
        Pairs(path, field="data.eval")
    message = str(error.value)
    assert message.startswith(f"data.eval='pairs:{path}'") and "\n" not in message
    assert all(word in message for word in words), message


def test_missing_tables_and_other_encodings_are_named(tmp_path):
    with pytest.raises(UserError, match="no such file.*exists"):
        Pairs(str(tmp_path / "none.csv"))
    (tmp_path / "latin.csv").write_bytes("image,caption\na.png,größe\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8 at byte"):
        Pairs(str(tmp_path / "latin.csv"))
    with pytest.raises(UserError, match=r"nosuch://x/t\.csv.*cannot be read"):
        Pairs("nosuch://x/t.csv")


def test_folder_has_classes_labels_and_captions(tmp_path):
    for folder, files in {
        "b_dog": ["2.PNG", "1.jpg", "notes.txt"],
        "a_cat": ["x.png", ".hidden.png"],
        ".git": [],
    }.items():
        (tmp_path / folder).mkdir()
        for i, file in enumerate(files):
            (tmp_path / folder / file).write_bytes(png(10 * len(files) + i))
    source = Folder(f"{tmp_path}/")
    assert isinstance(source, Source) and source.name == tmp_path.name
    assert source.class_names == ["a cat", "b dog"] and len(source) == 3
    assert [source[i]["label"] for i in range(3)] == [0, 1, 1]
    assert [source[i]["image"] for i in range(3)] == [png(20), png(31), png(30)]
    assert source[1]["captions"] == [t.format(c="b dog") for t in source.templates]
    assert "a photo of a b dog." in source[1]["captions"]
    assert source[1]["id"] == source[2]["id"] != source[0]["id"]


def test_mistakes_in_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="data.eval='folder:.*none'.*no such file or folder"):
        Folder(str(tmp_path / "none"), field="data.eval")
    (tmp_path / "x.png").write_bytes(png(0))
    with pytest.raises(UserError, match="no sub-folders"):
        Folder(str(tmp_path))
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match=r"class folder 'cat' has no images.*\.jpg"):
        Folder(str(tmp_path))
