"""`mmjax eval` of models beyond two towers: by two processes as by one."""

import json

import pytest
from PIL import Image

from mmjax.data.sources import questions, shapes
from tests.helpers import model_kinds, processes, runs

COUNT, BATCH = 21, 8  # the last batch is not full

METHODS = {
    "tiny-qformer": dict(loss__itm_negatives="local"),
    "tiny-captioner": dict(data__texts="answers"),
    "tiny-vilt": dict(
        objectives__vqa=1.0, objectives__itm=0.0, objectives__mlm=0.0, model__answers=21, model__mlm=False
    )
    | dict(model__match=False, data__texts="questions"),
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


@pytest.mark.full
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_change_no_metric(method, sources, random_params, tmp_path):
    changes = METHODS[method]
    data = "questions" if "data__texts" in changes else "shapes"
    more = dict(batch_size=16, steps=2, data__train=data, data__eval=sources[data], eval__batch_size=BATCH)
    config = model_kinds.config(method, **changes, **more)
    model_kinds.save(random_params, config, tmp_path / "run")
    results = [tmp_path / "one.json", tmp_path / "two.json"]
    flags = lambda output: [f"--workdir={tmp_path / 'run'}", f"--output={output}"]
    assert runs.eval_cli(*flags(results[0]), devices=8) == 0
    statuses, printed = processes.command(tmp_path, "eval", *flags(results[1]))
    assert statuses == [0, 0], printed
    one, two = (json.loads(path.read_text()) for path in results)
    assert len(one) >= 1 and [record["task"] for record in one] == [record["task"] for record in two]
    for a, b in zip(one, two, strict=True):
        assert a | {"metrics": None} == b | {"metrics": None}
        assert a["metrics"] == pytest.approx(b["metrics"], rel=1e-5)
    several_tasks = {"zeroshot_retrieval", "image_text_matching", "image_captioning"}
    questions_alone = {"visual_question_answering"}
    assert {record["task"] for record in one} == (several_tasks if method == "tiny-qformer" else questions_alone)
