"""`mmjax eval` of models beyond two towers: by suites as by their own evaluation, by two processes as by one."""

import json
from unittest import mock

import pytest
from PIL import Image

from mmjax.data.sources import questions, shapes
from mmjax.evaluation.suite import runner
from tests.helpers import campaign, model_kinds, processes, runs

COUNT, BATCH = 21, 8  # the last batch is not full

KINDS = {"tiny-vilt, questions": "tiny-vilt", "tiny-captioner, answers": "tiny-captioner"}
METHODS = {
    "tiny-coca": {},
    "tiny-qformer": dict(loss__itm_negatives="local"),
    "tiny-vilt": {},
    "tiny-captioner, answers": dict(data__texts="answers"),
    "tiny-vilt, questions": dict(
        objectives__vqa=1.0, objectives__itm=0.0, objectives__mlm=0.0, model__answers=21, model__mlm=False
    )
    | dict(model__match=False, data__texts="questions"),
    "fusion:gated": {},
}
MATCHING = "('image_text_matching',)"
EXPECTED = {
    "tiny-coca": {"zeroshot_retrieval", "image_captioning"},
    "tiny-qformer": {"zeroshot_retrieval", "image_text_matching", "image_captioning"},
    "tiny-vilt": {"image_text_matching", "masked_modelling"},
    "tiny-captioner, answers": {"visual_question_answering"},
    "tiny-vilt, questions": {"visual_question_answering"},
    "fusion:gated": {"multimodal_classification"},
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Scenes with captions, and with questions, in files."""
    folder = tmp_path_factory.mktemp("data")
    pairs, question_rows = ["image\tcaption"], []
    for name, source in (("scene", shapes.Shapes("test")), ("asked", questions.Questions("test"))):
        for i in range(COUNT):
            record = source[i]
            Image.fromarray(record["image"]).save(folder / f"{name}{i}.png")
            if name == "scene":
                pairs.append(f"{name}{i}.png\t{record['captions'][0]}")
            else:
                entry = dict(image=f"{name}{i}.png", question=record["question"], answers=list(record["answers"]))
                question_rows.append(json.dumps(entry))
    (folder / "pairs.tsv").write_text("\n".join(pairs) + "\n")
    (folder / "asked.jsonl").write_text("\n".join(question_rows) + "\n")
    return {"shapes": f"pairs:{folder / 'pairs.tsv'}", "questions": f"vqa:{folder / 'asked.jsonl'}"}


def save_model(method, sources, random_params, workdir):
    """Writes a run of that method with random parameters."""
    kind, changes = KINDS.get(method, method), METHODS[method]
    if kind.startswith("fusion"):
        train, evaluated = "sensors/train", "sensors/test"
    else:
        train = "questions" if "data__texts" in changes else "shapes"
        evaluated = sources[train]
    more = dict(batch_size=16, steps=2, data__train=train, data__eval=evaluated, eval__batch_size=BATCH)
    model_kinds.save(random_params, model_kinds.config(kind, **changes, **more), workdir)
    return evaluated


def write_suite(path, source, tasks):
    path.write_text(
        "from mmjax.config import dataset, suite_config\n"
        "def get_config(arg=''):\n"
        "    config = suite_config(collection='all')\n"
        f"    config.datasets['one'] = dataset({source!r}, *{tuple(tasks)!r})\n"
        "    return config\n"
    )
    return f"--config={path}"


def results(path):
    return {record["task"]: record for record in json.loads(path.read_text())}


@pytest.mark.full
@pytest.mark.parametrize("method", campaign.some(list(METHODS), ["tiny-coca", "tiny-captioner, answers"]))
def test_a_suite_gives_what_the_plain_evaluation_gives(method, sources, random_params, tmp_path):
    """Its captions, answers, matches, masks and classes; but for the loss, which depends on the batch."""
    evaluated = save_model(method, sources, random_params, tmp_path / "run")
    flags = [f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'plain.json'}"]
    assert runs.eval_cli(*flags) == 0
    plain = results(tmp_path / "plain.json")
    assert set(plain) == EXPECTED[method]
    flags = [f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'suite.json'}"]
    flags.append(write_suite(tmp_path / "suite.py", evaluated, plain))
    assert runs.eval_cli(*flags) == 0
    suite = results(tmp_path / "suite.json")
    assert [*suite] == [*plain]
    for task, record in suite.items():
        expected = dict(plain[task]["metrics"])
        for name in ("loss", "contrastive_loss"):
            expected.pop(name, None)
        metrics = dict(record["metrics"])
        assert ("mean_recall@1" in metrics) == (task == "zeroshot_retrieval")
        metrics.pop("mean_recall@1", None)
        assert metrics == expected and record["n"] > 0
    # All is finished; and another way to write is another evaluation.
    writes = {"image_captioning", "visual_question_answering"} & set(suite)
    with mock.patch.object(runner, "run", return_value=iter(())) as run:
        assert runs.eval_cli(*flags) == 0
        assert runs.eval_cli(*flags, "--config.decoding.max_tokens=3") == 0
    assert [set(call.args[1]["one"]) for call in run.call_args_list] == ([writes] if writes else [])


@pytest.mark.full
@pytest.mark.parametrize("method", campaign.some(list(METHODS), ["tiny-captioner, answers"]))
def test_two_processes_change_no_metric(method, sources, random_params, tmp_path):
    save_model(method, sources, random_params, tmp_path / "run")
    outputs = [tmp_path / f"{count}.json" for count in (1, 2)]
    alone, together = ([f"--workdir={tmp_path / 'run'}", f"--output={output}"] for output in outputs)
    assert runs.eval_cli(*alone, devices=2) == 0
    statuses, printed = processes.command(tmp_path, "eval", *together, devices=1)
    assert statuses == [0, 0], printed
    one, two = map(results, outputs)
    assert [*one] == [*two] and set(one) == EXPECTED[method]
    for task, record in one.items():
        assert record | {"metrics": None} == two[task] | {"metrics": None}
        assert record["metrics"] == pytest.approx(two[task]["metrics"], rel=1e-5)


def test_a_task_that_is_not_for_the_model_is_one_line(random_params, tmp_path, capsys):
    """Before any data is opened: there are none."""
    model_kinds.save(random_params, model_kinds.config("tiny-captioner", batch_size=16, steps=2), tmp_path / "run")
    flags = [f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'x.json'}"]
    suite = write_suite(tmp_path / "suite.py", "folder:/nowhere", ["image_captioning", "image_text_matching"])
    for more, field in (
        ([suite], "datasets.one.tasks"),
        (["--config.data.eval=folder:/nowhere", f"--config.eval.tasks={MATCHING}"], f"eval.tasks={MATCHING}"),
    ):
        assert runs.eval_cli(*flags, *more) == 2
        model = "model.kind='captioner' trained with caption"
        expected = f"error: {field}: image_text_matching is not for {model}; choose among image_captioning\n"
        assert capsys.readouterr().err == expected
