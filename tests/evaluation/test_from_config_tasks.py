"""`eval.tasks`: evaluations of suites in training and in `eval.py`, and what is said of those that cannot be run."""

import dataclasses
import json

import jax
import pytest

from mmjax.config import parse, recipe
from mmjax.errors import UserError
from mmjax.evaluation import task_choice
from mmjax.evaluation.config import DatasetConfig, SuiteConfig
from mmjax.evaluation.suite import jobs
from mmjax.training import train, validate_run
from tests.helpers import runs
from tests.helpers.plugin_files import message, one_line

TASKS = ("zeroshot_classification", "knn", "linear_probe", "few_shot", "zeroshot_retrieval", "clip_score")
FEW = {"ways": 2, "shots": (1,), "queries": 3, "episodes": 10}
SUITE = """
from mmjax.config import dataset, suite_config

def get_config(arg=""):
    config = suite_config(collection="pets")
    config.few_shot.update({few})
    config.bootstrap = 20
    config.datasets.pets = dataset("folder:{folder}/pets", *{tasks}, train="folder:{folder}/train/pets")
    return config
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that was evaluated by all that embeddings have, on two classes and on pictures without classes."""
    folder = tmp_path_factory.mktemp("tasks")
    classes = runs.write_classes(folder / "pets", count=8)
    runs.write_classes(folder / "train" / "pets", count=20)
    pairs = f"pairs:{runs.write_pairs(folder / 'pictures', count=12)}"
    changes = {f"eval__few_shot__{name}": value for name, value in FEW.items()}
    changes |= dict(
        eval__tasks=TASKS, eval__train=f"folder:{folder}/train/pets", eval__bootstrap=20, eval__batch_size=8
    )
    config = runs.config(steps=2, data__eval=f"folder:{classes}+{pairs}", **changes)
    assert runs.train(config, folder / "run") is None
    (folder / "suite.py").write_text(SUITE.format(folder=folder, tasks=TASKS, few=FEW))
    (folder / "source.txt").write_text(pairs)
    return folder


def metrics_of(path, dataset):
    return {line["task"]: line["metrics"] for line in json.loads(path.read_text()) if line["dataset"] == dataset}


@pytest.mark.full
def test_training_eval_py_and_suites_give_the_same(folder):
    (line,) = runs.lines(folder / "run", "eval")
    flags = [f"--workdir={folder / 'run'}"]
    assert runs.eval_cli(*flags, f"--output={folder / 'plain.json'}") == 0
    assert runs.eval_cli(*flags, f"--output={folder / 'suite.json'}", f"--config={folder / 'suite.py'}") == 0
    plain, suite = (metrics_of(folder / f"{name}.json", "pets") for name in ("plain", "suite"))
    assert [*plain] == [*suite] == [*TASKS]
    assert set(metrics_of(folder / "plain.json", "captions")) == {"zeroshot_retrieval", "clip_score"}
    for task, metrics in plain.items():
        of_suite = dict(suite[task])
        of_suite.pop("mean_recall@1", None)
        assert {name: value for name, value in metrics.items() if name != "loss"} == of_suite
        group = "pets" if task.startswith("zeroshot") else f"pets/{task}"
        assert metrics == {name: line[f"{group}/{name}"] for name in metrics}
    assert "acc1_low95" in plain["zeroshot_classification"] and "2way_1shot_acc1" in plain["few_shot"]
    report = (folder / "suite.html").read_text()
    assert "Linear probe" in report and "Confusion: pets, k nearest neighbours" in report


@pytest.mark.full
@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["tasks=('knnn',)"], "'knnn' is not known (did you mean 'knn'?)"),
        (
            ["tasks=('image_captioning',)"],
            "image_captioning is not for model.kind='two_tower' trained with itc; choose",
        ),
        (["train=digits/train+digits/train"], "names 2 sources to learn from, and probes are run on 1 of data.eval"),
        (["train="], "eval.train='' names 0 sources to learn from, and probes are run on 1 of data.eval (pets)"),
        (["train=digits/trian"], "eval.train='digits/trian'"),
        (["train=shapes/train"], "eval.train='shapes/train' has 0 classes, and the test split 2"),
        (["few_shot.ways=11"], "eval.few_shot.ways=11: pets has 2 classes; choose fewer ways"),
        (["tasks=('image_caption_selection',)"], "needs two captions an image, the right one first, and nothing of"),
    ],
)
def test_mistakes_are_one_line(folder, capsys, flags, error):
    flags = [f"--config.eval.{flag}" for flag in flags]
    assert runs.eval_cli(f"--workdir={folder / 'run'}", f"--output={folder / 'x.json'}", *flags) == 2
    assert error in one_line(capsys)


@pytest.mark.full
def test_what_no_source_is_for_is_noted(folder, capsys):
    flags = ["--config.eval.tasks=('zeroshot_classification',)", "--config.eval.train="]
    assert runs.eval_cli(f"--workdir={folder / 'run'}", f"--output={folder / 'x.json'}", *flags) == 0
    assert "note: zeroshot_classification is not run on captions, which has no classes" in capsys.readouterr().out
    only = [f"--config.data.eval={(folder / 'source.txt').read_text()}", *flags]
    assert runs.eval_cli(f"--workdir={folder / 'run'}", f"--output={folder / 'x.json'}", *only) == 2
    assert "zeroshot_classification needs classes, and nothing of data.eval=" in one_line(capsys)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (dict(eval__tasks=("knnn",)), r"eval.tasks='knnn' is not known \(did you mean 'knn'\?\)"),
        (dict(eval__knn__ks=()), r"eval.knn.ks=\(\): wants numbers from 1 up"),
        (
            dict(eval__knn__ks=(5,)),
            r"eval.knn.ks=\(5,\) is not read with eval.tasks=\(\); .*name one that reads it: knn",
        ),
        (dict(eval__train="digits/train"), "eval.train='digits/train' is not read with eval.tasks=.*knn, linear_probe"),
        (dict(eval__tasks=("knn",), eval__bootstrap=5), "eval.bootstrap=5 is not read with eval.tasks=.'knn',."),
        (dict(eval__tasks=("knn",), eval__seed=5), "eval.seed=5 is not read"),
    ],
)
def test_a_run_s_config_is_checked_before_anything_is_opened(changes, error):
    with pytest.raises(UserError, match=error):
        validate_run.check_config(parse(runs.config(data__train="digits/train", **changes)))


def test_what_is_read_is_let_be():
    for changes in (dict(eval__bootstrap=5, eval__seed=1), dict(eval__tasks=("few_shot",), eval__few_shot__ways=3)):
        validate_run.check_config(parse(runs.config(data__train="digits/train", **changes)))


def test_metrics_of_probes_can_choose_the_best_checkpoint():
    groups = ["digits", "digits/linear_probe"]
    make = lambda name: parse(
        runs.config(checkpoint__keep_best=1, checkpoint__best_metric=name, checkpoint__every=4, eval__every=4)
    )
    validate_run.check_best_metric(make("digits/linear_probe/acc1"), groups)
    error = message(validate_run.check_best_metric, make("digits/knn/acc1"), groups)
    assert "wants DATASET/METRIC, with one of the data sets: digits, digits/linear_probe" in error


def test_unread_fields_have_their_readers():
    assert task_choice.unread_fields(("knn",), {"knn.ks": (1,), "few_shot.ways": 2, "every": 1}) == {
        "few_shot.ways": ["few_shot"]
    }


def test_what_is_finished_depends_on_the_suite_s_seed_not_on_the_run_s():
    suite = SuiteConfig(
        seed=7, datasets={"d": DatasetConfig(source="digits/test", tasks=("few_shot",))}, collection="d"
    )
    (job,) = jobs.make_jobs(suite)
    run = parse(runs.config(seed=3, batch_size=48))
    assert job.settings("few_shot", suite, run)["seed"] == 7
    assert job.settings("image_text_matching", suite, run) == {"source": "digits/test", "batch_size": 48}
    assert set(job.settings("image_captioning", suite, run)) == {
        "source",
        "eval.meteor",
        *(f"decoding.{field.name}" for field in dataclasses.fields(run.decoding)),
    }


@pytest.fixture(scope="module")
def unfit(tmp_path_factory):
    """Sources without what a CLIP model is evaluated by, and hard negatives."""
    folder = tmp_path_factory.mktemp("unfit")
    runs.write_pairs(folder, count=8)
    questions = [{"image": f"{i}.jpg", "question": "what?", "answer": "it"} for i in range(8)]
    (folder / "questions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in questions))
    swaps = [{"filename": f"{i}.jpg", "caption": f"{i} is here", "negative_caption": f"here is {i}"} for i in range(8)]
    (folder / "swap.json").write_text(json.dumps(dict(enumerate(swaps))))
    rows = [
        {"image_0": f"{i}.jpg", "image_1": f"{i + 1}.jpg", "caption_0": f"{i} is here", "caption_1": f"here is {i}"}
        for i in range(0, 8, 2)
    ]
    (folder / "examples.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("source", "lacking"),
    [("sensors/test", "'sensors' has no images"), ("vqa:{0}/questions.jsonl", "'questions' has no captions")],
)
def test_data_that_the_model_cannot_be_evaluated_on(unfit, tmp_path, capsys, source, lacking):
    """One line before the first step, not a fault at the end of the run."""
    source = source.format(unfit)
    for flags in ([], ["--dry-run"]):
        assert runs.train_cli(f"--workdir={tmp_path / 'run'}", *flags, f"--config.data.eval={source}") == 2
        line = one_line(capsys)
        assert line.startswith(f"error: data.eval={source!r}: {lacking}, which model.kind='two_tower'")
        assert "leave it out" in line and "eval.tasks" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("source", "metrics"),
    [
        ("sugarcrepe:{0}/swap.json", {"acc"}),
        ("winoground:{0}/examples.jsonl", {"text_acc", "image_acc", "acc"}),
    ],
)
def test_hard_negatives_have_their_metric(unfit, source, metrics):
    source = source.format(unfit)
    mistake = message(train.open_run, runs.config(data__train=source), None)
    assert mistake.startswith(f"data.train={source!r} has wrong captions") and "data.eval" in mistake
    opened = train.open_run(runs.config(data__eval=f"{source}+digits/test", eval__batch_size=8), None)
    assert [plan.names for plan in opened.evaluator.plans] == [
        ["image_caption_selection"],
        ["zeroshot_classification"],
    ]
    opened = train.open_run(runs.config(data__eval=source, eval__batch_size=8), None)
    (evaluation,) = opened.evaluator.run(opened.task.init(jax.random.key(0)))
    assert evaluation.task == "image_caption_selection" and set(evaluation.metrics) == metrics


def test_a_model_that_is_evaluated_by_nothing_of_a_source(unfit):
    """A captioner embeds no images, and there is nothing else to do with hard negatives."""
    source = f"sugarcrepe:{unfit}/swap.json"
    config = recipe.load_recipe("captioner:variant=tiny-captioner")
    config.data.train, config.data.eval = "shapes", source
    mistake = message(train.open_run, config, None)
    assert mistake.startswith(f"data.eval={source!r}: 'swap' has nothing that model.kind='captioner'")
