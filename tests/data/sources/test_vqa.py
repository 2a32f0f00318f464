import json
import pickle

import numpy as np
import pytest

from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.data.loading.question_transforms import QuestionTransform
from mmjax.data.mixture import open_source
from mmjax.data.source_protocols import Source
from mmjax.data.sources.vqa import Vqa
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import UserError
from tests.helpers.media import make_video
from tests.helpers.source_checks import png, train_examples

QUESTIONS = "v2_OpenEnded_mscoco_train2014_questions.json"
ANNOTATIONS = "v2_mscoco_train2014_annotations.json"
TEN = ["Net"] * 6 + ["netting"] * 3 + [" "]


def official(folder, images="train2014", name="COCO_train2014_{:012d}.jpg"):
    """Two questions about image 9 and one about image 25, in VQA v2's layout."""
    (folder / images).mkdir(parents=True, exist_ok=True)
    for number in (9, 25):
        (folder / images / name.format(number)).write_bytes(png(number))
    questions = [
        {"image_id": image, "question": text, "question_id": number}
        for number, image, text in [(90, 9, "What is this?"), (250, 25, "How many?"), (91, 9, "Is it?")]
    ]
    answers = {90: ("other", TEN), 250: ("number", ["2"] * 10), 91: ("yes/no", ["yes"] * 5 + ["no"] * 5)}
    annotations = [
        {
            "question_id": number,
            "answer_type": kind,
            "question_type": "none of the above",
            "answers": [
                {"answer": answer, "answer_confidence": "yes", "answer_id": i} for i, answer in enumerate(texts)
            ],
        }
        for number, (kind, texts) in reversed(answers.items())  # in an order of their own
    ]
    (folder / QUESTIONS).write_text(json.dumps({"data_subtype": "train2014", "questions": questions}))
    (folder / ANNOTATIONS).write_text(json.dumps({"annotations": annotations}))
    return folder


def lines(folder, *rows, name="a.jsonl"):
    (folder / "0.png").write_bytes(png(7))
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return f"{folder}/{name}"


def check_official(source):
    assert isinstance(source, Source) and len(source) == 3
    first, second, third = (source[i] for i in range(3))
    assert [r["image"] for r in (first, second, third)] == [png(9), png(25), png(9)]
    assert first["question"] == "What is this?" and first["answers"] == TEN  # the blank one is a person's, too
    assert [r["question_id"] for r in (first, second, third)] == [90, 250, 91]
    assert [r["answer_type"] for r in (first, second, third)] == ["other", "number", "yes/no"]
    assert first["question_type"] == "none of the above" and first["id"] == third["id"] != second["id"]
    assert source.answer_names == ["2", "net", "yes"]


@pytest.mark.parametrize(
    ("images", "name", "option"),
    [
        ("train2014", "COCO_train2014_{:012d}.jpg", ""),
        ("images", "{:012d}.jpg", ""),
        ("far/away", "COCO_train2014_{:012d}.jpg", ",images={}/far/away"),
        ("far/train2014", "COCO_train2014_{:012d}.jpg", ",images={}/far"),
        ("", "COCO_train2014_{:012d}.jpg", ",annotations={}/" + ANNOTATIONS),
    ],
)
def test_vqa_v2_is_read_as_it_is_published(tmp_path, images, name, option):
    folder = official(tmp_path, images, name)
    source = open_source(f"vqa:{folder / QUESTIONS}{option.format(folder)}")
    check_official(source)
    check_official(pickle.loads(pickle.dumps(source)))
    assert source.name == "v2_mscoco_train2014"


def test_questions_become_training_and_evaluation_examples(tmp_path):
    source = Vqa(str(official(tmp_path) / QUESTIONS))
    tokenizer, spec = make_tokenizer("bytes", 20), ImageSpec(size=4)
    examples = train_examples(source, transform=QuestionTransform(spec, tokenizer, tuple(source.answer_names)))
    scores = {tokenizer.decode(e["text"]): e["answer"].tolist() for e in (examples[i] for i in range(3))}
    assert scores["How many?"] == [1, 0, 0] and np.allclose(scores["Is it?"], [0, 0, 1])
    evaluated = EvalExamples(source, spec)[2]
    assert evaluated.extras["question"] == "Is it?" and evaluated.extras["answer_type"] == "yes/no"
    assert evaluated.image.shape == (4, 4, 3) and evaluated.captions == []


def test_json_lines_have_one_answer_or_many(tmp_path):
    path = lines(
        tmp_path,
        {"image": "0.png", "question": "How many?", "answer": 2},
        {"image": "0.png", "question": "What?", "answer": ["a cat", "cat"], "question_id": 77, "answer_type": "animal"},
        {"image": "0.png", "question": "Is it?", "answers": "Yes"},  # either name, line by line
    )
    source = open_source(f"vqa:{path}")
    records = [source[i] for i in range(3)]
    assert [r["answers"] for r in records] == [["2"] * 10, ["a cat", "cat"], ["Yes"] * 10]
    assert [r["answer_type"] for r in records] == ["number", "animal", "yes/no"]
    assert [r["question_id"] for r in records] == [1, 77, 3] and "question_type" not in records[0]
    assert source.answer_names == ["2", "cat", "yes"] and source.name == "a"
    assert all(r["image"] == png(7) and r["path"] == f"{tmp_path}/0.png" for r in records)


GOOD = {"image": "0.png", "question": "Is it?", "answers": ["yes"] * 10}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**GOOD, "image": "1.png"}], "its first image, '1.png', is not in"),
        ([GOOD, {**GOOD, "answers": []}], "line 2 has a blank answer, or none"),
        ([{**GOOD, "answers": " "}], "line 1 has a blank answer"),
        ([{**GOOD, "question": ""}], "line 1 has a blank question"),
        ([GOOD, {**GOOD, "question": 3}], "line 2 has no question"),
        ([GOOD, {"question": "?", "answers": "a"}], "line 2 names no image"),
        ([{"image": "0.png", "questoin": "?", "answers": "a"}], "no line has 'question' .did you mean 'questoin'"),
        ([{"image": "0.png", "question": "?"}], "no line has 'answers'"),
        ([{**GOOD, "question_id": "x"}], "line 1: question_id 'x' is no integer"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, rows, message):
    with pytest.raises(UserError, match=f"data.train='vqa:.*{message}") as caught:
        open_source(f"vqa:{lines(tmp_path, *rows)}")
    assert "\n" not in str(caught.value)


def change_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (QUESTIONS, lambda c: c.pop("questions"), "has no list 'questions'"),
        (QUESTIONS, lambda c: c["questions"][1].pop("image_id"), "question 1 of .* lacks 'image_id'"),
        (QUESTIONS, lambda c: c["questions"][1].update(question_id=7), "question 7 has no answers in .*same split"),
        (QUESTIONS, lambda c: c["questions"][0].update(image_id=8), "'COCO_train2014_000000000008.jpg', is not in"),
        (QUESTIONS, lambda c: c["questions"][0].update(question=""), "question 90 has a blank question"),
        (QUESTIONS, lambda c: c["questions"][1].update(question=None), "question 1 of .* question=None"),
        (ANNOTATIONS, lambda c: c["annotations"][0]["answers"][0].update(answer=None), "annotation 0 .* answer=None"),
        (ANNOTATIONS, lambda c: c["annotations"][0].pop("answers"), "annotation 0 of .* lacks 'answers'"),
        (ANNOTATIONS, lambda c: c.update(annotations={}), "has no list 'annotations'"),
        (ANNOTATIONS, lambda c: c["annotations"][0].update(answers=[]), "question 91 has a blank answer, or none"),
    ],
)
def test_a_wrong_official_file_is_named(tmp_path, file, change, message):
    folder = official(tmp_path)
    change_json(folder / file, change)
    with pytest.raises(UserError, match=f"data.train='vqa:.*{message}") as caught:
        open_source(f"vqa:{folder / QUESTIONS}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vqa:{}/none.json", "there is no file .*none.json"),
        ("vqa:{}/none.jsonl", "cannot be read .no such file"),
        ("vqa:{}/a.txt", r"cannot be read; write vqa:FILE.json\["),
        ("vqa:{}/a.json,images=", r"cannot be read; write vqa:FILE.json\["),
        ("vqa:{}/a.jsonl,annotations=x.json", "JSON Lines have their answers beside"),
        ("vqa:{}/" + QUESTIONS + ",annotations={}/other.json", "there is no file .*other.json"),
        ("vqa:{}/" + QUESTIONS + ",images={}/elsewhere", "is not in .*elsewhere.*; give the folder that holds it"),
        ("vqa:", "names no data"),
    ],
)
def test_a_wrong_path_is_one_line(tmp_path, spec, message):
    official(tmp_path)
    with pytest.raises(UserError, match=f"data.train='vqa:.*{message}") as caught:
        open_source(spec.format(tmp_path, tmp_path))
    assert "\n" not in str(caught.value)


def test_questions_about_videos_of_a_json_array(tmp_path):
    """MSRVTT-QA's layout; a line's number stands for a `question_id`, and one answer for ten."""
    video = make_video("mpeg4.avi", rate=8)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "video7.avi").write_bytes(video)
    rows = [{"video_id": 7, "question": "who?", "answer": "man", "id": 3, "category_id": 1}]
    (tmp_path / "qa.json").write_text(json.dumps(rows))
    source = open_source(f"vqa:{tmp_path}/qa.json,images={tmp_path}/clips/video{{video_id}}.avi")
    record = source[0]
    assert isinstance(source, Source) and source.name == "qa" and not source.answers_normalized
    assert (record["question"], record["answers"], record["question_id"]) == ("who?", ["man"] * 10, 1)
    assert record["modalities"]["video"] == video and "image" not in record
    assert record["path"] == f"{tmp_path}/clips/video7.avi" and source.answer_names == ["man"]


@pytest.mark.parametrize(
    ("rows", "images", "message"),
    [
        (
            [{"video_id": 7, "question": "?", "answer": "a"}],
            "{0}/v{{video}}.mp4",
            "names {video}, and the table has 'video_",
        ),
        (
            [{"video_id": 7, "question": "?", "answer": "a"}],
            "{0}/v{{video_id}}.mp4",
            "its first image, 'v7.mp4', is not in",
        ),
        ([{"video_id": None, "question": "?", "answer": "a"}], "{0}/v{{video_id}}.mp4", "line 1 names no image"),
        ([{"video": "a.mp4", "question": "?", "answr": "a"}], "{0}", "no line has 'answers'"),
    ],
)
def test_what_a_json_array_lacks_is_one_line(rows, images, message, tmp_path):
    (tmp_path / "qa.json").write_text(json.dumps(rows))
    with pytest.raises(UserError) as caught:
        open_source(f"vqa:{tmp_path}/qa.json,images={images.format(tmp_path)}")
    assert message in str(caught.value) and "\n" not in str(caught.value)
