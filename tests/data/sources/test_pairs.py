import json
import pickle

import fsspec
import pytest

from mmjax.data.bad_example import REASONS, BadExample, reason_code
from mmjax.data.source_protocols import Source, SourceOptions
from mmjax.data.sources.folder import Folder
from mmjax.data.sources.pairs import Pairs
from mmjax.errors import UserError
from tests.helpers.source_checks import check_source, count_substitutions, png


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
    check_source(source, [2, 0])


@pytest.mark.parametrize("is_writable", [True, False])
def test_a_large_table_takes_no_memory_of_workers(images, is_writable, caplog):
    rows = [f"images/{i % 3 if i < 4 else i}.png,größe 零 {i}" for i in range(30_000)]
    path = write(images, "t.csv", "\n".join(["image,caption", *rows]))
    cache = images / "cache" if is_writable else images / "t.csv"
    source = Pairs(path, options=SourceOptions(cache=str(cache)))
    content = pickle.dumps(source)
    if is_writable:
        assert len(content) < 2000 and len(list((cache / "tables").iterdir())) == 1
    else:
        assert "data.cache" in caplog.text
    source = pickle.loads(content)
    assert len(source) == 29_999 and source[0]["captions"] == ["größe 零 0", "größe 零 3"]
    assert source[2]["image"] == png(2)
    with pytest.raises(FileNotFoundError, match="29999.png"):
        source[-1]


def test_the_usual_columns_have_an_order_and_can_be_chosen(images):
    path = write(images, "t.csv", "\ufeffpath,image,text,caption,alt\nimages/2.png,images/1.png,no,yes,perhaps\n")
    assert Pairs(path)[0]["captions"] == ["yes"] and Pairs(path)[0]["image"] == png(1)
    source = Pairs(path, options=SourceOptions(image_key="path", caption_keys="alt"))
    assert source[0]["captions"] == ["perhaps"] and source[0]["image"] == png(2)
    with pytest.raises(UserError, match="no field 'alts', found 'path', 'image', .*did you mean 'alt'"):
        Pairs(path, options=SourceOptions(caption_keys="alts"))
    with pytest.raises(UserError, match="images: looked for pat, found 'path', .*did you mean 'path'.*data.image_key"):
        Pairs(path, options=SourceOptions(image_key="pat"))


def test_several_columns_of_captions_share_their_weights(images):
    rows = "images/0.png,long 0,short 0\nimages/1.png,,short 1\nimages/0.png,longer 0, \n"
    path = write(images, "t.csv", "image,long,short\n" + rows)
    source = Pairs(path, options=SourceOptions(caption_keys="long@3+short@1"))
    assert source[0]["captions"] == ["long 0", "longer 0", "short 0"]
    assert source[0]["caption_weights"] == [1.5, 1.5, 1.0]
    assert source[1]["captions"] == ["short 1"] and source[1]["caption_weights"] == [1.0]


def test_a_cell_of_json_may_hold_several_captions_or_lie_inside_another(images):
    rows = [
        {"image": {"file": "images/0.png"}, "captions": ["a", " b ", "", "nul\0"]},
        {"image": {"file": "images/1.png"}, "captions": []},
    ]
    path = write(images, "t.jsonl", "\n".join(map(json.dumps, rows)))
    source = Pairs(path, options=SourceOptions(image_key="image.file"))
    assert source[0]["captions"] == ["a", "b", "nul"] and source[0]["image"] == png(0)
    with pytest.raises(BadExample, match=r"no_caption: .*images/1.png: no text under 'captions'"):
        source[1]


def test_captions_may_be_lists_written_as_text(images, caplog):
    rows = ["images/0.png,\"['a dog', 'brown, and wet']\"", "images/1.png,[sic] a cat", 'images/2.png,"[""x""]"']
    source = Pairs(write(images, "t.csv", "image,caption\n" + "\n".join(rows)))
    assert [source[i]["captions"] for i in range(3)] == [["a dog", "brown, and wet"], ["[sic] a cat"], ["x"]]
    assert [record for record in caplog.records if "2 captions are lists" in record.getMessage()]


def test_images_may_lie_in_a_folder_that_is_named(images, tmp_path_factory):
    table = write(tmp_path_factory.mktemp("tables"), "t.json", json.dumps([{"file_name": "1.png", "text": "one"}]))
    source = Pairs(f"{table},images={images}/images")
    assert source[0]["image"] == png(1) and source.name == "t"
    with pytest.raises(UserError, match="none of its first 1 images .*images=DIR"):
        Pairs(table)


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


def test_rows_that_cannot_be_used_are_bad_examples_and_refuse_no_table(images):
    rows = ["images/9.png,gone", "images/0.png,", ",first", "images/1.png,one", ",second", "images/2.png,"]
    rows += ["nosuch://x/y.png,scheme", "images/0.png,back"]
    (images / "images" / "torn.png").write_bytes(png(3)[:-30])
    source = Pairs(write(images, "t.csv", "image,caption\n" + "\n".join([*rows, "images/torn.png,torn"])))
    seen = []
    for i in range(len(source)):
        try:
            seen.append(source[i]["captions"])
        except (BadExample, OSError) as error:
            seen.append(REASONS[reason_code(error)])
    assert seen == [
        "missing", ["back"], "no_image", ["one"], "no_image", "no_caption", "read", ["torn"]
    ]  # fmt: skip
    assert sorted(count_substitutions(source).items()) == [
        ("corrupt", 1), ("missing", 1), ("no_caption", 1), ("no_image", 2), ("ok", 2), ("read", 1)
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [",a caption", "images/0.png,"])
def test_evaluation_refuses_a_table_with_rows_that_cannot_be_used(images, bad):
    file = write(images, "t.csv", f"image,caption\nimages/1.png,one\n{bad}\n")
    assert len(Pairs(file)) == 2
    with pytest.raises(UserError, match="^data.eval='pairs:.*1 of 2 examples .* row 2;"):
        Pairs(file, options=SourceOptions(keys_field="eval"), field="data.eval")
    write(images, "t.csv", "image,caption\nimages/1.png,one\nimages/0.png,\nimages/0.png,zero\n")
    assert len(Pairs(file, options=SourceOptions(keys_field="eval"), field="data.eval")) == 2


@pytest.mark.parametrize("image", ["images/0.png", "images/0.JPG", "https://host/0?size=2"])
def test_a_table_without_a_header_is_named(images, image):
    with pytest.raises(UserError) as error:
        Pairs(write(images, "t.csv", f"{image},a dog\nimages/1.png,a cat\n"))
    assert all(word in str(error.value) for word in (f"pairs:{images}/t.csv", "header", repr(image), "image,caption"))


def test_a_table_is_small_in_memory_and_the_same_after_pickling(images):
    rows = "".join(f"images/{i % 7}{i}.png,caption {i}\n" for i in range(20_000))
    source = Pairs(write(images, "t.csv", "image,caption\nimages/0.png,zero\n" + rows))
    assert len(source) == 20_001
    size = len(pickle.dumps(source))
    assert size < 2 * len(rows) + 20_000 * 40
    assert pickle.loads(pickle.dumps(source))[0] == source[0]
    with pytest.raises(FileNotFoundError, match="images/519997.png"):
        source[19_998]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "", ["no rows", "header"]),
        ("t.csv", "image,caption\n", ["no rows"]),
        ("t.jsonl", "\n\n", ["no rows"]),
        ("t.csv", "img,caption\na.png,x\n", ["field of images", "'img', 'caption'", "image, filepath, path"]),
        ("t.csv", "image caption\na.png x\n", ["field of images", "'image caption'"]),
        ("t.jsonl", '{"image": "a.png", "words": "x"}\n', ["field of captions", "'words'", "caption, captions"]),
        (
            "t.csv",
            "image,caption\nnowhere.png,x\nno.png,y",
            ["first 2 images", "nowhere.png", "column 'image'", "no such"],
        ),
        ("t.csv", "image,caption\nnosuch://a.png,x\n", ["first 1 images", "nosuch://a.png", "nosuch"]),
        ("t.csv", "image,caption\n,x\n", ["first 1 images", "row 1 names no image"]),
        ("t.csv", 'image,caption\nimages/0.png,"x\nimages/1.png,y"\n', ["1 of 2 rows", "line 2", "quotation mark"]),
        ("t.jsonl", '{"image": "images/0.png", "caption": 3}', ["no row has a text", "'caption'", "data.caption_keys"]),
        ("t.jsonl", '{"image": "images/0.png", "caption": "a"}\n{"image"', ["line 2", "not JSON"]),
        ("t.jsonl", "[1]", ["line 1", "object"]),
        ("t.txt", "image,caption\n", [".csv, .tsv, .jsonl or .json"]),
        ("t.csv,images=", "", ["images= names no folder"]),
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
