"""Layouts of data sets, read by the lines of docs/media.md from tiny copies of them."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax.data.audio.transform import AudioSpec
from mmjax.data.config import DataConfig
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.mixture import make_options, parse_mixture
from mmjax.data.record import record_mistake
from mmjax.data.video.transform import VideoSpec
from mmjax.errors import UserError
from tests.data.formats.test_input_files import npy
from tests.helpers.image_files import encoded, smooth
from tests.helpers.media import frames, make_sound, make_video, tones
from tests.helpers.tar_sets import write_tar

DOCS = (Path(__file__).parents[2] / "docs" / "media.md").read_text().partition("## Layouts of data sets")[2]
MP4 = make_video(pixels=frames(8, (32, 24)), rate=8, sound="aac")
AVI, WEBM = make_video("mpeg4.avi", frames(8, (32, 24))), make_video("vp9.webm", frames(8, (32, 24)))
FLAC, WAV = (make_sound(kind, tones(8000, 8000), rate=8000) for kind in ("flac", "wav"))
DECODERS = {
    "video": VideoSpec(image=ImageSpec(size=16), frames=2),
    "audio": AudioSpec(frames=20, mel_bins=16),
}


def files(folder, contents):
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def msrvtt(folder):
    videos = [
        {
            "video_id": f"video{i}",
            "split": split,
            "start time": 0.25,
            "end time": 0.75,
            "category": i,
            "url": "u",
            "id": i,
        }
        for i, split in enumerate(["train", "validate", "train"])
    ]
    sentences = [{"caption": f"sentence {i}", "video_id": f"video{i % 3}", "sen_id": i} for i in range(6)]
    files(folder, {"msrvtt/MSRVTT_data.json": json.dumps({"info": {}, "videos": videos, "sentences": sentences})})
    clips = {f"msrvtt/{kind}/video{i}.mp4": MP4 for kind in ("videos", "whole") for i in range(3)}
    files(folder, clips)
    return {"captions": ["sentence 0", "sentence 3"], "length": 2}


def msrvtt_1ka(folder):
    table = "key,vid_key,video_id,sentence\nret0,msr9770,video9770,a person is connecting something\n"
    files(folder, {"msrvtt/MSRVTT_JSFUSION_test.csv": table, "msrvtt/videos/video9770.mp4": MP4})
    return {"captions": ["a person is connecting something"], "length": 1}


def vatex(folder):
    rows = [{"videoID": "Ptf_000122_000132", "enCap": ["A man", "A boy"], "chCap": ["一"]}]
    files(folder, {"vatex/vatex_training_v1.0.json": json.dumps(rows), "vatex/videos/Ptf_000122_000132.mp4": MP4})
    return {"captions": ["A man", "A boy"]}


def msvd(folder):
    captions = {"mv89psg6zh4_33_46": ["a bird bathes", "a bird in a sink"], "x_1_2": ["a cat"]}
    clips = {f"msvd/YouTubeClips/{name}.avi": AVI for name in captions}
    files(folder, {"msvd/captions.json": json.dumps(captions), **clips})
    return {"captions": ["a bird bathes", "a bird in a sink"], "length": 2}


def msrvtt_qa(folder):
    rows = [
        {"answer": answer, "category_id": 14, "id": 10 + i, "question": f"what is {i}?", "video_id": i % 2}
        for i, answer in enumerate(["couch", "two", "show"])
    ]
    files(folder, {"msrvtt-qa/train_qa.json": json.dumps(rows)})
    files(folder, {f"msrvtt/videos/video{i}.mp4": MP4 for i in range(2)})
    return {"question": "what is 0?", "answers": ["couch"] * 10, "length": 3}


def kinetics(folder):
    videos = {"kinetics/train/air_drumming/a.mp4": MP4, "kinetics/train/archery/b.avi": AVI}
    files(folder, {**videos, "kinetics/train.csv": "path,label\ntrain/air_drumming/a.mp4,air drumming\n"})
    return {"classes": "air drumming", "label": 0}


def ucf101(folder):
    names = {"ApplyEyeMakeup": ("v_1.avi", "v_2.avi"), "Archery": ("v_3.avi",)}
    listed = "ApplyEyeMakeup/v_2.avi 1\r\nArchery/v_3.avi 2\r\n"
    videos = {f"UCF-101/{folder}/{name}": AVI for folder, of_class in names.items() for name in of_class}
    files(folder, {**videos, "ucfTrainTestlist/trainlist01.txt": listed})
    return {"classes": "ApplyEyeMakeup", "label": 0, "length": 2}


def kinetics_published(folder):
    table = "label,youtube_id,time_start,time_end,split\nair drumming,-abc,7,17,train\n"
    files(folder, {"kinetics/annotations.csv": table, "kinetics/clips/-abc_000007_000017.mp4": MP4})
    return {"classes": "air drumming", "label": 0, "length": 1}


def something(folder):
    rows = [{"id": "78687", "label": "holding potato", "template": "Holding [something]", "placeholders": ["potato"]}]
    table = "path,label\n78687.webm,Holding something\n"
    files(folder, {"ssv2/videos/78687.webm": WEBM, "ssv2/train.json": json.dumps(rows), "ssv2/train.csv": table})
    return {}


def audioset(folder):
    table = 'ytid,start,end,labels\nabc,0.25,0.75,"Speech,Dog"\ndef,0,1,Dog\n'
    sounds = {f"audioset/{kind}/{name}.flac": FLAC for kind in ("whole", "cut") for name in ("abc", "def")}
    files(folder, {"audioset/train.csv": table, **sounds})
    return {"labels": [0, 1], "length": 2}


def audiocaps(folder):
    table = "audiocap_id,youtube_id,start_time,caption\n1,xyz,30,A dog barks\n2,xyz,30,A dog\n"
    files(folder, {"audiocaps/train.csv": table, "audiocaps/xyz.flac": FLAC})
    return {"captions": ["A dog barks", "A dog"]}


def clotho(folder):
    table = (
        "file_name," + ",".join(f"caption_{i}" for i in range(1, 6)) + "\nrain on a roof.wav,one,two,three,four,five\n"
    )
    files(folder, {"clotho/captions.csv": table, "clotho/development/rain on a roof.wav": WAV})
    return {"captions": ["one", "two", "three", "four", "five"]}


def esc50(folder):
    table = "filename,fold,target,category,esc10,src_file,take\n1-100032-A-0.wav,1,0,dog,True,100032,A\n"
    sounds = {"esc50/audio/1-100032-A-0.wav": WAV, "esc50/train/dog/a.wav": WAV, "esc50/train/rain/b.wav": WAV}
    files(folder, {"esc50/meta/esc50.csv": table, **sounds})
    return {}


def vggsound(folder):
    files(folder, {"vggsound/train/playing_drum/a.wav": WAV, "vggsound/train/people_sobbing/b.wav": WAV})
    return {"classes": "people sobbing", "label": 0, "length": 2}


def librispeech(folder):
    chapter = "LibriSpeech/train-clean-100/103/1240"
    lines = "103-1240-0000 CHAPTER ONE\n103-1240-0001 THAT HAD ITS SOURCE\n"
    sounds = {f"{chapter}/103-1240-000{i}.flac": FLAC for i in range(2)}
    files(folder, {f"{chapter}/103-1240.trans.txt": lines, **sounds})
    return {"captions": ["CHAPTER ONE"], "length": 2}


def crema_d(folder):
    files(folder, {"crema-d/train.csv": "path,label\n1001_IEO_ANG.mp4,anger\n", "crema-d/1001_IEO_ANG.mp4": MP4})
    return {"classes": "anger", "label": 0, "length": 1}


def medfuse(folder):
    series = np.arange(6, dtype=np.float32).reshape(3, 2)
    files(
        folder,
        {
            "stays/train.csv": "series,image,label\n1.npy,1.jpg,sepsis\n",
            "stays/1.jpg": encoded(Image.fromarray(smooth(24, 24)), "JPEG"),
            "stays/1.npy": npy(series),
        },
    )
    return {"classes": "sepsis", "label": 0, "length": 1, "series": series.tolist()}


def tars(folder, name, *members):
    (folder / name).mkdir()
    for shard in range(2):
        write_tar(
            folder / name / f"{shard:05d}.tar", [(f"{shard:04d}.{ending}", content) for ending, content in members]
        )


def clap(folder):
    tars(folder, "clap", ("flac", FLAC), ("json", json.dumps({"text": ["a dog", "barks"], "tag": []}).encode()))
    return {"captions": ["a dog", "barks"], "length": 2}


def video2dataset(folder):
    tars(folder, "webvid", ("mp4", MP4), ("txt", b"a video"), ("json", b'{"key": "0"}'))
    return {"captions": ["a video"], "length": 2}


def many(folder):
    numbers = json.dumps({"heat": [1, 2, 3], "wind": [4, None, 6], "caption": "weather"}).encode()
    tars(folder, "many", ("mp4", MP4), ("wav", WAV), ("json", numbers))
    return {"captions": ["weather"], "length": 2, "series": [[1, 4], [2, np.nan], [3, 6]], "sound": WAV}


def hugging_face(folder):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (folder / "speech").mkdir()
    table = pyarrow.table({"audio": [{"bytes": FLAC, "path": "a.flac"}], "text": ["hello"]})
    parquet.write_table(table, folder / "speech" / "0000.parquet")
    return {"captions": ["hello"]}


LAYOUTS = {
    "MSR-VTT": msrvtt,
    "MSR-VTT, videos that are not cut": msrvtt,
    "MSR-VTT, 1k-A": msrvtt_1ka,
    "VATEX": vatex,
    "MSVD": msvd,
    "MSRVTT-QA, MSVD-QA": msrvtt_qa,
    "Kinetics, UCF101": kinetics,
    "UCF101, a split": ucf101,
    "Kinetics, as published": kinetics_published,
    "Kinetics": kinetics,
    "Something-Something": something,
    "Something-Something v2": something,
    "AudioSet, whole sounds": audioset,
    "AudioSet, cut": audioset,
    "AudioCaps": audiocaps,
    "Clotho": clotho,
    "ESC-50, by class": esc50,
    "ESC-50": esc50,
    "VGGSound": vggsound,
    "LibriSpeech": librispeech,
    "CLAP tars": clap,
    "video2dataset's tars": video2dataset,
    "CREMA-D, RAVDESS": crema_d,
    "MIMIC-IV with MIMIC-CXR, as MedFuse pairs them": medfuse,
    "several modalities in tars": many,
    "Hugging Face's audio": hugging_face,
}
SPANS = {"MSR-VTT, videos that are not cut": (0.25, 0.75), "AudioSet, whole sounds": (0.25, 0.75)}


def lines_of_docs():
    rows = [row.strip("| ").split(" | ") for row in DOCS.splitlines() if row.startswith("| ")]
    return {name: dict(re.findall(r"`data\.(\w+)=([^`]*)`", config)) for name, _, config in rows[1:]}


def test_every_line_has_its_test():
    assert lines_of_docs().keys() == LAYOUTS.keys()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read_by_its_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = LAYOUTS[name](tmp_path)
    fields = lines_of_docs()[name]
    config = dataclasses.replace(DataConfig(), cache=str(tmp_path / "cache"), **fields)
    ((source, _),) = parse_mixture(config.train, make_options(config))
    assert len(source) == expected.get("length", len(source))
    record = source[0]
    assert not record_mistake(record)
    for field in ("captions", "label", "labels", "question", "answers"):
        if field in expected:
            assert record[field] == expected[field]
    if "classes" in expected:
        assert source.class_names[record["label"]] == expected["classes"]
    modalities, spans = record["modalities"], record.get("spans", {})
    if "series" in expected:
        np.testing.assert_array_equal(modalities["series"], expected["series"])
    if "sound" in expected:
        assert modalities["audio"] == expected["sound"]
    assert modalities.keys() & (DECODERS.keys() | {"series"})
    assert set(spans.values()) == ({SPANS[name]} if name in SPANS else set())
    for modality, decoder in DECODERS.items():
        # Videos of AVI and WebM have no sound here.
        if modality in modalities and (modality != "audio" or modalities[modality] not in (AVI, WEBM)):
            array = decoder.prepare(modalities[modality], None, span=spans.get(modality))
            assert array.shape == decoder.shape


def test_what_a_path_of_a_table_may_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    msrvtt(tmp_path)
    for path, message in [
        ("MSRVTT_data.json/val,images=msrvtt/videos", "no row of split 'val'.*; there are train, validate"),
        ("MSRVTT_data.json,spans=start:end,images=msrvtt/videos", "spans=: no column 'start'"),
        ("MSRVTT_data.json,spans=start,images=msrvtt/videos", "spans=start names no two columns"),
    ]:
        with pytest.raises(UserError, match=message):
            parse_mixture(f"pairs:msrvtt/{path}")
    files(tmp_path, {"t.csv": "path,caption\nmsrvtt/videos/video0.mp4,a\n"})
    with pytest.raises(UserError, match="/train: no column 'split'; there are 'path', 'caption'"):
        parse_mixture("pairs:t.csv/train")
    content = {"videos": [{"video_id": "a"}], "sentences": [{"video_id": "b", "caption": "c"}]}
    files(tmp_path, {"u.json": json.dumps(content)})
    with pytest.raises(UserError, match="sentence 0 is of video 'b', which is none of 'videos'"):
        parse_mixture("pairs:u.json")
