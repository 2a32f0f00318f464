"""Suites: every source opened before anything is computed, one pass each, finished ones left out, clear mistakes."""

import dataclasses
import io
import json
import shutil
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from mmjax import __version__
from mmjax.config.suite_recipe import load_suite
from mmjax.errors import UserError
from mmjax.evaluation.config import DatasetConfig, FewShotConfig, KnnConfig, SuiteConfig
from mmjax.evaluation.embedding import embedder
from mmjax.evaluation.suite import jobs
from mmjax.report import page as page_lib
from tests.helpers import processes as processes_lib
from tests.helpers import recorded_model, runs

ZERO, RETRIEVAL = "zeroshot_classification", "zeroshot_retrieval"
SUITE = """
from mmjax.config import dataset, suite_config

def get_config(arg=""):
    config = suite_config("{root}", "all")
    config.few_shot.update(episodes=10, shots=(1,), queries=3)
    config.datasets.colours = dataset("folder:{{root}}/test", "zeroshot_classification", "knn", "linear_probe",
                                      "few_shot", train="folder:{{root}}/train")
    config.datasets.pictures = dataset("karpathy:{{root}}/dataset_x.json/test", "zeroshot_retrieval", fold_size=2)
    config.datasets.pets = dataset("folder:{{root}}/classes", prompts="{root}/prompts.json")
    config.datasets.negatives = dataset("sugarcrepe:{{root}}/swap.json", "image_caption_selection", main_metric="acc")
    config.collections.classes = ("colours", "pets")
    return config
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A suite's file and data: pictures with captions by Karpathy's splits, and a folder of two classes."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "suite.py").write_text(SUITE.format(root=folder))
    pairs = runs.write_pairs(folder / "images", count=8).read_text().splitlines()[1:]
    entries = []
    for line in pairs:
        name, caption = line.split("\t")
        sentences = [{"raw": caption}, {"raw": f"{caption} again"}]
        entries.append({"filename": name, "split": "test", "sentences": sentences})
    (folder / "dataset_x.json").write_text(json.dumps({"images": entries}))
    runs.write_classes(folder / "classes")
    swaps = [{"filename": f"{i}.jpg", "caption": f"{i} is here", "negative_caption": f"here is {i}"} for i in range(6)]
    (folder / "swap.json").write_text(json.dumps(dict(enumerate(swaps))))
    write_colours(folder / "train", 10)
    write_colours(folder / "test", 4)
    (folder / "prompts.json").write_text(json.dumps({"cat": ["it purrs", "a {c}"], "dog": ["it barks"]}))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("suites") / "run"
    assert runs.train(runs.config(steps=2, data__eval="", eval__batch_size=16), workdir) is None
    return workdir


@pytest.fixture
def workdir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def passes(monkeypatch):
    """How many images went through the image tower, pass by pass."""
    counted = []
    images = embedder.MeshEmbedder.images

    def counting(self, stream):
        rows = images(self, stream)
        counted.append(len(rows))
        return rows

    monkeypatch.setattr(embedder.MeshEmbedder, "images", counting)
    return counted


def write_colours(folder, count):
    """Images of five classes that any features tell apart."""
    rng = np.random.default_rng(0)
    colours = {
        "red": (250, 0, 0),
        "green": (0, 250, 0),
        "blue": (0, 0, 250),
        "white": (250, 250, 250),
        "black": (0, 0, 0),
    }
    for name, colour in colours.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(np.array(colour) + rng.integers(-20, 21, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def records(workdir, step=2):
    return {(r["dataset"], r["task"]): r for r in json.loads((workdir / "eval" / f"{step}.json").read_text())}


def test_a_suite_from_beginning_to_end(root, workdir, passes, capsys):
    flags = [f"--workdir={workdir}", f"--config={root / 'suite.py'}"]
    assert runs.eval_cli(*flags) == 0
    out = capsys.readouterr().out
    # One pass over each source, whatever is measured on it.
    assert passes == [20, 50, 8, 8, 6]
    result = records(workdir)
    assert [*result] == [
        *(("colours", task) for task in (ZERO, "knn", "linear_probe", "few_shot")),
        ("pictures", RETRIEVAL),
        ("pets", ZERO),
        ("negatives", "image_caption_selection"),
    ]
    for record in result.values():
        assert list(record)[:6] == ["dataset", "model", "pretrained", "task", "metrics", "language"]
        assert record["pretrained"] == f"{workdir}@2" and record["metrics"]
    colours = result["colours", ZERO]["metrics"]
    assert {"acc1", "acc5", "mean_per_class_recall", "macro_f1"} == set(colours)
    for record in result.values():
        assert (record["image_size"], record["precision"]) == (16, "float32") and record["mmjax"] == __version__
    # Two prompts for cats and one for dogs; one for each of the five colours.
    assert result["pets", ZERO]["prompts"] == 3 and "prompts" not in result["colours", "knn"]
    assert {"acc1@10", "acc1@20"} < set(result["colours", "knn"]["metrics"])
    for task, metric in (("linear_probe", "acc1"), ("knn", "acc1@10"), ("few_shot", "5way_1shot_acc1")):
        assert result["colours", task]["metrics"][metric] > 0.9  # chance is 0.2
    pictures = result["pictures", RETRIEVAL]["metrics"]
    assert pictures["mean_recall@1"] == pytest.approx(
        (pictures["image_retrieval_recall@1"] + pictures["text_retrieval_recall@1"]) / 2
    )
    assert "4x2_image_retrieval_recall@1" in pictures
    mean = (colours["acc1"] + result["pets", ZERO]["metrics"]["acc1"]) / 2
    assert f"mean of the 2 datasets of classes: {100 * mean:.2f}%" in out and "linear probe" in out

    # Of the plain evaluation of the same data the same colours.
    assert 0 <= result["negatives", "image_caption_selection"]["metrics"]["acc"] <= 1
    plain = workdir.parent / "plain.json"
    with mock.patch.object(page_lib, "write_report"):
        assert runs.eval_cli(f"--workdir={workdir}", f"--output={plain}", f"--config.data.eval=folder:{root}/test") == 0
    metrics = json.loads(plain.read_text())[0]["metrics"]
    assert metrics.pop("loss") > 0 and metrics == colours

    page = next((workdir / "eval").glob("*.html")).read_text()
    assert "Classes: colours" in page and "Confusion: colours" in page and "Nearest captions: pictures" in page
    assert "Linear probe" in page and f"{100 * mean:.2f}%" in page and "http://" not in page


def test_a_suite_that_was_killed_goes_on(root, workdir, passes, capsys, monkeypatch):
    flags = [f"--workdir={workdir}", f"--config={root / 'suite.py'}", "--config.collection=pets+pictures"]
    render, rendered = page_lib.render_section, []

    def killed(outcome):
        if outcome.dataset == "pets" and not rendered:
            rendered.append(outcome)
            raise KeyboardInterrupt
        return render(outcome)

    monkeypatch.setattr(page_lib, "render_section", killed)
    assert runs.eval_cli(*flags) == 130
    before = records(workdir)
    assert [*before] == [("pictures", RETRIEVAL)]
    assert runs.eval_cli(*flags) == 0
    assert passes == [8, 8, 8] and "1 of 2 evaluations are finished already" in capsys.readouterr().out
    assert records(workdir)["pictures", RETRIEVAL] == before["pictures", RETRIEVAL]
    # The report has what was made before the kill.
    page = next((workdir / "eval").glob("*.html")).read_text()
    assert "Nearest captions: pictures" in page and "Classes: pets" in page
    # All finished: nothing is opened, and the data may be gone.
    assert runs.eval_cli(*flags, "--config.root=/nowhere") == 2  # another source
    assert len(passes) == 3
    assert runs.eval_cli(*flags) == 0 and len(passes) == 3
    assert runs.eval_cli(*flags, "--overwrite") == 0 and len(passes) == 5
    # Other prompts are another evaluation.
    assert runs.eval_cli(*flags, "--config.datasets.pets.prompts=own") == 0 and len(passes) == 6
    assert len(records(workdir)) == 2
    # A run that was moved keeps its results; a plain evaluation leaves them alone.
    moved = workdir.rename(workdir.with_name("moved"))
    assert runs.eval_cli(f"--workdir={moved}", *flags[1:], "--config.datasets.pets.prompts=own") == 0
    assert len(passes) == 6
    assert runs.eval_cli(f"--workdir={moved}", f"--config.data.eval=folder:{root}/test") == 0
    assert [*records(moved)] == [("pictures", RETRIEVAL), ("pets", ZERO), ("test", ZERO)]


def test_a_file_of_prompts_that_changed_is_evaluated_again(root, workdir, passes, tmp_path):
    """And the batch, which decides over the held-out loss alone, is no other evaluation."""
    file = tmp_path / "prompts.json"
    flags = [f"--workdir={workdir}", f"--config={root / 'suite.py'}", "--config.collection=pets"]
    flags.append(f"--config.datasets.pets.prompts={file}")
    file.write_text(json.dumps(["a {c}"]))
    assert runs.eval_cli(*flags) == 0 and runs.eval_cli(*flags, "--config.eval.batch_size=8") == 0
    assert len(passes) == 1 and "loss" not in records(workdir)["pets", ZERO]["metrics"]
    file.write_text(json.dumps(["a {c}", "the {c}"]))
    assert runs.eval_cli(*flags) == 0 and len(passes) == 2
    assert records(workdir)["pets", ZERO]["prompts"] == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--config.root=/nowhere"],
            "dataset 'colours' cannot be evaluated (nor can pictures, pets, negatives): datasets.colours.source=",
        ),
        (["--config.root=/nowhere"], "/nowhere/test"),
        (["--config.datasets.pets.source=wds:/nowhere/tars/test"], "there is no /nowhere/tars/test"),
        (["--config.collection=pet"], "did you mean 'pets'"),
        (["--config.datasets.pets.tasks=zeroshot"], "datasets.pets.tasks='zeroshot' is not known"),
        (["--config.datasets.pets.tasks=knn"], "datasets.pets.train is empty, but knn learns"),
        (["--config.datasets.pets.prompts=imagnet1k"], "did you mean 'imagenet1k'"),
        (["--config.datasets.pets.prompts=mnist"], "datasets.pets.prompts='mnist': 'pets' has 2 classes"),
        (["--config.datasets.pictures.tasks=zeroshot_classification"], "needs classes, and karpathy:"),
        (["--config.datasets.colours.train=folder:{root}/classes"], "has 2 classes, and the test split 5"),
        (["--config.datasets.pest.source=x"], "datasets has no field 'pest' (did you mean 'pets'?)"),
        (["--config.few_shot.ways=11"], "few_shot.ways=11"),
        (["--config.model.image.width=3"], "belongs to the trained model"),
        (["--config=quickstart"], "this is no evaluation suite"),
        (["--config=nothing.py"], "there is no file nothing.py"),
        (["--model=x"], "--workdir or --model: give one of them"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_computed(root, trained, passes, flags, message, capsys, tmp_path):
    flags = [flag.replace("{root}", str(root)) for flag in flags]
    output = tmp_path / "result.json"
    status = runs.eval_cli(f"--workdir={trained}", f"--config={root / 'suite.py'}", f"--output={output}", *flags)
    err = capsys.readouterr().err
    assert status == 2 and message in err and len(err.splitlines()) == 1
    assert not passes and not output.exists()


def test_a_training_split_that_no_task_learns_from_need_not_be_there(root, trained, tmp_path):
    """Another place of the images is one field."""
    flags = [f"--config.datasets.colours.source=folder:{root}/classes", "--config.datasets.colours.train=wds:/nowhere"]
    flags += ["--config.datasets.colours.tasks=zeroshot_classification", "--config.collection=colours"]
    output = tmp_path / "result.json"
    assert runs.eval_cli(f"--workdir={trained}", f"--config={root / 'suite.py'}", f"--output={output}", *flags) == 0
    assert [record["n"] for record in json.loads(output.read_text())] == [8]


def test_missing_datasets_can_be_left_out(root, trained, passes, tmp_path, capsys):
    output = tmp_path / "result.json"
    flags = ["--config.root=/nowhere", "--config.missing=skip", f"--config.datasets.colours.source=folder:{root}/test"]
    flags.append("--config.datasets.colours.tasks=few_shot")
    assert runs.eval_cli(f"--workdir={trained}", f"--config={root / 'suite.py'}", f"--output={output}", *flags) == 0
    assert passes == [20] and "left out: pets" in capsys.readouterr().out
    assert [record["task"] for record in json.loads(output.read_text())] == ["few_shot"]
    assert output.with_suffix(".html").exists()


def test_a_folder_of_tars_as_clip_benchmark_writes_it(root, trained, tmp_path):
    """The same images as a folder by class give the same numbers; labels, names and templates lie beside the tars."""
    folder = tmp_path / "wds_cifar10" / "test"
    folder.mkdir(parents=True)
    names = sorted(path.name for path in (root / "test").iterdir())
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number, path in enumerate(sorted((root / "test").glob("*/*.png"))):
            for ending, content in (("png", path.read_bytes()), ("cls", str(names.index(path.parent.name)).encode())):
                info = tarfile.TarInfo(f"s{number:07}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (folder / "nshards.txt").write_text("1")
    (folder.parent / "classnames.txt").write_text("\n".join(names))
    (folder.parent / "zeroshot_classification_templates.txt").write_text("my {c}\nyour {c}")
    (tmp_path / "own.json").write_text(json.dumps(["my {c}", "your {c}"]))
    result = []
    for source, prompts in ((f"wds:{folder}", ""), (f"folder:{root}/test", tmp_path / "own.json")):
        output = tmp_path / f"{source[:3]}.json"
        flags = ["--config.collection=pets", f"--config.datasets.pets.source={source}"]
        flags += [f"--config.datasets.pets.prompts={prompts}", f"--output={output}"]
        assert runs.eval_cli(f"--workdir={trained}", f"--config={root / 'suite.py'}", *flags) == 0
        result.append(by_task(output)["pets", ZERO])
    assert {k: v for k, v in result[0].items() if k != "loss"} == {k: v for k, v in result[1].items() if k != "loss"}


def test_the_suite_that_comes_with_mmjax():
    config, _ = load_suite("eval:root=/data,collection=all")
    result = jobs.make_jobs(config)
    assert len(result) == len(config.datasets) > 35
    assert all("{root}" not in job.source for job in result)
    assert set(config.collections) >= {"vtab", "retrieval", "imagenet_robustness", "embedded"}
    chosen = lambda name: jobs.make_jobs(dataclasses.replace(config, collection=name))
    for name, members in config.collections.items():
        assert {job.name for job in chosen(name)} == set(members)
    (coco,) = chosen("coco")
    assert coco.source == "karpathy:/data/coco/dataset_coco.json/test" and coco.fold_size == 1000
    assert [job.name for job in chosen("embedded")] == ["digits", "shapes"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(knn=KnnConfig(ks=())), r"knn.ks=\(\): wants numbers from 1 up"),
        (dict(few_shot=FewShotConfig(ways=1)), "few_shot.ways=1: wants a number from 2 up"),
        (dict(bootstrap=-1), "bootstrap=-1: wants a number from 0 up"),
        (dict(collections={"mine": ("digts",)}), "collections.mine names 'digts'.*did you mean 'digits'"),
        (dict(datasets={"digits": DatasetConfig(source="digits/test", tasks=())}), "datasets.digits.tasks is empty"),
    ],
)
def test_numbers_and_names_are_checked_before_data_is_opened(changes, message):
    suite = SuiteConfig(collection="digits", datasets={"digits": DatasetConfig(source="digits/test")})
    assert [job.name for job in jobs.make_jobs(suite)] == ["digits"]
    with pytest.raises(UserError, match=message):
        jobs.make_jobs(dataclasses.replace(suite, **changes))


def test_weights_of_another_library(root, trained, tmp_path, capsys):
    """A workdir through `--model`: the same colours as through `--workdir`."""
    flags = [f"--config.data.eval=folder:{root}/test", "--config.eval.batch_size=16"]
    assert runs.eval_cli(f"--workdir={trained}", f"--output={tmp_path / 'a.json'}", *flags) == 0
    assert runs.eval_cli(f"--model={trained}", f"--output={tmp_path / 'b.json'}", *flags) == 0
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert a[0]["metrics"] == b[0]["metrics"] and b[0]["pretrained"] == str(trained)
    assert runs.eval_cli(f"--model={trained}", *flags) == 2
    assert "--output is missing" in capsys.readouterr().err


def test_a_bootstrap_interval_holds_the_accuracy(root, trained, tmp_path):
    output = tmp_path / "result.json"
    flags = ["--config.collection=colours", f"--config.datasets.colours.tasks={ZERO}", "--config.bootstrap=500"]
    assert runs.eval_cli(f"--workdir={trained}", f"--config={root / 'suite.py'}", f"--output={output}", *flags) == 0
    metrics = json.loads(output.read_text())[0]["metrics"]
    accuracy = metrics["acc1"]
    error = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 20)  # the normal approximation
    assert metrics["acc1_low95"] == pytest.approx(accuracy - error, abs=0.08)
    assert metrics["acc1_high95"] == pytest.approx(accuracy + error, abs=0.08)


def measure(root, trained, output, *flags, recording=None, devices=1):
    """Runs the suite; returns its records, and what was embedded."""
    flags = [f"--workdir={trained}", f"--config={root / 'suite.py'}", f"--output={output}", *flags]
    with mock.patch.object(page_lib, "render_report", lambda **_: ""):
        if recording is not None:
            with recorded_model.replay(recording):
                assert runs.eval_cli(*flags, devices=devices) == 0
            return by_task(output), recording
        with recorded_model.record() as made:
            assert runs.eval_cli(*flags, devices=devices) == 0
        return by_task(output), made


def by_task(path):
    return {(record["dataset"], record["task"]): record["metrics"] for record in json.loads(path.read_text())}


def assert_same_metrics(result, expected, loss=True):
    """The same numbers; the loss is of a batch, and summed over the mesh."""
    assert [*result] == [*expected]
    for task, metrics in expected.items():
        assert {name: value for name, value in result[task].items() if name != "loss"} == {
            name: value for name, value in metrics.items() if name != "loss"
        }
        if loss and "loss" in metrics:
            assert result[task]["loss"] == pytest.approx(metrics["loss"], abs=2e-6)


def assert_same_embeddings(result, expected):
    assert [len(rows) for rows in result.passes] == [len(rows) for rows in expected.passes] and len(
        expected.passes
    ) == 5
    for mine, theirs in zip(result.passes, expected.passes, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)
    assert [*result.texts] == [*expected.texts]
    np.testing.assert_allclose(
        np.stack([*result.texts.values()]), np.stack([*expected.texts.values()]), rtol=0, atol=1e-6
    )


@pytest.fixture(scope="module")
def base(root, trained, tmp_path_factory):
    return measure(root, trained, tmp_path_factory.mktemp("base") / "one.json")


def test_of_the_same_embeddings_eight_devices_make_the_same_metrics(root, trained, base, tmp_path):
    expected, recording = base
    metrics, _ = measure(root, trained, tmp_path / "metrics.json", recording=recording, devices=8)
    assert_same_metrics(metrics, expected)


@pytest.mark.parametrize(
    ("devices", "flags"),
    [
        (1, ["--config.eval.batch_size=7"]),  # 20, 50 and 8 images: the last batch is filled up to another length
        pytest.param(8, [], marks=pytest.mark.full),
        pytest.param(8, ["--config.eval.batch_size=24", "--config.mesh.fsdp=2"], marks=pytest.mark.full),
        pytest.param(8, ["--config.mesh.fsdp=2", "--config.mesh.tensor=2"], marks=pytest.mark.full),
    ],
)
def test_batches_and_meshes_change_no_metric(root, trained, base, tmp_path, devices, flags):
    expected, recording = base
    _, result = measure(root, trained, tmp_path / "embeddings.json", *flags, devices=devices)
    assert_same_embeddings(result, recording)
    metrics, _ = measure(root, trained, tmp_path / "metrics.json", *flags, recording=recording, devices=devices)
    same_batch = not any("batch_size" in flag for flag in flags)
    assert_same_metrics(metrics, expected, loss=same_batch)


@pytest.mark.full
def test_two_processes_change_no_metric(root, trained, base, tmp_path):
    expected, recording = base
    recording.save(tmp_path / "one.npz")
    for mode, file in (("record", "two.npz"), ("replay", "one.npz")):
        output, port = tmp_path / f"{mode}.json", processes_lib.free_port()
        flags = [f"--workdir={trained}", f"--config={root / 'suite.py'}", f"--output={output}"]
        flags += [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
        script = Path(recorded_model.__file__)
        commands = [[script, mode, tmp_path / file, *flags, f"--process={i}"] for i in range(2)]
        with processes_lib.Processes(tmp_path, commands, devices=4) as processes:
            assert processes.end() == [0, 0], processes.printed()
    assert_same_embeddings(recorded_model.Recording.load(tmp_path / "two.npz"), recording)
    assert_same_metrics(by_task(tmp_path / "replay.json"), expected)
