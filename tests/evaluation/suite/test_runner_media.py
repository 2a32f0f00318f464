"""Suites of sounds and videos: configs/eval.py's collections on tiny files in the layouts of the data sets."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

import mmjax
from mmjax.evaluation import prompts
from tests.helpers import media_models, model_kinds, runs
from tests.helpers.media import frames, make_sound, make_video, tones

ESC50 = {"1-100032-A-0.wav": (0, "dog"), "1-17367-A-10.wav": (10, "rain"), "2-1-A-11.wav": (11, "sea_waves")}
UCF101 = {"ApplyEyeMakeup": "v_ApplyEyeMakeup_g01_c01.avi", "YoYo": "v_YoYo_g01_c01.avi"}
KINETICS = {"air drumming": "abc_000010_000020.mp4", "yoga": "-x_000001_000011.mp4"}


def sound(index):
    return make_sound("wav", tones(8000, 8000 + 900 * index), rate=8000)


def clip(index, kind="h264.mp4"):
    return make_video(kind, frames(8, (32, 24), seed=40 * index))


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Every data set of the two collections as people have it, with two or three examples."""
    root = tmp_path_factory.mktemp("media")
    rows = [f"{name},1,{target},{label},False,1,A" for name, (target, label) in ESC50.items()]
    table = "\n".join(["filename,fold,target,category,esc10,src_file,take", *rows]) + "\n"
    write(root, {"ESC-50/meta/esc50.csv": table})
    write(root, {f"ESC-50/audio/{name}": sound(i) for i, name in enumerate(ESC50)})
    captions = "audiocap_id,youtube_id,start_time,caption\n1,ab,30,A dog barks\n2,-c,0,Rain falls\n3,ab,30,A dog\n"
    write(
        root,
        {"audiocaps/test.csv": captions, **{f"audiocaps/test/{x}.wav": sound(i) for i, x in enumerate(("ab", "-c"))}},
    )
    header = "file_name," + ",".join(f"caption_{i}" for i in range(1, 6))
    rows = ["rain on a roof.wav,one,two,three,four,five", "Birds.wav,six,seven,eight,nine,ten"]
    write(root, {"clotho/clotho_captions_evaluation.csv": "\n".join([header, *rows]) + "\n"})
    write(root, {f"clotho/evaluation/{row.partition(',')[0]}": sound(i) for i, row in enumerate(rows)})

    for i, (folder, name) in enumerate(UCF101.items()):
        write(root, {f"UCF-101/{folder}/{name}": clip(i, "mpeg4.avi")})
        write(root, {f"UCF-101/{folder}/v_{folder}_g08_c01.avi": clip(i + 5, "mpeg4.avi")})  # of the training split
    write(root, {"ucfTrainTestlist/testlist01.txt": "".join(f"{folder}/{name}\r\n" for folder, name in UCF101.items())})
    write(
        root,
        {
            f"kinetics400/val/{folder.replace(' ', '_')}/{name}": clip(i)
            for i, (folder, name) in enumerate(KINETICS.items())
        },
    )
    rows = [f"{label},{name[:-18]},{int(name[-17:-11])},{int(name[-10:-4])},val" for label, name in KINETICS.items()]
    write(root, {"kinetics400/val.csv": "\n".join(["label,youtube_id,time_start,time_end,split", *rows]) + "\n"})
    write(root, {f"kinetics400/flat/{name}": clip(i) for i, name in enumerate(KINETICS.values())})
    rows = [f"ret{i},msr{i},video{7010 + i},{text}" for i, text in enumerate(("a man sings", '"a cat, asleep"'))]
    write(root, {"msrvtt/MSRVTT_JSFUSION_test.csv": "\n".join(["key,vid_key,video_id,sentence", *rows]) + "\n"})
    write(root, {f"msrvtt/videos/video{7010 + i}.mp4": clip(i) for i in range(2)})
    return root


def evaluate(root, slot, collection, random_params, *flags):
    """Metrics by data set of a tower of a slot and one of texts, the page, and the loaded model."""
    workdir = root / f"run-{slot}"
    if not workdir.exists():
        config = media_models.towers(slot, "text")
        config.data.tokenizer = "bytes"  # which tells all names apart
        config.model.text.update(vocab_size=259, eos_id=258, context_length=48)
        model_kinds.save(random_params, config, workdir)
    config = f"--config={runs.ROOT / 'configs/eval.py'}:root={root},collection={collection}"
    assert runs.eval_cli(f"--workdir={workdir}", config, f"--output={workdir}/results.json", *flags) == 0
    records = json.loads((workdir / "results.json").read_text())
    page = (workdir / "results.html").read_text()
    return {record["dataset"]: record["metrics"] for record in records}, page, mmjax.load(workdir)


def pictures(page):
    """The sizes of the pictures of a page."""
    files = re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", page)
    return [Image.open(io.BytesIO(base64.b64decode(file))).size for file in files]


def visible(page):
    """The text that a page shows, without the configuration at its end."""
    page = re.sub(r"<style.*?</style>", "", page, flags=re.S).partition("Configuration")[0]
    return re.sub(r"<[^>]+>", " ", page)


def check_classes(metrics, name, embeddings, labels, model):
    """Accuracy among all classes that the data set has here, by the published names and templates."""
    published = prompts.load(name)
    texts = [[template.replace("{c}", label) for template in published.templates] for label in labels]
    weights = np.stack([model.encode_text(prompts_of_class).mean(axis=0) for prompts_of_class in texts])
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    right = (embeddings @ weights.T).argmax(axis=1) == np.arange(len(labels))
    assert metrics["acc1"] == pytest.approx(right.mean())
    assert set(labels) <= set(published.class_names)


def check_captions(metrics, slot, embeddings, captions, model):
    """Recall at 1 of either direction, by all captions."""
    texts = [model.encode_text(of_one) for of_one in captions]
    owner = np.repeat(np.arange(len(captions)), [len(of_one) for of_one in captions])
    scores = np.concatenate(texts) @ embeddings.T
    to_media = (scores.argmax(axis=1) == owner).mean()
    to_text = np.mean([owner[scores[:, i].argmax()] == i for i in range(len(captions))])
    assert metrics[f"{slot}_retrieval_recall@1"] == pytest.approx(to_media)
    assert metrics["text_retrieval_recall@1"] == pytest.approx(to_text)
    assert metrics["mean_recall@1"] == pytest.approx((to_media + to_text) / 2)


@pytest.mark.full
def test_sounds_by_class_and_by_caption(root, random_params, capsys):
    metrics, page, model = evaluate(root, "audio", "sounds", random_params)
    # Every thumbnail is a spectrogram, 32 frames wide and 16 bins high; of videos four frames of 16 x 16 pixels.
    assert set(pictures(page)) == {(32, 16)} and len(pictures(page)) > 10
    assert "3 sounds from all over" in page and "text to sound" in page and "image" not in visible(page)
    embed = lambda paths: model.encode_audio([root / path for path in paths])
    # Classes of a table are numbered in alphabetical order.
    order = sorted(ESC50, key=lambda name: ESC50[name][1])
    labels = [ESC50[name][1].replace("_", " ") for name in order]
    check_classes(metrics["esc50"], "esc50", embed([f"ESC-50/audio/{name}" for name in order]), labels, model)
    captions = [["A dog barks", "A dog"], ["Rain falls"]]
    check_captions(
        metrics["audiocaps"], "audio", embed(["audiocaps/test/ab.wav", "audiocaps/test/-c.wav"]), captions, model
    )
    captions = [["one", "two", "three", "four", "five"], ["six", "seven", "eight", "nine", "ten"]]
    paths = ["clotho/evaluation/rain on a roof.wav", "clotho/evaluation/Birds.wav"]
    check_captions(metrics["clotho"], "audio", embed(paths), captions, model)


@pytest.mark.full
def test_videos_by_class_and_by_caption(root, random_params):
    metrics, page, model = evaluate(root, "video", "videos", random_params)
    assert set(pictures(page)) == {(34, 34)} and len(pictures(page)) > 10
    assert "2 videos from all over" in page and "text to video" in page and "image" not in visible(page)
    embed = lambda paths: model.encode_video([root / path for path in paths])
    paths = [f"UCF-101/{folder}/{name}" for folder, name in UCF101.items()]
    check_classes(metrics["ucf101"], "ucf101", embed(paths), ["Apply Eye Makeup", "Yo Yo"], model)
    paths = [f"kinetics400/val/{folder.replace(' ', '_')}/{name}" for folder, name in KINETICS.items()]
    check_classes(metrics["kinetics400"], "kinetics400", embed(paths), list(KINETICS), model)
    paths = [f"msrvtt/videos/video{7010 + i}.mp4" for i in range(2)]
    check_captions(metrics["msrvtt"], "video", embed(paths), [["a man sings"], ["a cat, asleep"]], model)

    names = "{youtube_id}_{time_start:06}_{time_end:06}.mp4"
    flat = f"pairs:{root}/kinetics400/val.csv,images={root}/kinetics400/flat/{names}"
    again, *_ = evaluate(
        root, "video", "kinetics400", random_params, f"--config.datasets.kinetics400.source={flat}", "--overwrite"
    )
    assert again["kinetics400"] == metrics["kinetics400"]
