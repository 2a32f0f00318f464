"""Rows of named columns in the records of tables, Parquet files, folders and tars."""

import json
import pickle

import pytest

from mmjax.data.record import record_mistake
from mmjax.data.source_protocols import HasRows, SourceOptions
from mmjax.data.sources import pairs as pairs_lib
from mmjax.data.sources.files import Files
from mmjax.data.sources.pairs import Pairs
from mmjax.data.sources.parquet import Parquet
from mmjax.errors import UserError
from tests.helpers.media import make_sound

WAV = make_sound("wav")
NAMED = SourceOptions(columns=("age", "job"))
TEXTS = SourceOptions(columns=("age", "notes", "job"), text_columns=("notes", "job"), caption_keys="none")


def write(folder, name, text):
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("large", [False, True])
def test_a_table_without_files(tmp_path, large, monkeypatch):
    if large:
        monkeypatch.setattr(pairs_lib, "_KEPT_BYTES", 0)
    path = write(tmp_path, "t.csv", "age,job,notes,start,label\n3,cook,a,1,x\n,,b,2,y\n3,cook,c,0,x\n")
    source = Pairs(path, options=SourceOptions(columns=NAMED.columns, cache=str(tmp_path / "cache")))
    source = pickle.loads(pickle.dumps(source))
    assert len(source) == 3 and isinstance(source, HasRows) and source.class_names == ["x", "y"]
    assert [source[i]["modalities"] for i in range(2)] == [
        {"table": {"age": "3", "job": "cook"}},
        {"table": {"age": "", "job": ""}},
    ]
    assert [source[i]["label"] for i in range(3)] == [0, 1, 0] and source.row(2) == {"age": "3", "job": "cook"}
    assert source[0]["captions"][0] == "x" and not record_mistake(source[0])
    of_texts = Pairs(path, options=TEXTS)
    assert [of_texts[i]["captions"] for i in range(2)] == [["notes: a; job: cook"], ["notes: b"]]
    assert of_texts[1]["modalities"]["text"] == "notes: b" and not record_mistake(of_texts[1])
    assert of_texts[0]["id"] != of_texts[2]["id"]
    without = write(tmp_path, "u.jsonl", '{"age": 3, "job": null}\n{"age": 3}\n{"age": 2.5, "job": "cook"}\n')
    source = Pairs(without, options=NAMED)
    assert [source.row(i) for i in (0, 2)] == [{"age": "3", "job": ""}, {"age": "2.5", "job": "cook"}]
    assert source[0]["id"] == source[1]["id"] != source[2]["id"] and source[0].get("captions", []) == []


def test_columns_beside_files(tmp_path):
    """Rows of one file are one example where their columns are alike, and several where not."""
    (tmp_path / "a.wav").write_bytes(WAV)
    text = "audio,caption,age,job\na.wav,one,3,cook\na.wav,two,3,cook\na.wav,three,4,cook\n"
    source = Pairs(write(tmp_path, "t.csv", text), options=NAMED)
    assert len(source) == 2 and source[0]["captions"] == ["one", "two"] and source[0]["id"] != source[1]["id"]
    assert source[1]["modalities"] == {"audio": WAV, "table": {"age": "4", "job": "cook"}}


def test_columns_of_parquet_files(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"age": [3, None], "job": ["cook", None], "notes": ["a", "b"], "x": [{"y": 1}, {"y": 2}]})
    parquet.write_table(table, tmp_path / "t.parquet")
    source = Parquet(str(tmp_path / "t.parquet"), options=SourceOptions(columns=("age", "job", "x.y")))
    assert [source[i]["modalities"]["table"] for i in range(2)] == [
        {"age": 3, "job": "cook", "x.y": 1},
        {"age": None, "job": None, "x.y": 2},
    ]
    assert isinstance(source, HasRows) and source.row(1)["x.y"] == 2 and not record_mistake(source[0])
    assert Parquet(str(tmp_path), options=TEXTS)[0]["captions"] == ["notes: a; job: cook"]
    with pytest.raises(UserError, match="data.table.columns: no column 'agee' .did you mean 'age'"):
        Parquet(str(tmp_path), options=SourceOptions(columns=("agee",)))
    files = pyarrow.table({"audio": [{"bytes": WAV, "path": "a.wav"}], "age": [3], "job": ["cook"]})
    parquet.write_table(files, tmp_path / "files.parquet")
    record = Parquet(str(tmp_path / "files.parquet"), options=NAMED)[0]
    assert record["modalities"] == {"audio": WAV, "table": {"age": 3, "job": "cook"}}


def test_columns_beside_files_of_a_folder(tmp_path):
    (tmp_path / "0.wav").write_bytes(WAV)
    (tmp_path / "0.json").write_text(json.dumps({"age": 3, "job": "cook", "caption": "a sound"}))
    record = Files(str(tmp_path), options=NAMED)[0]
    assert record["modalities"]["table"] == {"age": 3, "job": "cook"} and record["captions"] == ["a sound"]
    with pytest.raises(UserError, match="no column 'jobs' .did you mean 'job'"):
        Files(str(tmp_path), options=SourceOptions(columns=("jobs",)))
