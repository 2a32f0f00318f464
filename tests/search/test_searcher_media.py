"""Search over videos and sounds in files, folders, tars and tables, by texts and by examples."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import mmjax
from mmjax.cli import main
from tests.helpers import media_models, model_kinds
from tests.helpers.media import frames, make_sound, make_video, tones
from tests.helpers.tar_sets import write_tar
from tests.search.test_searcher import parse, search

SECONDS = 2


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, random_params):
    path = tmp_path_factory.mktemp("search") / "run"
    model_kinds.save(random_params, media_models.towers("video", "audio", "text"), path)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Five videos, one of them with sound, and four sounds."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "more").mkdir()
    for i in range(5):
        sound = {"sound": "aac"} if i == 0 else {}
        (folder / "more" / f"{i}.mp4").write_bytes(make_video(pixels=frames(8, seed=40 * i), **sound))
    for i in range(4):
        content = make_sound("wav", tones(8000 * SECONDS, 8000 + 3000 * i), rate=8000, subtype="FLOAT")
        (folder / f"{i}.wav").write_bytes(content)
    return folder


def nearest(model, query, names, embeddings):
    scores = embeddings.astype(np.float64) @ query.astype(np.float64)
    order = sorted(range(len(names)), key=lambda i: (-scores[i], names[i]))
    return [names[i] for i in order], scores[order]


def check(results, names, scores):
    assert [path for _, path in results] == names
    np.testing.assert_allclose([score for score, _ in results], scores, atol=1e-4)


def test_videos_and_sounds_by_text_and_by_one_another(workdir, clips, capsys):
    model = mmjax.load(workdir)
    paths = [f"more/{i}.mp4" for i in range(5)]
    videos = model.encode_video([clips / path for path in paths])
    text, sound = model.encode_text(["a red circle"])[0], model.encode_audio([clips / "1.wav"])[0]
    flags = [f"--workdir={workdir}", f"--videos={clips}"]
    video, other = clips / "more" / "3.mp4", clips / "1.wav"
    assert search("a red circle", *flags, f"--video={video}", f"--sound={other}") == 0
    results = parse(capsys.readouterr().out)
    check(results["a red circle"], *nearest(model, text, paths, videos))
    check(results[str(other)], *nearest(model, sound, paths, videos))
    assert results[str(video)][0] == (1.0, "more/3.mp4")
    # The sound of a video is one, and a video without is told.
    names = ["0.wav", "1.wav", "2.wav", "3.wav", "more/0.mp4"]
    sounds = model.encode_audio([clips / name for name in names])
    assert search("a red circle", f"--workdir={workdir}", f"--sounds={clips}") == 0
    out, err = capsys.readouterr()
    check(parse(out)["a red circle"], *nearest(model, text, names, sounds))
    assert "4 cannot be read, such as more/1.mp4: no_track" in err
    assert out.startswith(f"5 sounds in {clips}/.mmjax-index-sounds: 9 new")
    assert search("a red circle", f"--workdir={workdir}", f"--sounds={clips}") == 0
    assert ": 0 new, 0 removed" in capsys.readouterr().out
    assert search("a red circle", f"--workdir={workdir}", f"--videos={video}") == 0
    assert [path for _, path in parse(capsys.readouterr().out)["a red circle"]] == ["3.mp4"]


def test_tars(workdir, clips, tmp_path, capsys):
    contents = [(clips / "more" / f"{i}.mp4").read_bytes() for i in range(5)]
    members = [(f"{i}.{end}", content) for i in range(3) for end, content in (("mp4", contents[i]), ("txt", b"x"))]
    write_tar(tmp_path / "0.tar", members)
    write_tar(tmp_path / "1.tar", [("4.mp4", contents[4]), ("5.wav", (clips / "0.wav").read_bytes())])
    assert main.main(["index", f"{tmp_path}/*.tar"]) == 0
    assert "examples: 5" in capsys.readouterr().out
    flags = [f"--workdir={workdir}", f"--videos=wds:{tmp_path}", "--top=9"]
    assert search("a red circle", *flags) == 0
    out, err = capsys.readouterr()
    assert "1 cannot be read, such as 1.tar#000000001: it has no video" in err
    model = mmjax.load(workdir)
    names = ["0.tar/0.mp4", "0.tar/1.mp4", "0.tar/2.mp4", "1.tar/4.mp4"]
    videos = model.encode_video([contents[i] for i in (0, 1, 2, 4)])
    check(parse(out)["a red circle"], *nearest(model, model.encode_text(["a red circle"])[0], names, videos))
    # Of a shard that has changed all examples are embedded again, and of the other none.
    write_tar(tmp_path / "1.tar", [("6.mp4", contents[3])])
    assert search("a red circle", *flags) == 0
    out, _ = capsys.readouterr()
    assert ": 1 new, 2 removed" in out and "1.tar/6.mp4" in out


def test_spans_of_a_table_and_contact_sheets(workdir, clips, tmp_path, capsys):
    rows = [(f"{i}.wav", start, start + 1) for i in range(2) for start in (0, 1)] + [("nowhere.wav", 0, 1)]
    with (clips / "spans.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "start", "end"), *rows])
    flags = [f"--workdir={workdir}", f"--sounds={clips}/spans.csv", f"--index={tmp_path / 'index'}"]
    assert search("a red circle", *flags, f"--output={tmp_path}/sheet.json") == 0
    assert "1 cannot be read, such as nowhere.wav 0-1 s: " in capsys.readouterr().err
    (answer,) = json.loads((tmp_path / "sheet.json").read_text())
    model = mmjax.load(workdir)
    samples = {f"{i}.wav": tones(16000, 8000 + 3000 * i).mean(axis=1) for i in range(2)}
    parts = [(name, [start, end]) for name, start, end in rows[:4]]
    sounds = model.encode_audio([samples[name][8000 * start : 8000 * end] for name, (start, end) in parts], rate=8000)
    scores = sounds.astype(np.float64) @ model.encode_text(["a red circle"])[0].astype(np.float64)
    expected = {(name, *span): score for (name, span), score in zip(parts, scores, strict=True)}
    scored = {(match["path"], *match["span"]): match["score"] for match in answer["results"]}
    assert scored.keys() == expected.keys()
    for part, score in scored.items():
        np.testing.assert_allclose(score, expected[part], atol=1e-4)
    assert list(scored.values()) == sorted(scored.values(), reverse=True)
    assert search("a red circle", *flags, f"--output={tmp_path}/sheet.html") == 0
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("data:image/png") == 4 and "0.wav 1-2 s" in page
    # Of files the seconds are those of all of it; of a video the middle frame is shown.
    video = [f"--workdir={workdir}", f"--videos={clips}/more/2.mp4"]
    assert search("a red circle", *video, f"--output={tmp_path}/videos.html") == 0
    assert "2.mp4 0-0.32 s" in (tmp_path / "videos.html").read_text()
    assert search("a red circle", *video, f"--output={tmp_path}/videos.png") == 0
    with Image.open(tmp_path / "videos.png") as sheet:
        shown = np.asarray(sheet)[8 + 36 :][:144, 8 : 8 + 192].astype(float)
    resized = [np.asarray(Image.fromarray(frame).resize((192, 144))) for frame in frames(8, seed=80)]
    assert np.argmin([np.abs(shown - frame).mean() for frame in resized]) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--videos=C", "--images=C"], "--images, --videos, --sounds: give one of them"),
        (["--images=C"], "--images=C: no images there"),
        (["--videos=C", "--image=C/a.png"], "search by images is not for model.kind='two_tower'"),
        (["--videos=C", "--video=C/0.wav"], "--video=C/0.wav: cannot be read as a video ("),
        (["--sounds=C/none.csv"], "--sounds='pairs:C/none.csv'"),
        (["--videos=wds:C"], "no *.tar in"),
    ],
)
def test_mistakes_are_one_line(workdir, clips, capsys, flags, message):
    Image.new("RGB", (8, 8)).save(clips / "a.png") if "a.png" in str(flags) else None
    assert search("red", f"--workdir={workdir}", *(flag.replace("C", str(clips)) for flag in flags)) == 2
    (clips / "a.png").unlink(missing_ok=True)
    err = capsys.readouterr().err
    assert message.replace("C", str(clips)) in err and len(err.splitlines()) == 1


def test_a_model_without_the_slot_or_without_texts(tmp_path, clips, random_params, capsys):
    for name, slots in (("texts", ("video", "text")), ("none", ("video", "audio"))):
        model_kinds.save(random_params, media_models.towers(*slots), tmp_path / name)
    index = f"--index={tmp_path / 'index'}"
    assert search("red", f"--workdir={tmp_path}/texts", f"--sounds={clips}", index) == 2
    err = capsys.readouterr().err
    assert "search by sounds is not for" in err and "it can encode_video, encode_text" in err
    assert search("red", f"--workdir={tmp_path}/none", f"--sounds={clips}", index) == 2
    assert "search by texts is not for" in capsys.readouterr().err
    video = f"--video={clips}/more/0.mp4"
    assert search(video, f"--workdir={tmp_path}/none", f"--sounds={clips}", index) == 0
