"""Classifiers trained and evaluated on labels of files: class folders, members of tars, columns of tables."""

import csv
import io
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mmjax
from mmjax.config.schema import base_config, set_group
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.sources.folder import Folder
from mmjax.data.sources.pairs import Pairs
from mmjax.data.sources.parquet import Parquet
from mmjax.data.sources.wds import WebDataset
from mmjax.errors import UserError
from mmjax.inference.inputs import prepare
from mmjax.training import train as training
from tests.helpers import runs
from tests.helpers.image_files import encoded, noise
from tests.helpers.media import make_sound, make_video, tones
from tests.helpers.tar_sets import write_tar

NAMES = ("dark", "grey", "light")
EXAMPLES = 12
LAYERS = dict(width=16, depth=1, heads=2, mlp_dim=32, class_token=False)
ENCODERS = {
    "image": dict(kind="image", image_size=16, patch_size=8, pre_norm=False, **LAYERS),
    "video": dict(kind="video", frames=4, image_size=16, patch_size=8, **LAYERS),
    "audio": dict(kind="audio", frames=16, mel_bins=16, patch_size=(8, 8), **LAYERS),
    "series": dict(kind="series", steps=8, **LAYERS),
    "table": dict(kind="table", numeric=4, **LAYERS),
}


def grey(number, shape=(24, 20, 3)):
    return np.full(shape, (20, 120, 230)[number % 3] + number // 3, np.uint8)


def picture(number):
    return encoded(Image.fromarray(grey(number)))


def clip(number):
    return make_video(pixels=grey(number, (8, 24, 32, 3)), sound="aac")


def sound(number):
    return make_sound("wav", tones(3000, 8000)[:, :1] * (0.02, 0.2, 0.9)[number % 3], rate=8000)


def array(values):
    file = io.BytesIO()
    np.save(file, np.asarray(values, np.float32))
    return file.getvalue()


def write_folder(folder, make=picture):
    for number in range(EXAMPLES):
        path = folder / NAMES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make(number))
    return f"folder:{folder}"


def write_tars(folder, **members):
    """Examples of members by ending, each made of its number, with `.cls`; no names of classes beside them."""
    folder.mkdir()
    made = [(f"{i:03d}.{ending}", make(i)) for i in range(EXAMPLES) for ending, make in members.items()]
    labels = [(f"{i:03d}.cls", str(i % 3).encode()) for i in range(EXAMPLES)]
    write_tar(folder / "00000.tar", sorted(made + labels))
    return f"wds:{folder}/00000.tar"


def write_table(folder, label="label"):
    """A CSV with captions beside the labels."""
    folder.mkdir()
    for number in range(EXAMPLES):
        (folder / f"{number}.wav").write_bytes(sound(number))
    with (folder / "train.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "caption", label])
        rows.writerows([f"{number}.wav", "a sound", NAMES[number % 3]] for number in range(EXAMPLES))
    return f"pairs:{folder}/train.csv"


def write_parquet(folder, labels, **more):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder.mkdir()
    table = {"image": [picture(i) for i in range(EXAMPLES)], "label": [labels[i % 3] for i in range(EXAMPLES)]} | more
    parquet.write_table(pyarrow.table(table), folder / "train.parquet", row_group_size=5)
    return f"parquet:{folder}/train.parquet"


def config_of(source, *modalities, **changes):
    config = base_config("tiny")
    config.steps, config.batch_size, config.precision = 30, EXAMPLES, "float32"
    config.objectives.classify = 1.0
    encoders = {name: ENCODERS[name] for name in modalities}
    image = {"image_size": 16} if "image" in modalities else None
    fusion = dict(kind="concat", width=16)
    set_group(config, "model", dict(kind="fused", encoders=encoders, fusion=fusion, classes=3, image=image))
    config.data.train = config.data.eval = source
    if {"image", "video"} & set(modalities):
        config.data.mean_std = "siglip"
    config.optimizer.learning_rate, config.schedule.warmup = 1e-2, 1
    config.checkpoint.every, config.eval.every, config.eval.batch_size = 30, 0, 8
    config.log.tensorboard, config.log.every = False, 10
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


def trained(config, workdir, **options):
    assert runs.train(config, workdir, **options) is None
    (line,) = runs.lines(workdir, "eval")
    return {name.rpartition("/")[2]: value for name, value in line.items() if "/" in name}


def test_a_folder_of_images_is_learned_evaluated_and_named(tmp_path):
    source = write_folder(tmp_path / "greys")
    # The test split lacks a class, and has another order of files.
    (tmp_path / "test/light").mkdir(parents=True), (tmp_path / "test/grey").mkdir()
    (tmp_path / "test/light/a.png").write_bytes(picture(2)), (tmp_path / "test/grey/b.png").write_bytes(picture(1))
    config = config_of(source, "image")
    config.data.eval = f"{source}+folder:{tmp_path}/test"
    metrics = trained(config, tmp_path / "run", write_report=True)
    names = ("acc1", "mean_per_class_recall", "macro_f1", "auroc", "mean_average_precision")
    assert [metrics[name] for name in names] == [1.0] * 5 and "acc5" not in metrics
    (line,) = runs.lines(tmp_path / "run", "eval")
    assert line["greys/acc1"] == line["test/acc1"] == 1.0
    page = (tmp_path / "run/report.html").read_text()
    assert '<th title="area under the ROC curve of each' in page
    assert all(f">{name}<" in page for name in NAMES) and "classification by labels" in page

    model = mmjax.load(tmp_path / "run")
    assert model.class_names == NAMES and model.can == ("classify",)
    path = tmp_path / "greys/grey/1.png"
    images = [path, str(path), picture(1), Image.fromarray(grey(1)), grey(1)]
    scores = model.classify(images)
    assert scores.shape == (5, 3) and (scores.argmax(axis=1) == 1).all()
    np.testing.assert_allclose(scores, np.repeat(scores[:1], 5, axis=0), rtol=1e-5)
    (best, second), *_ = model.classify({"image": images}, top=2)
    assert best == ("grey", pytest.approx(scores[0, 1])) and second[1] == pytest.approx(np.sort(scores[0])[1])
    for images, message in (
        ([tmp_path / "no.png"], "images: .*no.png' cannot be read"),
        ([b"<html>"], "images: not_image"),
        (str(path), "modalities: image is one file alone; give a list of them"),
        ([None], "example 0 has no modality at all"),
    ):
        with pytest.raises(UserError, match=message):
            model.classify(images)
    with pytest.raises(UserError, match="top=4: the model has 3 classes; give a number from 1 to that"):
        model.classify([path], top=4)


@pytest.mark.full
@pytest.mark.parametrize(
    ("write", "modalities"),
    [
        (lambda folder: write_tars(folder, png=picture), ["image"]),
        (lambda folder: write_tars(folder, mp4=clip), ["video", "audio"]),
        (write_table, ["audio"]),
        (lambda folder: write_parquet(folder, NAMES), ["image"]),
        (lambda folder: write_tars(folder, npy=lambda i: array([i % 3 - 1.0] * 4)), ["table"]),
        (
            lambda folder: write_tars(folder, png=picture, npy=lambda i: array(np.full((8, 2), i % 3 - 1))),
            ["image", "series"],
        ),
    ],
    ids=["images", "videos", "sounds of a table", "parquet", "rows", "images with series"],
)
def test_labels_of_any_files_are_learned(write, modalities, tmp_path):
    config = config_of(write(tmp_path / "data"), *modalities)
    if "series" in modalities:
        config.data.image_key = config.eval.image_key = "png;npy"
    metrics = trained(config, tmp_path / "run")
    assert metrics["acc1"] == 1.0
    losses = [line["loss"] for line in runs.lines(tmp_path / "run", "train")]
    assert losses[-1] < 0.6 * losses[0]
    if len(modalities) > 1:
        assert {f"acc1_without_{name}" for name in modalities} < metrics.keys()


def test_labels_of_tars_are_numbers_where_nothing_names_them(tmp_path):
    source = write_tars(tmp_path / "a", png=picture)
    options = SourceOptions(cache=str(tmp_path / "cache"), classes=3)
    labelled = WebDataset(source.removeprefix("wds:"), options=options)
    assert labelled.class_names == ["0", "1", "2"] and [labelled[i]["label"] for i in range(4)] == [0, 1, 2, 0]
    with pytest.raises(UserError, match=r"\.cls is '2', no number of a class of 2, nor a name; set model.classes"):
        WebDataset(source.removeprefix("wds:"), options=SourceOptions(cache=str(tmp_path / "cache"), classes=2))
    # Names, and a field of JSON for a label.
    (tmp_path / "b").mkdir()
    members = [("0.png", picture(0)), ("0.json", json.dumps({"kind": "grey"}).encode())]
    write_tar(tmp_path / "b/00000.tar", members)
    (tmp_path / "b/classnames.txt").write_text("\n".join(NAMES))
    options = SourceOptions(cache=str(tmp_path / "cache"), label_key="json:kind", classes=3)
    assert WebDataset(f"{tmp_path}/b", options=options)[0]["label"] == 1
    with pytest.raises(UserError, match=r"data.label_key='cls': examples have json, png; name what is there"):
        WebDataset(f"{tmp_path}/b", options=SourceOptions(cache=str(tmp_path / "cache"), label_key="cls"))


def test_labels_of_a_table_go_before_captions_where_classes_are_learned(tmp_path):
    path = write_table(tmp_path / "a").removeprefix("pairs:")
    assert Pairs(path).class_names is None
    labelled = Pairs(path, options=SourceOptions(classes=3))
    assert labelled.class_names == list(NAMES) and labelled[4]["label"] == 1
    assert labelled[4]["captions"][0] == "the sound of grey."
    path = write_table(tmp_path / "b", "emotion").removeprefix("pairs:")
    assert Pairs(path, options=SourceOptions(label_key="emotion"))[5]["label"] == 2
    with pytest.raises(UserError, match="label_key='emotoin': the table has 'path', .*did you mean 'emotion'"):
        Pairs(path, options=SourceOptions(label_key="emotoin"))


def test_labels_of_parquet_files_are_texts_or_numbers(tmp_path):
    texts = Parquet(write_parquet(tmp_path / "a", NAMES).removeprefix("parquet:"), options=SourceOptions(classes=3))
    assert texts.class_names == list(NAMES) and [texts[i]["label"] for i in (1, 11)] == [1, 2]
    path = write_parquet(tmp_path / "b", (0, 3, 1), caption=["x"] * EXAMPLES).removeprefix("parquet:")
    numbers = Parquet(path, options=SourceOptions(classes=5))
    assert numbers.class_names == ["0", "1", "2", "3", "4"] and numbers[1]["label"] == 3
    assert Parquet(path).class_names is None
    assert Parquet(path, options=SourceOptions(label_key="label")).class_names == ["0", "1", "3"]
    (tmp_path / "b/classnames.txt").write_text("\n".join("pqrs"))
    assert Parquet(path, options=SourceOptions(classes=5)).class_names == list("pqrs")
    (tmp_path / "b/classnames.txt").write_text("p\nq")
    with pytest.raises(UserError, match="label '3' is none of the 2 names in classnames.txt, nor a number of one"):
        Parquet(path, options=SourceOptions(classes=5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__classes": 4}, "model.classes=4, but 'greys' has 3; set it to that"),
        ({"data__eval": "digits/test"}, "10 of the 10 classes of 'digits' are none of the model's, such as 'zero'"),
        ({"data__eval": "shapes/test"}, "'shapes' has no classes"),
        ({"data__train": "shapes"}, "data.train: 'shapes/train' has no classes, which objectives.classify learns"),
        ({"data__train": "{source}+digits", "model__classes": 3}, "model.classes=3, but 'digits/train' has 10"),
        ({"data__train": "{source}+folder:{tmp}/b"}, "'b' has the classes 'dark', 'grey', 'white', and 'greys' has"),
        ({"data__train": "sensors", "model__classes": 8}, "model.image: 'sensors/train' has no images; it has image"),
    ],
)
def test_what_does_not_fit_is_one_line_before_anything_is_trained(changes, message, tmp_path):
    source = write_folder(tmp_path / "greys")
    write_folder(tmp_path / "b")
    (tmp_path / "b/light").rename(tmp_path / "b/white")
    filled = {
        name: value.format(source=source, tmp=tmp_path) if isinstance(value, str) else value
        for name, value in changes.items()
    }
    with pytest.raises(UserError, match=re.escape(message)) as caught, runs.on_devices(1):
        training.open_run(config_of(source, "image", **filled), None)
    assert "\n" not in str(caught.value)


@pytest.mark.full
def test_what_a_classifier_reads_is_probed(tmp_path):
    """Nearest neighbours of the vectors before its head are scikit-learn's."""
    from sklearn.neighbors import KNeighborsClassifier

    source = write_folder(tmp_path / "greys", lambda number: encoded(Image.fromarray(noise(24, 20, number))))
    config = config_of(source, "image", steps=2)
    config.eval.tasks, config.eval.train = ("knn", "linear_probe", "few_shot"), source
    config.eval.knn.ks, config.eval.knn.vote = (3,), "plain"
    config.eval.few_shot.update(ways=3, shots=(1,), queries=2, episodes=5)
    assert runs.train(config, tmp_path / "run") is None
    (line,) = runs.lines(tmp_path / "run", "eval")
    assert {"greys/linear_probe/acc1", "greys/few_shot/3way_1shot_acc1"} < line.keys()

    model, images = mmjax.load(tmp_path / "run"), Folder(f"{tmp_path}/greys")
    pixels = np.stack([prepare(images[i]["image"], model.image_spec) for i in range(EXAMPLES)])
    vectors = np.asarray(
        model._task.embed_example(model.params, {"image": jnp.asarray(pixels)}, jnp.ones((EXAMPLES, 1), bool))
    )
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    labels = [images[i]["label"] for i in range(EXAMPLES)]
    expected = KNeighborsClassifier(3, metric="cosine", algorithm="brute").fit(vectors, labels).score(vectors, labels)
    assert line["greys/knn/acc1@3"] == pytest.approx(expected) and expected < 1


@pytest.mark.full
def test_towers_without_texts_are_probed(tmp_path):
    source = write_tars(tmp_path / "tars", png=picture, npy=lambda i: array(np.full((8, 2), i % 3 - 1)))
    (tmp_path / "tars/classnames.txt").write_text("\n".join(NAMES))
    config = config_of(source, "image", steps=2, objectives__classify=0.0, objectives__itc=1.0)
    heads = dict(pool="mean", projection="linear", norm_eps=1e-6, activation="gelu")
    towers = {name: heads | ENCODERS[name] for name in ("image", "series")}
    towers["image"] = {name: value for name, value in towers["image"].items() if name != "kind"}
    set_group(config, "model", dict(kind="two_tower", embed_dim=16, text=None, **towers))
    config.data.image_key = config.eval.image_key = "png;npy"
    config.eval.tasks, config.eval.train, config.eval.knn.ks = ("knn", "linear_probe"), source, (1,)
    assert runs.train(config, tmp_path / "run") is None
    (line,) = runs.lines(tmp_path / "run", "eval")
    # Each image is its own nearest neighbour.
    assert next(value for name, value in line.items() if name.endswith("knn/acc1@1")) == 1.0
