import logging
import sys

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmjax.data.source_protocols import Sharded, SourceOptions
from mmjax.data.sources import parquet
from mmjax.data.sources.parquet import Parquet
from mmjax.errors import UserError
from tests.helpers.media import make_sound, make_video
from tests.helpers.source_checks import check_source, count_substitutions, png, reasons


def write(path, start: int, stop: int, rows: int = 3, **columns) -> None:
    """Columns as img2dataset names them."""
    numbers = range(start, stop)
    table = {
        "key": [f"{i:09d}" for i in numbers],
        "jpg": [png(i) for i in numbers],
        "caption": [f"caption {i}" for i in numbers],
        **columns,
    }
    pq.write_table(pa.table(table), path, row_group_size=rows)


@pytest.fixture
def shards(tmp_path):
    write(tmp_path / "00000.parquet", 0, 7)
    write(tmp_path / "00001.parquet", 7, 7)  # no rows
    write(tmp_path / "00002.parquet", 7, 12, rows=2)
    return str(tmp_path)


@pytest.mark.parametrize("pattern", ["{00000..00002}.parquet", "*.parquet"])
def test_rows_are_as_pyarrow_wrote_them(shards, pattern):
    source = Parquet(f"{shards}/{pattern}")
    check_source(source, list(range(12)))
    assert isinstance(source, Sharded) and source.shard_lengths.tolist() == [3, 3, 1, 2, 2, 1]
    assert source[8]["captions"] == ["caption 8"] and source[8]["path"] == f"{shards}/00002.parquet[0][1]"
    assert len({source[i]["id"] for i in range(12)}) == 12
    folder = Parquet(f"{shards}/")
    assert len(folder) == 12 and folder.name == Parquet(f"{shards}/*.parquet").name


def test_files_on_another_file_system(shards):
    fs = fsspec.filesystem("memory")
    fs.put(shards, "/parquet-test", recursive=True)
    try:
        check_source(Parquet("memory://parquet-test/*.parquet"), list(range(12)))
    finally:
        fs.rm("/parquet-test", recursive=True)


def test_structs_lists_and_weights(tmp_path):
    images = pa.array([{"bytes": png(i), "path": "x.png"} for i in range(3)])
    captions = [["a", " b ", "", None], ["c"], ["d"]]
    nested = [{"raw": [f"raw {i}"], "ids": [i]} for i in range(3)]
    write(
        tmp_path / "a.parquet", 0, 3, jpg=[None] * 3, image=images, captions=captions, nested=nested, caption=[""] * 3
    )
    path = str(tmp_path / "a.parquet")
    source = Parquet(path, options=SourceOptions(caption_keys="captions@3+nested.raw@1+caption@5"))
    check_source(source, [0, 1, 2])
    assert source[0]["captions"] == ["a", "b", "raw 0"] and source[0]["caption_weights"] == [1.5, 1.5, 1]
    assert Parquet(path, options=SourceOptions(caption_keys="nested/raw"))[2]["captions"] == ["raw 2"]


@pytest.mark.parametrize("is_struct", [False, True])
def test_rows_of_failed_downloads_are_no_examples(tmp_path, caplog, is_struct):
    failed = {0, 1, 2, 4, 7, 11}
    images = [None if i in failed else png(i) for i in range(12)]
    if is_struct:  # null as a whole, or inside
        images = [{"bytes": image, "path": "x"} if image or i % 2 else None for i, image in enumerate(images)]
    write(tmp_path / "a.parquet", 0, 12, jpg=images)
    source = Parquet(str(tmp_path / "a.parquet"))
    check_source(source, [3, 5, 6, 8, 9, 10])
    assert [source[i]["captions"] for i in (0, -1)] == [["caption 3"], ["caption 10"]]
    assert source[1]["path"] == f"{tmp_path}/a.parquet[1][2]" and source.shard_lengths.tolist() == [2, 2, 2]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "6 of 12 rows have no image under 'jpg'" in message


@pytest.mark.parametrize("statistics", [True, False])
def test_evaluation_refuses_rows_without_a_caption(tmp_path, statistics):
    """A null image and a null caption are no example; a null caption alone is an example that lacks it."""
    table = {"jpg": [None, *map(png, range(1, 6))], "caption": [None, "a", None, "c", " ", "e"]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet", row_group_size=2, write_statistics=statistics)
    evaluated = SourceOptions(keys_field="eval")
    with pytest.raises(UserError) as error:
        Parquet(str(tmp_path), options=evaluated, field="data.eval")
    message = str(error.value)
    count = "2 of 5" if statistics else "3 of 6"
    assert count in message and "data.eval=" in message and "eval.caption_keys" in message and "parquet[" in message
    assert len(Parquet(str(tmp_path))) == (5 if statistics else 6)
    table["caption"] = [None, *"abcde"]
    pq.write_table(pa.table(table), tmp_path / "a.parquet", row_group_size=2)
    assert len(Parquet(str(tmp_path), options=evaluated, field="data.eval")) == 5


def test_evaluation_refuses_row_groups_that_are_damaged(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"jpg": [png(i) for i in range(6)], "caption": [f"caption {i}" for i in range(6)]})
    pq.write_table(table, path, row_group_size=3, write_page_checksum=True, compression="none")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"caption 4", b"captain 4", 1))
    with pytest.raises(UserError, match=r"a.parquet: row group 1: .*; evaluation is on all of a set"):
        Parquet(str(path), options=SourceOptions(keys_field="eval"), field="data.eval")
    assert len(Parquet(str(path))) == 6


def test_an_image_may_be_a_path(tmp_path):
    (tmp_path / "img").mkdir()
    for i in range(3):
        (tmp_path / "img" / f"{i}.png").write_bytes(png(i))
    paths = ["img/0.png", str(tmp_path / "img" / "1.png"), None, "img/9.png", "img/2.png", "./img/0.png"]
    write(tmp_path / "a.parquet", 0, 6, jpg=[1] * 6, filepath=paths)
    source = Parquet(str(tmp_path / "a.parquet"))
    assert reasons(source) == ["ok", "ok", "no_image", "missing", "ok", "ok"]
    assert [source[i]["image"] for i in (0, 1, 4)] == [png(0), png(1), png(2)]
    assert source[0]["path"] == f"{tmp_path}/img/0.png" and source[0]["id"] == source[5]["id"] != source[1]["id"]
    write(tmp_path / "c.parquet", 0, 3, image=pa.array([b"\xff", b"\xfe", b"\xfd"]).view(pa.string()))
    with pytest.raises(UserError, match="none of its first images can be read .*utf-8"):
        Parquet(str(tmp_path / "c.parquet"), options=SourceOptions(image_key="image"))
    write(tmp_path / "b.parquet", 0, 2, image=["0.png", "1.png"])
    named = SourceOptions(image_key="image")
    source = Parquet(f"{tmp_path}/b.parquet,images={tmp_path}/img", options=named)
    check_source(source, [0, 1])
    assert source.name == "b"


def test_classes_are_those_that_hugging_face_describes(tmp_path):
    table = pa.table({"image": [{"bytes": png(i), "path": None} for i in range(3)], "label": [1, 0, -1]})
    features = '{"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}'
    table = table.replace_schema_metadata({"huggingface": f'{{"info": {{"features": {features}}}}}'})
    pq.write_table(table, tmp_path / "a.parquet")
    source = Parquet(str(tmp_path / "a.parquet"))
    assert source.class_names == ["cat", "dog"] and source[0]["label"] == 1
    assert source[0]["captions"] == [template.format(c="dog") for template in source.templates]
    assert reasons(source) == ["ok", "ok", "no_caption"] and source.class_codes is None
    ids = features.replace("cat", "n01440764").replace("dog", "n01443537")
    pq.write_table(
        table.replace_schema_metadata({"huggingface": f'{{"info": {{"features": {ids}}}}}'}), tmp_path / "b.parquet"
    )
    source = Parquet(str(tmp_path / "b.parquet"))
    assert source.class_names == ["tench", "goldfish"] and source.class_codes == ("n01440764", "n01443537")
    assert "a photo of a goldfish." in source[0]["captions"]


def test_bad_rows_and_row_groups_are_counted(tmp_path):
    write(tmp_path / "a.parquet", 0, 3, jpg=[None, png(1), b""], caption=["x", " ", "y"])
    write(tmp_path / "b.parquet", 3, 6)
    write(tmp_path / "d.parquet", 9, 12)
    pq.write_table(pa.table({"caption": ["no", "column"]}), tmp_path / "e.parquet")
    write(tmp_path / "f.parquet", 12, 15)
    write(tmp_path / "g.parquet", 15, 20)
    source = Parquet(f"{tmp_path}/*.parquet")
    data = bytearray((tmp_path / "b.parquet").read_bytes())
    offset = data.index(png(3)[:20]) if png(3)[:20] in data else 80
    data[offset - 40 : offset + 40] = b"\xff" * 80
    (tmp_path / "b.parquet").write_bytes(data)
    (tmp_path / "d.parquet").unlink()
    (tmp_path / "f.parquet").write_bytes((tmp_path / "f.parquet").read_bytes()[:300])
    expected = ["no_caption", "ok"] + ["corrupt"] * 3 + ["missing"] * 3
    expected += ["no_image"] * 2 + ["corrupt"] * 3 + ["ok"] * 5
    assert reasons(source) == expected
    assert count_substitutions(source) == {
        "ok": 5, "corrupt": 6, "missing": 3, "no_image": 2, "no_caption": 1, "empty": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        (
            {},
            {"image_key": "png"},
            ["images: looked for png, found 'key', 'jpg'", "did you mean 'jpg'", "data.image_key"],
        ),
        ({"n": [1, 2]}, {"image_key": "n"}, ["field 'n' holds no encoded images", "'jpg' could"]),
        ({}, {"image_key": "key"}, ["first images", "000000000", "column 'key'"]),
        ({}, {"caption_keys": "captoin"}, ["no field 'captoin'", "'caption'", "did you mean 'caption'"]),
        ({}, {"caption_keys": "nope@0.9+caption@0.1"}, ["data.caption_keys='nope@0.9+caption@0.1': no field 'nope'"]),
        ({}, {"caption_keys": "text", "keys_field": "eval"}, ["eval.caption_keys='text': no field 'text'"]),
        ({"jpg": ["0.jpg", "1.jpg"]}, {}, ["first images", "0.jpg", "column 'jpg'", "images=DIR"]),
        ({"jpg": [1, 2]}, {}, ["field 'jpg' holds no encoded images and no paths"]),
        (
            {"jpg": ["u", "v"], "url": ["u", "v"], "status": ["success"] * 2},
            {},
            ["img2dataset", "wds:DIR", "files:DIR"],
        ),
        ({"jpg": pa.array([None, None], pa.binary())}, {}, ["2 of 2 rows", "'jpg'"]),
        ({"caption": pa.array([None, None], pa.string())}, {}, ["'caption'", "data.caption_keys"]),
        ({"caption": pa.array([None, None], pa.null())}, {}, ["'caption' of null", "data.caption_keys"]),
        ({"caption": [1, 2]}, {"keys_field": "eval"}, ["'caption' of int64", "eval.caption_keys"]),
        ({"caption": [[1.5], [2.5]]}, {}, ["'caption' of list", "data.caption_keys"]),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path, columns, options, words):
    write(tmp_path / "a.parquet", 0, 2, **columns)
    with pytest.raises(UserError) as error:
        Parquet(str(tmp_path / "a.parquet"), options=SourceOptions(**options), field="data.eval")
    message = str(error.value)
    assert message.startswith(f"data.eval='parquet:{tmp_path}/a.parquet'") and "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(("name", "is_used"), [("caption", True), ("jpg", True), ("other", False)])
def test_columns_named_twice_are_refused_where_they_are_used(tmp_path, name, is_used):
    columns = {"jpg": [png(0), png(1)], "caption": ["a", "b"], "other": ["c", "d"]}
    table = pa.table([*columns.values(), columns[name]], names=[*columns, name])
    pq.write_table(table, tmp_path / "a.parquet")
    if is_used:
        with pytest.raises(UserError, match=f"2 columns are named '{name}'"):
            Parquet(str(tmp_path / "a.parquet"))
    else:
        assert Parquet(str(tmp_path / "a.parquet"))[1]["captions"] == ["b"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string()), pa.list_(pa.string())]
)
def test_captions_may_be_of_any_type_of_text(tmp_path, kind):
    nested = [["a"], None] if pa.types.is_list(kind) else [b"a" if pa.types.is_binary(kind) else "a", None]
    write(tmp_path / "a.parquet", 0, 2, caption=pa.array(nested, kind))
    assert Parquet(str(tmp_path / "a.parquet"))[0]["captions"] == ["a"]


def test_files_that_cannot_be_read_are_named(tmp_path):
    write(tmp_path / "empty.parquet", 0, 0)
    (tmp_path / "text.parquet").write_bytes(b"image,caption\n" * 9)
    for pattern, words in {
        "none.parquet": "none.parquet' cannot be read .no such file.*check the path",
        "*.parq": "no file matches",
        "text.parquet": "text.parquet' cannot be read .*not a parquet file.*write it again",
        "empty.parquet": "no rows",
        "{empty,e*}.parquet": "names .*empty.parquet' twice",
    }.items():
        with pytest.raises(UserError, match=words) as error:
            Parquet(f"{tmp_path}/{pattern}")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="nosuch://x.parquet.*nosuch"):
        Parquet("nosuch://x.parquet")


def test_without_pyarrow_the_command_that_installs_it_is_told(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"needs pyarrow.*pip install 'mmjax\[parquet\]'"):
        Parquet(f"{shards}/*.parquet")


def test_row_groups_are_kept_up_to_a_size_and_big_ones_warned_of(tmp_path, monkeypatch, caplog):
    write(tmp_path / "a.parquet", 0, 60, rows=10, jpg=[png(i) + bytes(1000) for i in range(60)])
    monkeypatch.setattr(parquet, "_DECODED_BYTES", 25_000)  # two row groups
    with caplog.at_level(logging.WARNING, "mmjax.data"):
        Parquet(str(tmp_path / "a.parquet"), options=SourceOptions(order="windowed"))
        Parquet(str(tmp_path / "a.parquet"), field="data.eval")
        assert not caplog.records
        source = Parquet(str(tmp_path / "a.parquet"))
    (record,) = caplog.records
    assert "each example reads a row group of 10 rows (0.0 MB); set data.order='windowed'" in record.getMessage()
    source.prefetch_shards([0, 1])
    assert len(caplog.records) == 1
    for _ in range(2):
        source.prefetch_shards([0, 1, 2, 3, 4, 5])
    assert len(caplog.records) == 2 and "set data.window lower" in caplog.text
    reads = []
    monkeypatch.setattr(source._groups, "_make", lambda shard: reads.append(shard) or source._decode(shard))
    for i in [*range(20), *range(20), 59, 19, 0]:
        source[i]
    assert reads == [0, 1, 5, 0]


def test_sounds_and_videos_as_hugging_face_keeps_them(tmp_path):
    flac, mp4 = make_sound("flac"), make_video()
    sounds = [{"bytes": flac, "path": "1.flac"}, {"bytes": b"<html>", "path": "2.flac"}]
    pq.write_table(pa.table({"audio": sounds, "text": ["a sound", "none"]}), tmp_path / "a.parquet")
    source = Parquet(str(tmp_path / "a.parquet"))
    assert source[0]["modalities"] == {"audio": flac} and source[0]["captions"] == ["a sound"]
    assert source[1]["image"] == b"<html>"  # no format that is read: `not_image` where an image is wanted
    pq.write_table(pa.table({"mp4": [mp4], "caption": ["a video"]}), tmp_path / "b.parquet")
    assert Parquet(str(tmp_path / "b.parquet"))[0]["modalities"] == {"video": mp4, "audio": mp4}
    (tmp_path / "1.mp4").write_bytes(mp4)
    pq.write_table(pa.table({"video": ["1.mp4"], "caption": ["a video"]}), tmp_path / "c.parquet")
    record = Parquet(str(tmp_path / "c.parquet"))[0]
    assert record["modalities"] == {"video": mp4, "audio": mp4} and record["path"] == f"{tmp_path}/1.mp4"
