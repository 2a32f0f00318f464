"""Evaluations of captions, answers, matching and modalities, with models whose outputs are planted."""

import copy
import json
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmjax.config import parse
from mmjax.config.schema import base_config
from mmjax.data.config import DataConfig
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading import modality_transform
from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.data.sources.vqa import Vqa
from mmjax.data.text import make_tokenizer
from mmjax.errors import UserError
from mmjax.evaluation import evaluation_task, example_sampler, prompts
from mmjax.evaluation.embedding import batched_apply, sharded_examples
from mmjax.evaluation.evaluators import (
    captioning,
    image_text_matching,
    masked_modelling,
    multimodal_classification,
    question_answering,
)
from mmjax.metrics import meteor
from mmjax.models.generation import Decoding, Generated
from mmjax.objectives.token_loss import TokenLoss
from mmjax.parallel.make_mesh import make_mesh
from mmjax.tasks import load_objective
from mmjax.tasks.preprocessing import DatasetMetadata
from tests.helpers.evaluated_sources import array_specs, evaluated

SPEC = ImageSpec(size=8, mean=(0.5,) * 3, std=(0.5,) * 3)
TEXTS = ["a red circle", "a blue square", "a green cross", "a small red ring", "a white triangle"]
# More rows than a batch, and a last batch that is not full.
BATCH = 4


class Records:
    """Plain images of one brightness each, by which a model can tell them apart."""

    name, class_names, templates = "records", None, None

    def __init__(self, **more):
        self.more = more

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, index):
        image = np.full((8, 8, 3), 10 * index, np.uint8)
        record = {"image": image, "captions": [TEXTS[index]], "id": index // 2 if "shared" in self.more else index}
        return record | {name: values[index] for name, values in self.more.items() if name != "shared"}


@pytest.fixture(scope="module")
def runner():
    return batched_apply.BatchRunner(make_mesh(parse(base_config()).mesh, jax.devices()[:2]), BATCH)


@pytest.fixture(scope="module")
def words():
    return make_tokenizer.make_tokenizer("words:shapes", 8)


class Decoded(EvalExamples):
    """Notes which examples were decoded."""

    def __init__(self, source):
        super().__init__(source, SPEC)
        self.decoded = []

    def __getitem__(self, index):
        example = super().__getitem__(index)
        if example.image is not None:
            self.decoded.append(index)
        return example


def which(images):
    """The example's number, from its image."""
    return images[:, 0, 0, 0].astype(jnp.int32) // 10


def test_captions_are_scored_against_all_right_wordings(runner, words):
    generated = ["a red circle", "square a blue", "a green cross", "a ring", "a white triangle"]
    ids, _ = words(generated)
    references = [[text] for text in TEXTS]
    references[1] = ["a blue square", "square a blue"]

    class Task:
        seen = "image"

        def decoding(self, tokenizer):
            return Decoding(max_tokens=7, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id)

        def generate(self, params, images, prompt, mask, decoding, **more):
            assert prompt.shape == (BATCH, 1)
            return Generated(jnp.asarray(ids)[which(images), 1:], None, jnp.zeros(BATCH))

        def caption_loss(self, params, batch):
            return TokenLoss(jnp.full(BATCH, 4.0), batch["text_mask"].sum(axis=1) * 1.0, {})

    source = Records(references=references)
    result = captioning.CaptioningEvaluator(Task(), runner, words)(evaluated(source, SPEC, keep=True))
    assert result.n == 5 and result.metrics["exact_match"] == pytest.approx(4 / 5)
    tokens = sum(len(text.split()) + 2 for text in TEXTS)
    assert result.metrics["perplexity"] == pytest.approx(np.exp(20 / tokens))
    assert 0.6 < result.metrics["bleu_1"] < 1 and "meteor" not in result.metrics
    first = result.artifacts.images[0]  # failures come first
    assert first.captions == ["a small red ring"] and first.nearest[0].item == "a ring"
    assert {shown.captions[0]: shown.image[0, 0, 0] // 10 for shown in result.artifacts.images} == {
        texts[0]: index for index, texts in enumerate(references)
    }


def test_meteor_is_told_when_it_is_asked_for(runner, words, monkeypatch):
    ids, _ = words(TEXTS)
    calls = []

    class Task:
        seen = "image"
        decoding = lambda self, tokenizer: Decoding(max_tokens=7, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id)
        generate = lambda *args, **more: Generated(jnp.asarray(ids)[which(args[2]), 1:], None, jnp.zeros(BATCH))
        caption_loss = lambda self, params, batch: TokenLoss(jnp.ones(BATCH), jnp.ones(BATCH), {})

    monkeypatch.setattr(meteor, "check_available", lambda: None)
    monkeypatch.setattr(meteor, "meteor", lambda *args: (calls.append(args), (0.25, None))[1])
    source = Records()
    evaluator = captioning.CaptioningEvaluator(Task(), runner, words, meteor=True)
    result = evaluator(evaluated(source, SPEC))
    assert result.metrics["meteor"] == 0.25 and calls == [(TEXTS, [[text] for text in TEXTS])]
    # What it needs is asked for before anything is written.
    monkeypatch.setattr(meteor, "check_available", mock.Mock(side_effect=UserError("METEOR needs Java")))
    with pytest.raises(UserError, match="needs Java"):
        captioning.CaptioningEvaluator(Task(), runner, words, meteor=True)


def test_answers_are_chosen_by_the_largest_score(runner, words):
    names = ("yes", "no", "2", "red")
    truth = [["yes"] * 10, ["2"] * 10, ["red"] * 4 + ["no"] * 6, ["two"] * 10, ["no"] * 10]
    chosen = [0, 2, 3, 2, 0]  # the third is right by four people, the fourth by the rule that "two" is 2
    config = base_config("tiny-vilt")
    config.model.answers = 4

    class Task:
        answers = names

        def __init__(self):
            self.config = config

        def answer(self, params, images, text, mask):
            return 5.0 * jax.nn.one_hot(jnp.array(chosen)[which(images)], 4)

    source = Records(question=["is there a circle ?"] * 5, answers=truth)
    result = question_answering.AnswerClassificationEvaluator(Task(), runner, words)(evaluated(source, SPEC, keep=True))
    assert result.metrics["accuracy"] == pytest.approx(4 / 5)
    assert result.metrics["accuracy_yes/no"] == pytest.approx(2 / 3)  # the majority of the third says "no"
    assert result.artifacts.images[0].nearest[0].item == "yes"
    assert not result.artifacts.images[0].nearest[0].right


@pytest.mark.parametrize("layout, accuracy", [("json", 0.0), ("jsonl", 1.0)])
def test_only_answers_of_vqa_v2_are_scored_as_the_challenge_does(tmp_path, runner, words, layout, accuracy):
    """Ten people's "two dogs" is met by the answer "2 dogs", but not in VQA v2's files, where they agree."""
    Image.new("RGB", (8, 8)).save(tmp_path / "000000000009.jpg")
    question = {"question": "how many ?", "question_id": 1}
    if layout == "json":
        answers = [{"answer": answer} for answer in ["two dogs"] * 10]
        annotations = [{"question_id": 1, "answers": answers, "answer_type": "number"}]
        (tmp_path / "asked.json").write_text(json.dumps({"questions": [question | {"image_id": 9}]}))
        (tmp_path / "asked_annotations.json").write_text(json.dumps({"annotations": annotations}))
    else:
        record = question | {"image": "000000000009.jpg", "answers": ["two dogs"] * 10}
        (tmp_path / "asked.jsonl").write_text(json.dumps(record))
    source = Vqa(f"{tmp_path}/asked.{layout}")
    assert source.answer_names == ["2 dogs"] and source.name == "asked"

    class Task:
        answers = ("2 dogs", "red")
        config = types.SimpleNamespace(model=types.SimpleNamespace(answers=2))

        def answer(self, params, images, text, mask):
            return jnp.tile(jnp.array([1.0, 0.0]), (BATCH, 1))

    evaluator = question_answering.AnswerClassificationEvaluator(Task(), runner, words)
    for seen in (source, prompts.PromptedSource(source, prompts.Prompts("p", ("a",), ["{c}"]))):
        result = evaluator(evaluated(seen, SPEC))
        assert result.metrics["accuracy"] == accuracy


def test_written_answers(runner, words):
    ids, _ = words(["red", "blue", "blue", "circle", "yes"])

    class Task:
        config = types.SimpleNamespace(data=DataConfig())
        input_specs = SPEC

        def decoding(self, tokenizer):
            return Decoding(max_tokens=7, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id)

        def generate(self, params, images, prompt, mask, decoding, **more):
            return Generated(jnp.asarray(ids)[which(images), 1:], None, jnp.zeros(BATCH))

    source = Records(question=["what colour is it ?"] * 5, answers=[["red"], ["blue"], ["red"], ["circle"], ["no"]])
    result = question_answering.AnswerGenerationEvaluator(Task(), runner, words)(evaluated(source, SPEC))
    assert result.metrics["accuracy"] == pytest.approx(3 / 5) and result.artifacts is None


@pytest.mark.parametrize("embeds", [True, False])
def test_matching_meets_the_hardest_negatives_of_other_ids(runner, words, embeds):
    vectors = np.eye(6, dtype=np.float32)[:5] + 0.9 * np.eye(6, k=1, dtype=np.float32)[:5]
    _, seen = words(TEXTS), []

    class Task:
        config = types.SimpleNamespace(batch_size=8)

        def __init__(self):
            self.is_contrastive = embeds

        def embed_images(self, params, images):
            return jnp.asarray(vectors)[which(images)]

        def embed_text(self, params, text, mask):
            return jnp.asarray(vectors)[self.number(text)]

        @staticmethod
        def number(text):
            return jnp.argmax((text[:, None] == jnp.asarray(words(TEXTS)[0])).all(axis=2), axis=1)

        def match(self, params, images, text, mask):
            image, text = which(images), self.number(text)
            jax.debug.callback(lambda i, t: seen.extend(zip(i.tolist(), t.tolist(), strict=True)), image, text)
            return jnp.where(image == text, 1.0, jnp.where(image == 0, 1.0, -1.0))

    source = Records(shared=True)  # 0 and 1, 2 and 3 share an id
    examples = Decoded(source)
    params = {"logit_scale": np.float32(6.0)}  # so large that the most similar is drawn
    result = image_text_matching.ImageTextMatchingEvaluator(Task(), runner, words)(
        evaluated(source, SPEC, keep=True, params=params, decode=lambda source: examples)
    )
    jax.effects_barrier()
    assert len(examples.decoded) == (5 + 5 * 5 if embeds else 3 * 5) + len(result.artifacts.images)
    wrong = {(i, t) for i, t in seen if i != t}
    assert not wrong & {(0, 1), (1, 0), (2, 3), (3, 2)}
    if embeds:  # the nearest with another id
        similar = vectors @ vectors.T
        for i, t in wrong:
            others = [j for j in range(5) if j // 2 != i // 2]
            assert similar[i, t] == max(similar[i, others]) or similar[i, t] == max(
                similar[j, t] for j in range(5) if j // 2 != t // 2
            )
    name = "itm" if embeds else "itm_uniform"  # easier negatives have other names
    kinds = {"itm", "itm_hardest"} if embeds else {"itm_uniform"}
    assert {key.rpartition("_accuracy")[0] for key in result.metrics} == kinds | {f"{kind}_balanced" for kind in kinds}
    assert result.metrics[f"{name}_accuracy_match"] == 1.0
    assert 0 < result.metrics[f"{name}_accuracy_mismatch"] < 1  # the model falls for every text of image 0
    images = result.artifacts.images
    assert result.n == 5 and len(images) == 12 and not images[0].nearest[0].right
    for shown in images:  # the image is the pair's own
        is_match = (shown.image[0, 0, 0] // 10).item() == TEXTS.index(shown.captions[0])
        assert is_match == (shown.captions[1] == "belongs to the image")


def test_negatives_are_drawn_by_similarity_within_a_batch():
    rng = np.random.default_rng(3)
    vectors, ids = rng.standard_normal((6, 3)), np.array([0, 0, 1, 2, 3, 4], np.uint64)
    draws = np.stack(
        [image_text_matching.sample_negatives(vectors, vectors, ids, 0.7, 6, seed=seed) for seed in range(4000)]
    )
    assert not ((draws[:, 0] == 1) | (draws[:, 1] == 0)).any()
    odds = np.exp(0.7 * (vectors @ vectors.T)) * (ids[:, None] != ids)
    rates = np.stack([(draws == column).mean(axis=0) for column in range(6)], axis=1)
    np.testing.assert_allclose(rates, odds / odds.sum(axis=1, keepdims=True), atol=0.04)
    order = np.random.default_rng(0).permutation(6)
    halves = image_text_matching.sample_negatives(vectors, vectors, ids, 0.7, 3, seed=0)
    for batch in (order[:3], order[3:]):  # a batch's negatives are its own
        assert set(halves[batch].tolist()) <= {*batch.tolist(), -1}


def test_hardest_has_no_answer_where_all_share_an_id():
    ids = np.zeros(3, np.uint64)
    assert image_text_matching.hardest_negatives(np.eye(3), np.eye(3), ids).tolist() == [-1, -1, -1]


def test_negatives_drawn_for_texts_are_others_than_those_for_images():
    ids = np.arange(40, dtype=np.uint64)
    texts, images = (image_text_matching.uniform_negatives(ids, seed=seed) for seed in (0, 1))
    assert (texts != ids).all() and (images != ids).all() and (texts != images).mean() > 0.5


def test_a_process_decodes_the_rows_that_it_feeds(runner):
    indices = [4, 3, 3, 0, 1, 2]
    result, rows = {}, {"first": [0, 2], "second": [1, 3]}
    for name, local_rows in rows.items():
        examples = Decoded(Records())
        local_runner = copy.copy(runner)
        local_runner.rows = np.array(local_rows)
        result[name] = [
            image[0, 0, 0] // 10 for image in sharded_examples.sharded_inputs(examples, indices, local_runner)
        ]
        assert sorted(examples.decoded) == sorted(index for i, index in enumerate(indices) if i % BATCH in local_rows)
    assert result == {"first": [4, 0, 3, 0, 1, 0], "second": [0, 3, 0, 0, 0, 2]}

    class Broken(Decoded):
        def __getitem__(self, index):
            raise UserError("cannot be read")

    with pytest.raises(UserError, match="cannot be read"):
        list(sharded_examples.sharded_inputs(Broken(Records()), indices, runner))


def test_masked_words_count_over_the_whole_set(runner, words):
    class Task:
        seen = "image"
        objectives = {name: load_objective.load(name) for name in ("itc", "mlm", "mim")}

        def encode(self, params, batch, keys, only):
            assert keys is None and only == ["mlm", "mim"]
            count = 1.0 + batch["id"][:, 0]
            return {}, {"mlm": TokenLoss(2.0 * count, count, {"mlm_accuracy": count / 2})}

    source = Records()
    result = masked_modelling.MaskedModellingEvaluator(Task(), runner, words)(evaluated(source, SPEC))
    assert result.metrics == {"mlm_loss": pytest.approx(2.0), "mlm_accuracy": pytest.approx(0.5)}


class OfThreeClasses:
    class_names = ("0", "1", "2")
    dataset_metadata = DatasetMetadata(class_names=class_names)


def labelled(modalities, labels):
    source = Records(modalities=modalities, label=labels)
    source.class_names = ["0", "1", "2"]
    return source


def test_modalities_are_taken_away_one_by_one(runner):
    """The model knows the label from either of two modalities, but for one example, whose first is wrong."""
    labels = [0, 1, 2, 1, 0]
    specs = array_specs({"a": (1,), "b": (1,), "c": (1,)})
    value = lambda label: np.array([label], np.float32)
    modalities = [
        {"a": value(2 - label if i == 0 else label), "b": value(label), "c": None} for i, label in enumerate(labels)
    ]

    class Task(OfThreeClasses):
        example_transform = modality_transform.ModalityTransform(specs)

        def classify(self, params, batch, present):
            values = jnp.stack([batch[name][:, 0] for name in specs.names], axis=1)
            known = jnp.where(present, values, -1.0)
            best = jnp.where(present[:, 1], known[:, 1], jnp.where(present[:, 0], known[:, 0], 0.0))
            return jax.nn.one_hot(best.astype(jnp.int32), 3)

    data = evaluated(labelled(modalities, labels), Task.example_transform.inputs)
    result = multimodal_classification.MultimodalClassificationEvaluator(Task(), runner)(data)
    assert result.metrics["acc1"] == 1.0 and result.metrics["acc1_without_b"] == pytest.approx(4 / 5)
    assert result.metrics["acc1_without_a"] == result.metrics["acc1_only_b"] == 1.0
    assert result.metrics["acc1_only_a"] == pytest.approx(4 / 5)
    assert "acc1_only_c" not in result.metrics  # no example has it
    assert result.metrics["auroc"] == result.metrics["macro_f1"] == result.metrics["mean_average_precision"] == 1.0


def test_one_modality_is_not_taken_away(runner):
    class Task(OfThreeClasses):
        example_transform = modality_transform.ModalityTransform(array_specs({"a": (1,)}))
        classify = lambda self, params, batch, present: jax.nn.one_hot(batch["a"][:, 0].astype(jnp.int32), 3)

    labels = [0, 1, 2, 1, 0]
    source = labelled([{"a": np.array([label], np.float32)} for label in labels], labels)
    data = evaluated(source, Task.example_transform.inputs)
    result = multimodal_classification.MultimodalClassificationEvaluator(Task(), runner)(data)
    assert {name for name in result.metrics if name.startswith("acc1")} == {"acc1"}
    assert result.artifacts.confusion.tolist() == np.diag([2, 2, 1]).tolist()
    # Labels are the model's by the names of their classes.
    source.class_names = ["2", "0", "1"]
    part = multimodal_classification.MultimodalClassificationEvaluator(Task(), runner)
    assert part(data).metrics["acc1"] == 0.0
    source.more["modalities"] = [{"a": np.array([(2, 0, 1)[label]], np.float32)} for label in labels]
    assert part(data).metrics["acc1"] == 1.0


def test_what_is_shown_is_a_fair_sample_with_failures_first():
    collected = example_sampler.ExampleSampler(True, "things")
    for i in range(300):
        collected.add(i, [str(i)], [("x", 0.0, i % 3 > 0)])
    indices_read = []

    class Examples:
        def read(self, indices):
            indices_read.extend(indices)
            return (
                types.SimpleNamespace(inputs={"image": np.full((200, 400, 3), index % 256, np.uint8)})
                for index in indices
            )

    artifacts = collected.artifacts(Examples())
    assert [shown.captions[0] for shown in artifacts.images] == list(map(str, indices_read))
    assert all(shown.image[0, 0, 0] == int(shown.captions[0]) % 256 for shown in artifacts.images)
    right = [shown.nearest[0].right for shown in artifacts.images]
    assert len(right) == 12 and right == sorted(right) and sum(right) == 4
    assert max(int(shown.captions[0]) for shown in artifacts.images) > 100
    assert artifacts.images[0].image.shape == (80, 160, 3)
    assert example_sampler.ExampleSampler(False, "").artifacts(Examples()) is None


def test_what_a_record_lacks_is_told():
    lacks = evaluation_task.load("image_text_matching").missing_fields
    assert lacks({"image": None, "captions": []}) == "image with captions"
    assert lacks(Records()[0]) == ""


def test_a_batch_larger_than_any():
    """It would be filled up to its size, whatever the data: never a hang."""
    mesh = make_mesh(parse(base_config()).mesh, jax.devices()[:2])
    assert batched_apply.BatchRunner(mesh, 32_768).batch_size == 32_768
    with pytest.raises(UserError, match=r"^eval.batch_size=1,000,000,000,000 is more than 32,768, 16,384 rows each"):
        batched_apply.BatchRunner(mesh, 10**12)
