"""Tables that name videos, sounds and arrays: spans of seconds, patterns of paths, layouts that people have."""

import pickle

import numpy as np
import pytest

from mmjax.data.audio.transform import AudioSpec
from mmjax.data.bad_example import BadExample
from mmjax.data.record import record_mistake
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.sources import pairs as pairs_lib
from mmjax.data.sources.pairs import Pairs
from mmjax.errors import UserError
from tests.data.formats.test_input_files import npy
from tests.helpers.media import make_sound, make_video, tones

WAV, MP4 = make_sound("wav", tones(12000, 8000), rate=8000), make_video()


def write(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@pytest.fixture
def clips(tmp_path):
    (tmp_path / "clips").mkdir()
    for name, content in {"a.wav": WAV, "b.mp4": MP4, "c.npy": npy(np.zeros((5, 2)))}.items():
        (tmp_path / "clips" / name).write_bytes(content)
    return tmp_path


def test_files_by_their_endings(clips):
    source = Pairs(
        write(clips, "t.csv", "path,caption\nclips/a.wav,a sound\nclips/b.mp4,a video\nclips/c.npy,numbers\n")
    )
    records = [source[i] for i in range(3)]
    assert not any(map(record_mistake, records))
    assert records[0]["modalities"] == {"audio": WAV} and records[1]["modalities"] == {"video": MP4, "audio": MP4}
    assert records[2]["modalities"]["series"].shape == (5, 2)
    assert not any("image" in record or "spans" in record for record in records)
    assert records[0]["captions"] == ["a sound"]


@pytest.mark.parametrize("large", [False, True])
def test_spans_make_records_of_their_own(clips, large, monkeypatch):
    """Of one file and one span the captions are one record's, whether the table is kept in memory or not."""
    if large:
        monkeypatch.setattr(pairs_lib, "_KEPT_BYTES", 0)
    rows = [
        *("a.wav,0,0.5,first", "a.wav,0.5,1,second", "a.wav,0.0,0.50,first again"),
        *("a.wav,,,all of it", "b.mp4,0.2,0.4,part of a video", "a.wav,2,1,no span", "a.wav,x,1,no span"),
    ]
    path = write(clips, "t.csv", "\n".join(["audio,start,end,caption", *rows]))
    source = Pairs(f"{path},images={clips}/clips", options=SourceOptions(cache=str(clips / "cache")))
    source = pickle.loads(pickle.dumps(source))
    assert len(source) == 6
    assert [source[i].get("spans") for i in range(4)] == [
        {"audio": (0.0, 0.5)},
        {"audio": (0.5, 1.0)},
        None,
        {"video": (0.2, 0.4), "audio": (0.2, 0.4)},
    ]
    assert source[0]["captions"] == ["first", "first again"]
    assert len({source[i]["id"] for i in range(4)}) == 4
    for index in (4, 5):
        with pytest.raises(BadExample, match="other: row [67]: its start and end are no seconds"):
            source[index]


def test_audiocaps(clips):
    """`audiocap_id,youtube_id,start_time,caption`: the files are cut already, and `start_time` is no span."""
    text = "audiocap_id,youtube_id,start_time,caption\n1,xyz,30,A dog barks\n2,xyz,30,A dog is barking\n3,uvw,10,Rain\n"
    for name in ("xyz_30", "uvw_10"):
        (clips / f"{name}.flac").write_bytes(make_sound("flac"))
    source = Pairs(f"{write(clips, 'train.csv', text)},images={clips}/{{youtube_id}}_{{start_time}}.flac")
    assert len(source) == 2 and source[0]["captions"] == ["A dog barks", "A dog is barking"]
    assert source[1]["path"] == f"{clips}/uvw_10.flac" and "spans" not in source[1]
    spec = AudioSpec(frames=50)
    assert spec.prepare(source[0]["modalities"]["audio"], None).shape == (50, 128)


def test_clotho(clips):
    """`file_name,caption_1..5`."""
    text = "file_name," + ",".join(f"caption_{i}" for i in range(1, 6)) + "\na.wav,one,two,three,four,five\n"
    keys = "+".join(f"caption_{i}" for i in range(1, 6))
    path = write(clips, "clotho.csv", text)
    source = Pairs(f"{path},images={clips}/clips", options=SourceOptions(caption_keys=keys))
    assert source[0]["captions"] == ["one", "two", "three", "four", "five"]


def test_a_pattern_of_a_column_that_is_not_there(clips):
    path = write(clips, "t.csv", "name,caption\na,b\n")
    with pytest.raises(UserError, match="pattern of its files names {nam}, and the table has 'name', 'caption'"):
        Pairs(f"{path},images=clips/{{nam}}.wav")
    with pytest.raises(UserError, match="none of its first 1 images can be read"):
        Pairs(f"{path},images={clips}/{{name}}.wav")


@pytest.mark.parametrize("listed", [False, True])
def test_kinetics(clips, listed):
    """`path,label`: labels are names, or numbers of those in classnames.txt."""
    labels = ["1", "0"] if listed else ["abseiling", "air drumming"]
    if listed:
        (clips / "classnames.txt").write_text("air drumming\nabseiling\narchery\n")
    source = Pairs(write(clips, "train.csv", f"path,label\nclips/b.mp4,{labels[0]}\nclips/a.wav,{labels[1]}\n"))
    assert source.class_names == (["air drumming", "abseiling", "archery"] if listed else ["abseiling", "air drumming"])
    assert [source[i]["label"] for i in range(2)] == ([1, 0] if listed else [0, 1])
    assert source[0]["modalities"]["video"] == MP4 and source[0]["captions"][0] == "a video of abseiling."
    assert not record_mistake(source[0])


def test_labels_that_are_no_classes(clips):
    text = "path,label\nclips/b.mp4,9\nclips/b.mp4,10\nclips/a.wav,\nclips/c.npy,10\n"
    source = Pairs(write(clips, "t.csv", text))
    assert source.class_names == ["9", "10"] and source[2]["label"] == 1
    with pytest.raises(BadExample, match="other: .*b.mp4: is of several classes: '10', '9'"):
        source[0]
    with pytest.raises(BadExample, match="no_caption: .*a.wav"):
        source[1]
    (clips / "classnames.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match="label '10' is none of the 2 names in classnames.txt"):
        Pairs(write(clips, "t.csv", text))
    assert Pairs(write(clips, "t.csv", text.replace("label", "caption"))).class_names is None


def test_rows_without_texts(clips):
    path = write(clips, "t.csv", "path,caption\nclips/b.mp4,a\nclips/a.wav,\n")
    for field in ("data.train", "data.eval"):
        keys = "eval" if field == "data.eval" else "data"
        source = Pairs(path, options=SourceOptions(caption_keys="none", keys_field=keys), field=field)
        assert [source[i].keys() for i in range(2)] == [{"id", "modalities", "path"}] * 2
