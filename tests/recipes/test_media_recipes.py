"""Recipes of videos, sounds and classifiers: complete configs; short runs are killed and go on, bit for bit."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmjax
from mmjax.config import parse, recipe, serialize
from mmjax.errors import UserError
from mmjax.interop import media_towers
from mmjax.parallel import partition
from mmjax.training import validate_run
from tests.data import test_mixture_layouts
from tests.helpers import model_kinds, runs
from tests.helpers.media import frames, make_sound, make_video, tones

RECIPES = {
    "clip4clip": ("video_retrieval_recall@1", "videos_per_second"),
    "clip4clip:video=frames": ("text_retrieval_recall@1", "videos_per_second"),
    "clap": ("text_retrieval_recall@5", "sounds_per_second"),
    "classify": ("mean_per_class_recall", "images_per_second"),
    "classify:modalities=text+table": ("acc1_without_text", "examples_per_second"),
    "action": ("acc1_without_audio", "examples_per_second"),
    "action:video=frames": ("acc1_without_video", "examples_per_second"),
    "action:only=audio": ("acc1", "sounds_per_second"),
    "asr:variant=tiny": ("speech_recognition/sentence_accuracy", "sounds_per_second"),
    "video_captioner:video=frames": ("exact_match", "videos_per_second"),
    "video_qa": ("accuracy", "videos_per_second"),
    "audio_captioner": ("exact_match", "sounds_per_second"),
    "av_sync": ("offset_accuracy", "examples_per_second"),
    "emotion": ("mean_per_class_recall", "examples_per_second"),
    "medical": ("auroc", "examples_per_second"),
    "finance": ("macro_f1", "examples_per_second"),
}

UNTRAINED = (
    "asr",
    "video_captioner",
    "video_qa:blind=True",
    "video_qa:video=frames",
    "action:only=video,video=frames",
    "action:video=vivit",
    "action:video=videomae",
    "classify:modalities=image+series",
    "classify:modalities=video+audio",
    "av_sync:variant=base",
    "emotion:variant=mbt-B/16",
    "emotion:variant=mbt-B/16,only=audio",
    "emotion:only=video",
    "medical:variant=medfuse",
    "medical:variant=medfuse,only=series",
    "medical:only=image",
    "finance:variant=finbert",
    "finance:variant=finbert,only=text",
    "finance:only=table",
)


PUBLISHED = (
    *("clip4clip:variant=B/32", "clip4clip:variant=B/16,temporal=transformer"),
    *("clap:variant=whisper-base", "clap:variant=whisper-small"),
    *("asr:variant=whisper-tiny", "asr:variant=whisper-small"),
)


@pytest.mark.parametrize("spec", [*RECIPES, *UNTRAINED, *PUBLISHED])
def test_a_recipe_is_a_complete_config(spec):
    config = recipe.load_recipe(spec)
    if not config.data.train:  # the published sizes, whose data is the user's
        config.data.train = "moving"
    validate_run.check_config(parse(config))
    assert config.schedule.warmup < config.steps


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("clip4clip:video=tubes", "video='tubes' is not known"),
        ("clip4clip:variant=B/32,temporal=lstm", "temporal='lstm' is not known"),
        ("clap:variant=htsat", "variant='htsat' is not known"),
        ("action:only=image", "only='image' is not known"),
        ("classify:modalities=text", "modalities='text' is not known"),
        ("action:video=tubes", "video='tubes' is not known"),
        ("asr:variant=whisper-huge", "variant='whisper-huge' is not known"),
        ("asr:tokenizer=bytes", "variant=small has no use for it"),
        ("video_captioner:video=tubes", "video='tubes' is not known"),
        ("video_captioner:tokenizer=a.json", "tokenizer=a.json: variant=small has no use for it"),
        ("video_captioner:variant=git-B/16,video=frames", "video=frames: variant=git-B/16 has no use for it"),
        ("video_qa:variant=git", "variant='git' is not known"),
        ("audio_captioner:variant=whisper", "variant='whisper' is not known .*'whisper-small'"),
        ("av_sync:variant=huge", "variant='huge' is not known"),
        ("emotion:variant=mbt", "variant='mbt' is not known"),
        ("medical:only=table", "only='table' is not known"),
        ("finance:only=image", "only='image' is not known"),
    ],
)
def test_an_argument_that_is_none_is_one_line(spec, message):
    with pytest.raises(UserError, match=message) as caught:
        recipe.load_recipe(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec, slot", [("clap", "audio"), ("clip4clip", "video")])
def test_runs_begun_with_towers_go_on(spec, slot):
    """The fields of `towers:slot=...`, which the two recipes replace: a run of it goes on with theirs, bit for bit."""
    then = json.loads((Path(__file__).parents[1] / "golden/towers_recipe.json").read_text())[slot]
    now = json.loads(json.dumps(serialize.flatten(recipe.load_recipe(spec))))
    assert {name for name in then if now.get(name) != then[name]} == {"name", "variant"}
    assert now["name"] == now["variant"] == spec.partition(":")[0]


LAYERS_OF_WHISPER = dict(layers=1, attention_heads=2, ffn_dim=32)


def write_clips(folder):
    """Four videos with a caption each, as a table; the source."""
    for i in range(4):
        (folder / f"{i}.mp4").write_bytes(make_video(pixels=frames(24, (40, 32), seed=60 * i)))
    (folder / "clips.csv").write_text("video,caption\n" + "".join(f"{i}.mp4,number {i}\n" for i in range(4)))
    return f"pairs:{folder / 'clips.csv'}"


@pytest.mark.full
@pytest.mark.parametrize("temporal", ["mean", "transformer"])
def test_clip4clip_starts_from_a_clip(temporal, tmp_path, random_params):
    """CLIP's towers, rates for what is CLIP's and what is new, texts cut to 32 positions; two steps, and evaluation."""
    clip = recipe.load_recipe("clip:variant=tiny")
    for name in ("image", "text"):
        clip.model[name].activation = "quick_gelu"
    clip.model.text.context_length, clip.precision = 40, "float32"
    fill = lambda shapes, **options: random_params(shapes, **options) | {"logit_scale": np.float32(2.5)}
    params = model_kinds.save(fill, clip, tmp_path / "clip")
    config = recipe.load_recipe(f"clip4clip:variant=tiny,temporal={temporal},steps=2")
    config.init_from = str(tmp_path / "clip")
    config.data.train = config.data.eval = write_clips(tmp_path)
    config.batch_size = config.eval.batch_size = 4
    config.data.workers, config.eval.every, config.precision = 0, 0, "float32"
    assert runs.train(config, tmp_path / "run") is None
    (evaluated,) = runs.lines(tmp_path / "run", "eval")
    assert evaluated["clips/text_retrieval_recall@10"] == 1
    report = json.loads((tmp_path / "run/init_from.json").read_text())
    assert "video/image/position_embedding" in json.dumps(report) and "text/position_embedding" in json.dumps(report)
    before, after = (mmjax.load(tmp_path / name) for name in ("clip", "run"))
    images = before.encode_image([Image.fromarray(np.full((16, 16, 3), value, np.uint8)) for value in (0, 90)])
    videos = after.encode_video([np.full((12, 16, 16, 3), value, np.uint8) for value in (0, 90)])
    # Two steps of 1e-7 leave CLIP where it was; layers that are new do not.
    if temporal == "mean":
        np.testing.assert_allclose(videos, images, atol=1e-3)
    kernel = lambda model, path: np.asarray(partition.flattened(model.params)[path])
    moved = kernel(after, "video/image/patch_embed/kernel") - params["image"]["patch_embed"]["kernel"]
    assert 0 < np.abs(moved).max() < 1e-5


@pytest.mark.full
def test_clap_starts_from_a_whisper(tmp_path):
    """A small Whisper of transformers: its encoder is all of the tower of sounds but the projection."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = recipe.load_recipe("clap:variant=whisper-tiny,steps=2")
    layers = dict(width=16, depth=1, heads=2, mlp_dim=32)
    config.model.audio.update(layers | dict(frames=200))
    config.model.text.update(layers)
    sizes = dict(d_model=16, num_mel_bins=80, max_source_positions=100, max_target_positions=16, vocab_size=64)
    sizes |= {f"{part}_{name}": count for part in ("encoder", "decoder") for name, count in LAYERS_OF_WHISPER.items()}
    ids = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3)
    transformers.WhisperModel(transformers.WhisperConfig(**sizes, **ids)).save_pretrained(tmp_path / "whisper")
    config.init_from = str(tmp_path / "whisper")
    config.data.train, config.data.eval = "tones", ""
    config.batch_size, config.data.workers, config.precision = 4, 0, "float32"
    assert runs.train(config, tmp_path / "run") is None
    after = partition.flattened(mmjax.load(tmp_path / "run").params)
    encoder = media_towers.open_tower(tmp_path / "whisper").read(lambda path, array: array)
    taken = {path: array for path, array in encoder.items() if path.startswith("audio/")}
    assert {path for path in after if path.startswith("audio/")} == taken.keys()
    for path, array in taken.items():
        np.testing.assert_allclose(after[path], array, atol=1e-3, err_msg=path)  # two steps of at most 1e-4


def short(spec):
    config = recipe.load_recipe(spec)
    config.steps, config.batch_size, config.schedule.warmup, config.schedule.name = 4, 8, 1, "constant"
    config.checkpoint.every, config.log.every, config.eval.batch_size = 2, 1, 8
    # Layers of one kind are compiled once.
    for part in (config.model.get("encoders") or config.model).values():
        if hasattr(part, "items") and "scan" in part:
            part.scan, part.depth = True, min(part.depth, 1)
    return config


@pytest.mark.full
@pytest.mark.parametrize("spec", RECIPES)
def test_a_recipe_trains_and_goes_on_where_it_was(spec, tmp_path, monkeypatch):
    metric, rate = RECIPES[spec]
    config = short(spec)
    source = config.data.eval.partition("/")[0]
    monkeypatch.setattr("mmjax.data.sources.moving.TEST_LENGTH", 24)
    monkeypatch.setattr("mmjax.data.sources.tones.TEST_LENGTH", 24)
    monkeypatch.setattr("mmjax.data.sources.bouncing.TEST_LENGTH", 24)
    assert runs.train(config, tmp_path / "whole") is None
    trained = runs.lines(tmp_path / "whole", "train")
    assert [line["step"] for line in trained] == [1, 2, 3, 4] and all(np.isfinite(line["loss"]) for line in trained)
    assert [name for name in trained[-1] if name.endswith("s_per_second")] == [rate]
    (evaluated,) = runs.lines(tmp_path / "whole", "eval")
    assert 0 <= evaluated[f"{source}/{metric}"] <= 1

    half = short(spec)
    half.steps = 2
    runs.train(half, tmp_path / "resumed")
    assert runs.train(config, tmp_path / "resumed") is None
    again = runs.lines(tmp_path / "resumed", "train")
    assert [line["loss"] for line in again[-2:]] == [line["loss"] for line in trained[-2:]]


# Recipes that write, their data in a layout of docs/media.md, and how many examples that has.
FILES = {
    "video_captioner": ("MSR-VTT", 2),
    "video_qa": ("MSRVTT-QA, MSVD-QA", 3),
    "audio_captioner": ("Clotho", 1),
}


@pytest.mark.full
@pytest.mark.parametrize("spec", FILES)
def test_a_recipe_trains_on_files_of_a_published_layout(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layout, count = FILES[spec]
    test_mixture_layouts.LAYOUTS[layout](tmp_path)
    config = short(spec)
    config.update(steps=2, batch_size=count, data=test_mixture_layouts.lines_of_docs()[layout])
    config.checkpoint.every = 2
    config.data.update(eval="", tokenizer="bytes", context_length=32, cache=str(tmp_path / "cache"))
    config.model.text.update(vocab_size=259, eos_id=258, context_length=32)
    assert runs.train(config, tmp_path / "run") is None
    lines = runs.lines(tmp_path / "run", "train")
    assert len(lines) == 2 and all(np.isfinite(line["loss"]) for line in lines)
    assert not [name for name in lines[-1] if name.startswith("bad_")]


def test_published_sizes_are_complete_configs():
    for spec in (
        "video_captioner:variant=git-B/16",
        "video_qa:variant=git-B/16",
        "audio_captioner:variant=whisper-small",
    ):
        config = recipe.load_recipe(spec)
        config.data.train = "moving" if spec.startswith("video") else "clicks"
        validate_run.check_config(parse(config))


EXAMPLES = 12


def write_table(folder, header, rows):
    with (folder / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return f"pairs:{folder}/train.csv"


def write_emotions(folder):
    """Faces with voices: `path,label`, as CREMA-D's are listed; every third is a voice alone."""
    names = [f"{i}.{'wav' if i % 3 == 2 else 'mp4'}" for i in range(EXAMPLES)]
    for i, name in enumerate(names):
        sound = tones(12000, 8000)[:, :1] * (0.05, 0.9)[i % 2]
        grey = np.full((8, 32, 32, 3), (40, 200)[i % 2], np.uint8)
        made = make_video(pixels=grey, sound="aac") if name.endswith("mp4") else make_sound("wav", sound, rate=8000)
        (folder / name).write_bytes(made)
    return write_table(folder, ["path", "label"], [[name, ("ANG", "HAP")[i % 2]] for i, name in enumerate(names)])


def write_stays(folder):
    """Series with pictures: `series,image,label`, where every third picture is missing."""
    rows = []
    for i in range(EXAMPLES):
        np.save(folder / f"{i}.npy", np.full((48, 3), (-1.0, 1.0)[i % 2], np.float32))
        Image.new("L", (40, 36), (40, 200)[i % 2]).save(folder / f"{i}.png")
        rows.append([f"{i}.npy", "" if i % 3 == 2 else f"{i}.png", ("alive", "dead")[i % 2]])
    return write_table(folder, ["series", "image", "label"], rows)


def write_news(folder):
    """Headlines with numbers beside them; every third row has no return."""
    rows = [
        [("profit falls", "profit rises")[i % 2], "" if i % 3 == 2 else (-1.5, 2.5)[i % 2] + i / 50, 10 + i,
         ("energy", "banks")[i % 3 % 2], ("negative", "positive")[i % 2]]
        for i in range(EXAMPLES)
    ]  # fmt: skip
    return write_table(folder, ["headline", "return", "volume", "sector", "label"], rows)


TABLES = {
    "emotion:variant=mbt-B/16": write_emotions,
    "medical:variant=medfuse": write_stays,
    "finance:variant=finbert": write_news,
}


def small(spec, source):
    """A published size made small, on a table's examples."""
    config = short(spec)
    config.steps, config.batch_size, config.precision, config.schedule.warmup = 30, EXAMPLES, "float32", 1
    config.checkpoint.every = config.log.every = 30
    config.optimizer.name, config.optimizer.learning_rate, config.loss.label_smoothing = "adamw", 3e-3, 0.0
    config.model.classes = 2
    with config.ignore_type():
        for part in (*config.model.encoders.values(), config.model.fusion):
            sizes = {"width": 32, "heads": 2, "mlp_dim": 64, "depth": 1, "image_size": 32, "dropout": 0.0}
            sizes |= {"drop_path": 0.0, "fusion_layer": 0, "context_length": 16}
            part.update({name: size for name, size in sizes.items() if name in part})
        for name, sizes in {"video": {"frames": 8}, "audio": {"frames": 96}}.items():
            if name in config.model.encoders:
                config.model.encoders[name].update(sizes)
        if config.model.fusion.kind == "bottleneck":
            config.model.fusion.depth = 2
        if "text" in config.model.encoders:
            config.data.tokenizer, config.data.context_length = "bytes", 16
            config.model.encoders.text.vocab_size = 259
            config.model.encoders.table.categories = (3,)
        if config.model.get("image"):
            config.model.image.image_size = 32
    config.data.train = config.data.eval = source
    return config


@pytest.mark.full
@pytest.mark.parametrize("spec", TABLES)
def test_a_published_recipe_learns_from_a_table_of_files(spec, tmp_path):
    config = small(spec, TABLES[spec](tmp_path))
    assert runs.train(config, tmp_path / "run") is None
    (line,) = runs.lines(tmp_path / "run", "eval")
    assert line["train/auroc"] == 1.0 and min(line[f"train/{name}"] for name in ("acc1", "macro_f1")) > 0.8
    without = {name.partition("acc1_without_")[2] for name in line if "acc1_without_" in name}
    assert without == set(config.model.encoders)
