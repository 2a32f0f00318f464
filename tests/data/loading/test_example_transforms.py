import pickle

import numpy as np
import pytest

from mmjax.data.bad_example import REASONS, BadExample
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.data.loading.example_transforms import ExampleTransform, PairTransform, id_words
from mmjax.data.loading.modality_transform import ModalityTransform
from mmjax.data.loading.question_transforms import AnswerTransform, QuestionTransform
from mmjax.data.loading.train_examples import TrainExamples
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import UserError
from mmjax.metrics.vqa_answers import (
    answer_index,
    answer_key,
    answer_type,
    common_answers,
    main_answer,
    read_answers,
    soft_scores,
)
from tests.helpers.evaluated_sources import array_specs

SPEC = ImageSpec(size=8)
WORDS = make_tokenizer("words:shapes", 10)
IMAGE = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
ASKED = {
    "image": IMAGE,
    "id": 5 + (9 << 32),
    "question": "what colour is the ring?",
    "answers": ["red"] * 8 + ["Pink."] * 2,
}
SENSED = {"id": 3, "label": 2, "modalities": {"b": np.ones((2, 3)), "a": None}}


def rng(seed=0):
    return np.random.default_rng(seed)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def kinds(arrays):
    return {name: (array.dtype.name, array.shape) for name, array in arrays.items()}


PREPARERS = {
    "pair": (PairTransform(SPEC, WORDS), {**ASKED, "captions": ["a red ring", "a ring"]}),
    "question": (QuestionTransform(SPEC, WORDS, ("blue", "pink", "red")), ASKED),
    "answer": (AnswerTransform(SPEC, WORDS), ASKED),
    "modality": (ModalityTransform(array_specs({"a": (4,), "b": (2, 3)})), SENSED),
}


@pytest.mark.parametrize("name", PREPARERS)
def test_a_transform_is_picklable_and_a_pure_function_of_record_and_generator(name):
    prepare, record = PREPARERS[name]
    copy = pickle.loads(pickle.dumps(prepare))
    assert isinstance(prepare, ExampleTransform)
    for seed in range(20):
        made = prepare(record, rng(seed))
        assert same(made, copy(record, rng(seed))) and made["id"].tolist() == id_words(record["id"]).tolist()
        assert kinds(made) == kinds(prepare(record, rng(0)))
        if "text" in made:
            texts = {name: made[name] for name in ("text", "text_mask")}
            assert same(prepare.text_arrays(record, rng(seed)), texts)


def test_the_two_words_of_an_id():
    assert id_words(2**64 - 2).tolist() == [2**32 - 2, 2**32 - 1]
    assert id_words(5 + (9 << 32)).tolist() == [5, 9] and id_words(5).dtype == np.uint32


def test_a_question_has_a_score_for_each_answer():
    example = QuestionTransform(SPEC, WORDS, ("blue", "pink", "red"))(ASKED, rng())
    assert kinds(example) == {
        "image": ("uint8", (8, 8, 3)),
        "text": ("int32", (10,)),
        "text_mask": ("bool", (10,)),
        "answer": ("float32", (3,)),
        "id": ("uint32", (2,)),
    }
    assert WORDS.decode(example["text"]) == "what colour is the ring"
    np.testing.assert_allclose(example["answer"], [0, 0.6, 1])


def official(answers, candidate):
    """VQA v2's rule, person by person."""
    scores = []
    for left_out in range(len(answers)):
        others = answers[:left_out] + answers[left_out + 1 :]
        scores.append(min(1, sum(other == candidate for other in others) / 3))
    return sum(scores) / len(scores)


def test_soft_scores_are_vqa_v2_s():
    indices = {"p": 0, "q": 1, "r": 2}
    for seed in range(50):
        answers = rng(seed).choice(["p", "q", "other"], size=10).tolist()
        expected = [official(answers, name) for name in indices]
        np.testing.assert_allclose(soft_scores(answers, indices), expected, atol=1e-6)
    # Spellings count together, which ViLT counts apart; docs/evaluation.md says so.
    assert soft_scores(["two"] * 3 + ["2"] + ["red"] * 6, answer_index(["2", "blue"])).tolist() == [1, 0]
    counted = [soft_scores(["p"] * n + ["x"] * (10 - n), indices)[0] for n in (0, 1, 2, 3, 4, 10)]
    np.testing.assert_allclose(counted, [0, 0.3, 0.6, 0.9, 1, 1], atol=1e-6)
    assert [answer_type([a]) for a in ("Yes", "no.", "3", "1,000", "2.5", "red", "three")] == [
        *["yes/no"] * 2,
        *["number"] * 3,
        *["other", "number"],
    ]
    assert common_answers(["b", "c", "a", "c", "b", "d"], 3) == ["a", "b", "c"]


def test_targets_and_lists_are_of_normalised_answers():
    indices = answer_index(("2", "T-shirt", "a dog", "A"))
    assert indices == {"2": 0, "t shirt": 1, "dog": 2, "a": 3}
    answers = ["two"] * 2 + ["2", "t shirt.", "T-shirt", "Dog", "The dog", "A", "cat", "cats"]
    np.testing.assert_allclose(soft_scores(answers, indices), [0.9, 0.6, 0.6, 0.3], atol=1e-6)
    assert main_answer(answers) == "2" and answer_key(" A  Dog. ") == "dog"
    assert not soft_scores(["cat"] * 10, indices).any()
    with pytest.raises(UserError, match="'two' and '2' are one answer"):
        answer_index(("two", "x", "2"))


def pieces(example, tokenizer):
    """The row's parts as text: before the targets, the targets."""
    text, mask, targets = example["text"], example["text_mask"], example["target_mask"]
    assert not (targets & ~mask).any() and (text[~mask] == tokenizer.pad_id).all()
    return text[mask & ~targets].tolist(), text[targets].tolist()


def test_an_answer_follows_its_question_and_is_the_target():
    prepare, seen = AnswerTransform(SPEC, WORDS), {}
    for seed in range(300):
        example = prepare(ASKED, rng(seed))
        before, after = pieces(example, WORDS)
        assert before == [1, *WORDS.words(ASKED["question"]), 5] and after[-1] == 2
        answer = WORDS.decode(after)
        seen[answer] = seen.get(answer, 0) + 1
    assert set(seen) == {"red", "pink"} and 200 < seen["red"] < 280  # 8 of 10 people
    ids, mask = prepare.prompt(ASKED["question"])
    assert ids[mask].tolist() == before and ids.shape == (10,)
    assert example["target_mask"].dtype == example["text_mask"].dtype == bool


@pytest.mark.parametrize(
    ("question", "answer"), [("red " * 30, "a ring"), ("is red", "red " * 30), ("a " * 30, "a " * 30)]
)
def test_a_long_question_is_cut_before_its_answer_is(question, answer):
    prepare = AnswerTransform(SPEC, WORDS)
    example = prepare({**ASKED, "question": question, "answers": [answer] * 10}, rng())
    before, after = pieces(example, WORDS)
    assert len(before) + len(after) <= 10 and after[-1] == 2 and before[0] == 1 and before[-1] == 5
    kept = WORDS.decode(after).split()
    assert kept == answer.split()[: len(kept)] and len(kept) == min(7, len(answer.split()))
    ids, mask = prepare.prompt(question)
    assert mask.sum() <= 9 and ids[mask][-1] == 5


def test_a_template_stands_around_a_question():
    """Of a question that is too long the words at its end are left out, and nothing of the template."""
    tokenizer = make_tokenizer("bytes", 40)
    prepare = AnswerTransform(SPEC, tokenizer, "USER: {question} ASSISTANT:")
    for question, kept in (("is it red?", "is it red?"), ("red " * 30, "red red red red"), ("r" * 50, "")):
        before, after = pieces(prepare({**ASKED, "question": question, "answers": ["red"]}, rng()), tokenizer)
        assert (
            bytes(before[1:]).decode() == f"USER: {kept} ASSISTANT:".replace("  ", " ") and bytes(after[:-1]) == b"red"
        )


def test_a_tokenizer_without_separator_or_beginning_leaves_them_out():
    tokenizer = make_tokenizer("bytes", 40)
    before, after = pieces(AnswerTransform(SPEC, tokenizer)({**ASKED, "answers": ["red"]}, rng()), tokenizer)
    assert (bytes(before[1:]), bytes(after[:-1])) == (b"what colour is the ring?", b"red")
    assert (before[0], after[-1]) == (257, 258)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answers": []}, "no_caption"),
        ({"answers": [" "]}, "no_caption"),
        ({"question": " "}, "no_caption"),
        ({"image": None}, "no_image"),
        ({"image": b"GIF89a", "path": "x.gif"}, "not_image"),
    ],
)
@pytest.mark.parametrize("name", ["question", "answer"])
def test_a_question_that_cannot_be_used_says_why(name, change, reason):
    with pytest.raises(BadExample, match=change.get("path")) as caught:
        PREPARERS[name][0]({**ASKED, **change}, rng())
    assert caught.value.reason == reason


def test_a_missing_modality_is_zeros_and_not_present():
    prepare = ModalityTransform(array_specs({"b": (2, 3), "c": (1,), "a": (4,)}))
    assert prepare.names == ("a", "b", "c")
    example = prepare(SENSED, rng())
    assert kinds(example) == {
        "a": ("float32", (4,)),
        "b": ("float32", (2, 3)),
        "c": ("float32", (1,)),
        "present": ("bool", (3,)),
        "label": ("int32", ()),
        "id": ("uint32", (2,)),
    }
    assert example["present"].tolist() == [False, True, False] and example["label"] == 2
    assert (example["b"] == 1).all() and not example["a"].any()
    assert hash(prepare) == hash(ModalityTransform(array_specs({"a": (4,), "b": (2, 3), "c": (1,)})))


def test_the_record_s_image_can_be_a_modality():
    prepare = ModalityTransform(array_specs({"a": (4,), "z": (1,)}, SPEC))
    assert prepare.names == ("a", "image", "z")
    record = {"id": 1, "label": 0, "modalities": {"z": np.zeros(1)}}
    missing, present = prepare(record, rng()), prepare({**record, "image": IMAGE}, rng())
    assert missing["present"].tolist() == [False, False, True] and not missing["image"].any()
    assert present["present"].tolist() == [False, True, True] and kinds(missing) == kinds(present)
    with pytest.raises(ValueError, match="'image'"):
        ModalityTransform(array_specs({"image": (2,)}, SPEC))
    with pytest.raises(ValueError, match="no modalities"):
        ModalityTransform(array_specs({}))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"id": 1}, "no label"),
        ({"id": 1, "label": 0, "modalities": {"a": np.zeros(5)}}, r"'a' has shape \(5,\), not \(4,\)"),
        (
            {"id": 1, "label": 0, "modalities": {"a": np.array([0, np.nan, 0, 0])}},
            "'a' holds a value that is not finite",
        ),
    ],
)
def test_modalities_that_cannot_be_used_say_why(record, message):
    with pytest.raises(BadExample, match=message):
        ModalityTransform(array_specs({"a": (4,)}))(record, rng())


def test_a_table_may_have_gaps():
    record = {"id": 1, "label": 0, "modalities": {"a": np.array([0, np.nan, 0, 2])}}
    prepare = ModalityTransform(array_specs({"a": (4,)}, nan_allowed=("a",)))
    table = prepare(record, rng())["a"]
    np.testing.assert_array_equal(table, np.float32([0, np.nan, 0, 2]))
    with pytest.raises(BadExample, match="not finite"):
        prepare({**record, "modalities": {"a": np.full(4, np.inf)}}, rng())


class Sensors:
    """Records without images; every fourth is broken."""

    name, class_names, templates = "fake", ["x", "y"], None

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if not 0 <= index < 8:
            raise IndexError(index)
        shape = (3,) if index % 4 == 3 else (4,)
        return {"id": index, "label": index % 2, "modalities": {"a": np.full(shape, index)}, "question": "which?"}


def test_examples_need_no_image_and_are_replaced_like_others():
    examples = TrainExamples([(Sensors(), 1)], seed=0, transform=ModalityTransform(array_specs({"a": (4,)})))
    epoch = [examples[position] for position in range(8)]
    assert sorted(REASONS[e["substitution_reason"]] for e in epoch) == ["ok"] * 6 + ["other"] * 2
    assert all((e["a"] == e["id"][0]).all() and e["label"] == e["id"][0] % 2 for e in epoch)


def test_evaluation_has_what_else_a_record_holds():
    first, *_ = EvalExamples(Sensors(), SPEC, threads=1)
    assert (first.image, first.captions, first.label, first.id) == (None, [], 0, 0)
    assert set(first.extras) == {"modalities", "question"} and first.extras["question"] == "which?"


def test_a_list_of_answers_is_read(tmp_path):
    path = tmp_path / "answers.txt"
    path.write_text("Yes\nno\n\n2 dogs.\n")
    assert read_answers(str(path)) == ("yes", "no", "2 dogs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read .no such file"),
        (b"yes\n", "1 answers leave nothing to choose from"),
        (b"yes\nno\n\nYES.\n", "line 4, 'yes', is line 1 again"),
        (b"caf\xe9", "not UTF-8 at byte 3"),
    ],
)
def test_a_wrong_list_of_answers_is_one_line(tmp_path, content, message):
    path = tmp_path / "answers.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"data.answers=.*{message}") as caught:
        read_answers(str(path))
    assert "\n" not in str(caught.value)
