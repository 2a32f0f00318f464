import gzip
import json

import numpy as np
import pytest

from mmjax.data.formats.table_file import Table
from mmjax.data.source_protocols import SourceOptions
from mmjax.errors import UserError
from mmjax.io.reader import Reader


def table(folder, name, text, **options):
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return Table(str(folder / name), reader=Reader(), where=f"data.train='{name}'", options=SourceOptions(**options))


def rows(*args, columns=("image", "caption"), **options):
    return list(table(*args, **options).rows(columns))


def good(count, separator=","):
    return f"image{separator}caption\n" + "".join(f"{i}.png{separator}number {i}\n" for i in range(count))


def test_few_rows_of_another_length_are_left_out_and_logged(tmp_path, caplog):
    text = good(300) + "a.png,a dog, brown\n" + "b.png\n"
    assert len(rows(tmp_path, "t.csv", text)) == 300
    (message,) = [record.getMessage() for record in caplog.records]
    assert all(word in message for word in ("2 of 302", "line 302 has 3 cells, the header 2", "left out"))


@pytest.mark.parametrize(("bad", "allowed"), [(4, 0.01), (1, 0.0)])
def test_more_than_the_config_allows_are_refused(tmp_path, bad, allowed):
    with pytest.raises(UserError) as error:
        rows(tmp_path, "t.csv", good(300) + "a.png,a dog, brown\n" * bad, max_bad_fraction=allowed)
    for word in (
        f"{bad} of {300 + bad}",
        "line 302 has 3 cells",
        "the header 2",
        "data.separator",
        "data.train='t.csv'",
    ):
        assert word in str(error.value)


def test_a_table_of_broken_rows_alone_is_refused_with_its_first(tmp_path):
    with pytest.raises(UserError, match="2 of 2 rows .*line 2 has 3 cells, the header 2"):
        rows(tmp_path, "t.csv", "image,caption\na.png,x,y\nb.png,x,y\n")


@pytest.mark.parametrize(("name", "separator"), [("t.csv", "\t"), ("t.csv", "|"), ("t.tsv", ","), ("t.tsv", ";")])
def test_another_separator_is_found_and_logged_or_given(tmp_path, caplog, name, separator):
    text = good(3, separator)
    assert rows(tmp_path, name, text)[2] == (4, "2.png", "number 2")
    assert [record for record in caplog.records if "data.separator" in record.getMessage()]
    caplog.clear()
    written = "tab" if separator == "\t" else separator
    assert len(rows(tmp_path, name, text, separator=written)) == 3 and not caplog.records


def test_a_separator_that_no_ending_would_suggest_can_be_given(tmp_path):
    assert rows(tmp_path, "t.csv", good(2, "^"), separator="^")[1] == (3, "1.png", "number 1")
    for wrong in ("ab", '"', "\n"):
        with pytest.raises(UserError, match="data.separator="):
            table(tmp_path, "t.csv", good(2), separator=wrong)


def test_a_column_that_is_named_twice_is_refused_where_it_is_used(tmp_path):
    text = "image,caption,caption\na.png,x,y\n"
    assert rows(tmp_path, "t.csv", text, columns=["image"]) == [(2, "a.png")]
    with pytest.raises(UserError, match="data.train='t.csv': the header names 'caption' twice"):
        rows(tmp_path, "t.csv", text)


def test_json_is_an_array_or_one_object_a_line(tmp_path):
    objects = [{"image": f"{i}.png", "caption": ["x\ny", str(i)]} for i in range(3)]
    expected = [(i + 1, f"{i}.png", ["x\ny", str(i)]) for i in range(3)]
    assert rows(tmp_path, "t.json", json.dumps(objects, indent=1)) == expected
    assert rows(tmp_path, "t.json", "\n".join(map(json.dumps, objects))) == expected
    assert rows(tmp_path, "t.json", "\ufeff" + json.dumps(objects[0] | {"caption": "x"})) == [(1, "0.png", "x")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["not JSON"]),
        ("[]", ["no rows"]),
        ('[{"image": "a.png"}, 3]', ["element 2"]),
        ("3", ["element 1"]),
        ('{"image": {"0": "a.png"}, "caption": {"0": "x"}}', ["'image', 'caption'", "array of objects"]),
        ('{"data": [{"image": "a.png"}]}', ["'data'", "array of objects"]),
        ('[{"image": "a.png"}', ["line 1"]),
        ("[" * 100_000, ["nested"]),
    ],
)
def test_json_of_another_form_is_named(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        table(tmp_path, "t.json", text)
    assert all(word in str(error.value) for word in ("data.train='t.json'", *words)), error.value


def test_lines_that_are_not_json_are_left_out_and_counted(tmp_path, caplog):
    good_lines = [json.dumps({"image": f"{i}.png", "caption": "x"}) for i in range(400)]
    bad_lines = ['{"image": "a.pn', "[1]", '{"image": ' + "9" * 5000 + "}", "[" * 100_000]
    lines = [*good_lines[:200], *bad_lines, *good_lines[200:]]
    read = rows(tmp_path, "t.jsonl", "\n".join(lines))
    assert len(read) == 400 and read[200][0] == 205
    (message,) = [record.getMessage() for record in caplog.records]
    assert all(word in message for word in ("4 of 404", "line 201", "not JSON", "left out"))
    with pytest.raises(UserError, match="4 of 404 .*line 201 is not JSON .*one JSON object per line"):
        rows(tmp_path, "t.jsonl", "\n".join(lines), max_bad_fraction=0.005)
    with pytest.raises(UserError, match="1 of 1 .*line 1 is not JSON"):
        rows(tmp_path, "t.jsonl", "{")


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
def test_rows_that_are_not_utf8_are_left_out_and_counted(tmp_path, caplog, name):
    separator = "\t" if name == "t.tsv" else ","
    lines = good(300, separator).splitlines()
    if name == "t.jsonl":
        lines = [json.dumps({"image": f"{i}.png", "caption": "größe"}, ensure_ascii=False) for i in range(301)]
    content = [line.encode() for line in lines]
    content[250] = content[250].replace(b"n", "größe".encode("latin-1")).replace("ö".encode(), b"\xf6")
    (tmp_path / name).write_bytes(b"\n".join(content))
    make = lambda **options: Table(
        str(tmp_path / name), reader=Reader(), where="data.train=''", options=SourceOptions(**options)
    )
    read = list(make().rows(["image", "caption"]))
    assert len(read) == len(lines) - (1 if name == "t.jsonl" else 2) and 251 not in [line for line, *_ in read]
    (message,) = [record.getMessage() for record in caplog.records]
    byte = b"\n".join(content).index(b"\xf6")
    assert "line 251 is not UTF-8" in message and f"byte {byte}" in message
    with pytest.raises(UserError, match="1 of 30. rows .*line 251 is not UTF-8 .*data.encoding"):
        list(make(max_bad_fraction=0.0).rows(["image", "caption"]))
    assert len(list(make(max_bad_fraction=0.0, encoding="latin-1").rows(["image", "caption"]))) == len(read) + 1


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"image,caption", mtime=0), ["compressed with gzip", "decompress"]),
        (b"PK\x03\x04" + bytes(99), ["no text", "CSV"]),
        (b"PAR1" + bytes(99), ["Parquet", "parquet:"]),
        (np.random.default_rng(0).bytes(9000), ["no text"]),
    ],
)
def test_files_that_are_no_text_are_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        Table(str(tmp_path / name), reader=Reader(), where="data.train=''")
    message = str(error.value)
    assert all(word in message for word in words) and message.isascii() and len(message) < 200


def test_texts_with_control_characters_are_texts(tmp_path):
    assert len(rows(tmp_path, "t.csv", "image,caption\n0.png,größe \x1b[31m\x07\x07\x07\n")) == 1
    (tmp_path / "u.csv").write_text("image,caption\n0.png,größe\n", encoding="utf-16")
    assert len(Table(str(tmp_path / "u.csv"), reader=Reader(), where="").columns) == 2
