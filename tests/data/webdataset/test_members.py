import json

import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.sources.wds import WebDataset
from mmjax.data.webdataset.members import Lookup
from mmjax.errors import UserError
from tests.helpers.tar_sets import example, jpeg, options, write_tar


def write(folder, *orders, classes=False):
    """A tar for each order of the members of eight examples."""
    folder.mkdir(exist_ok=True)
    for number, order in enumerate(orders):
        members = [member for i in range(8) for member in example(8 * number + i)]
        if classes:
            members = [(name.replace("txt", "cls"), b"0" if "txt" in name else data) for name, data in members]
        write_tar(folder / f"{number:05d}.tar", order(members))
    return folder


def in_order(members):
    return members


def images_first(members):
    return sorted(members, key=lambda member: not member[0].endswith("jpg"))


@pytest.mark.parametrize("classes", [False, True])
def test_tars_with_all_images_before_all_texts_are_refused(tmp_path, classes):
    folder = write(tmp_path / "set", images_first, images_first, classes=classes)
    if classes:
        (folder / "classnames.txt").write_text("a\n")
    with pytest.raises(UserError) as error:
        WebDataset(str(folder), options=options(tmp_path))
    message = str(error.value)
    assert message.startswith(f"data.train='wds:{folder}'") and "\n" not in message
    assert all(word in message for word in ("examples have", "jpg", "an image and a text", "tar --sort=name"))


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_texts_in_another_encoding_are_bad_examples_or_read_by_it(tmp_path, caplog, order):
    texts = ["猫坐在".encode("gbk"), b"\xef\xbb\xbfa dog", "a dog".encode("utf-16"), b"['a cat', 'a cow']", b"a hen"]
    members = [member for i, text in enumerate(texts) for member in ((f"{i:05d}.jpg", jpeg(i)), (f"{i:05d}.txt", text))]
    (tmp_path / "set").mkdir()
    write_tar(tmp_path / "set" / "0.tar", members)
    source = WebDataset(str(tmp_path / "set"), options=options(tmp_path, order=order))
    captions = [source[i]["captions"] for i in range(1, 5)]
    assert captions == [["a dog"], ["a dog"], ["a cat", "a cow"], ["a hen"]]
    assert [record.getMessage() for record in caplog.records if "written as text" in record.getMessage()] == [
        "captions such as ['a cat', 'a cow'] are lists written as text and read as lists"
    ]
    with pytest.raises(BadExample, match="encoding: .*/00000.* is not utf-8 at byte 2") as error:
        source[0]
    assert error.value.reason == "encoding"
    source = WebDataset(str(tmp_path / "set"), options=options(tmp_path, order=order, encoding="gbk"))
    assert source[0]["captions"] == ["猫坐在"]


def test_json_and_lines_are_read_in_the_encoding(tmp_path):
    content = '{"caption": "猫坐在"}'
    for encoding in ("gbk", "utf-8", "utf-16", "utf-16-le"):
        assert (
            Lookup({"json": content.encode(encoding)}, "gbk" if encoding == "gbk" else "utf-8")("json:caption")
            == "猫坐在"
        )
    assert Lookup({"txt": "猫\r\n狗\n".encode("gbk")}, "gbk", True)("txt") == ["猫", "狗", ""]
    with pytest.raises(BadExample) as error:
        Lookup({"json": content.encode("gbk")})("json:caption")
    assert error.value.reason == "encoding"
    assert Lookup({"json": b"[" * 100_000})("json:caption") is None


@pytest.mark.parametrize("behind", [0, 1, 30])
def test_tars_that_go_on_after_their_end_mark_are_not_whole(tmp_path, caplog, behind):
    folder = write(tmp_path / "set", in_order, in_order)
    first = (folder / "00000.tar").read_bytes()
    (folder / "00001.tar").write_bytes(first.rstrip(b"\0") + bytes(512 * (3 + behind) - len(first.rstrip(b"\0")) % 512))
    assert len(WebDataset(f"{folder}/00001.tar", options=options(tmp_path))) == 8
    (folder / "00000.tar").write_bytes(first + bytes(512 * behind) + first)
    with pytest.raises(UserError, match=r"00000.tar: goes on at byte \d+ after its end mark"):
        WebDataset(str(folder), options=options(tmp_path))
    source = WebDataset(str(folder), options=options(tmp_path, max_bad_fraction=0.5))
    assert len(source) == 16 and "goes on at byte" in caplog.text


def test_without_an_index_the_remedy_is_the_same(tmp_path):
    folder = write(tmp_path / "set", lambda members: images_first(members)[:8])
    (folder / "sizes.json").write_text(json.dumps({"00000.tar": 16}))
    with pytest.raises(UserError, match=r"none has .*txt for captions.*tar --sort=name"):
        WebDataset(str(folder), options=options(tmp_path, order="windowed"))


def test_examples_that_lack_an_image_or_a_text_are_counted_at_the_start(tmp_path, caplog):
    WebDataset(str(write(tmp_path / "set", in_order, in_order)), options=options(tmp_path))
    assert not caplog.records
    folder = write(tmp_path / "mixed", in_order, images_first, lambda members: members[:-2])
    source = WebDataset(str(folder), options=options(tmp_path))
    (message,) = [record.getMessage() for record in caplog.records]
    lacking = len(source) - 15
    assert f"{lacking} of {len(source)} examples lack an image or a text" in message and lacking == 17
    with pytest.raises(UserError, match=f"^data.eval='wds:{folder}': {lacking} of .* evaluation is on all"):
        WebDataset(str(folder), options=options(tmp_path, keys_field="eval"), field="data.eval")


def test_names_with_dots_are_told_where_an_ending_is_looked_for(tmp_path, caplog):
    dotted = lambda members: [(f"a.b.{name}", data) for name, data in members]
    with pytest.raises(UserError, match="first dot of its files' names.*'b.*jpg' is an ending: rename"):
        WebDataset(str(write(tmp_path / "set", dotted)), options=options(tmp_path))
    WebDataset(str(write(tmp_path / "mixed", in_order, dotted)), options=options(tmp_path))
    assert [m for record in caplog.records if "lack an image or a text" in (m := record.getMessage()) and "dot" in m]


@pytest.mark.parametrize(("text", "fault"), [(b"{", "line 1"), (b"[" * 100_000, "nested"), (b"9" * 5000, "digits")])
def test_a_json_that_is_none_is_told(tmp_path, text, fault):
    texts = [b'{"caption": "a dog"}', text]
    members = [member for i in range(2) for member in ((f"{i}.jpg", jpeg(i)), (f"{i}.json", texts[i]))]
    write_tar(tmp_path / "0.tar", members)
    source = WebDataset(str(tmp_path / "0.tar"), options=options(tmp_path))
    with pytest.raises(BadExample, match=f"^no_caption: .*its .json is no JSON .*{fault}"):
        source[1]
    write_tar(tmp_path / "1.tar", members[2:])
    with pytest.raises(UserError, match=f".json that is no JSON .*{fault}") as error:
        WebDataset(str(tmp_path / "1.tar"), options=options(tmp_path))
    assert "set_int" not in str(error.value)


def test_members_of_one_name_are_told_once(tmp_path, caplog):
    members = [member for i in range(3) for member in (*example(i), *example(i + 5, jpeg(9)))]
    names = [name for i in range(3) for name, _ in example(i) * 2]
    write_tar(tmp_path / "0.tar", [(name, data) for name, (_, data) in zip(names, members, strict=True)])
    source = WebDataset(str(tmp_path / "0.tar"), options=options(tmp_path))
    assert [source[i]["image"] for i in range(3)] == [example(i)[0][1] for i in range(3)]
    assert len([record for record in caplog.records if "twice" in record.getMessage()]) == 1
