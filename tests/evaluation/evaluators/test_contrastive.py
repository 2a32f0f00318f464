"""The evaluation suite over fake sources with a fake embedder whose answers are known."""

import dataclasses
import json
import threading
import time

import numpy as np
import pytest

from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.errors import UserError
from mmjax.evaluation import example_selection, metric_columns, results
from mmjax.evaluation.embedding import sharded_examples
from mmjax.evaluation.evaluators.retrieval import embed_unique, evaluate_retrieval
from mmjax.evaluation.evaluators.zero_shot import evaluate_zero_shot, prompts, zero_shot_weights
from mmjax.parallel import process_agreement
from tests.helpers.evaluated_sources import evaluate_embeddings

COLOURS = ["red", "green", "blue", "gray", "black", "white"]


@dataclasses.dataclass
class Example:
    image: np.ndarray
    captions: list
    label: int | None
    id: int
    labels: list | None = None

    @property
    def inputs(self):
        return {"image": self.image}

    @property
    def seen(self):
        return self.image


def record(picture, captions, label, number):
    made = {"image": picture, "captions": captions, "id": number}
    return made if label is None else made | {"label": label}


def decode(source):
    for i in range(len(source)):
        fields = [source[i].get(key) for key in ("image", "captions", "label", "id", "labels")]
        yield Example(*fields)


class Source(list):
    def __init__(self, name, records, class_names=None, templates=None):
        super().__init__(records)
        self.name, self.class_names, self.templates = name, class_names, templates


class Images:
    """Decodes the fake sources, and notes the ids of what was read."""

    def __init__(self):
        self.read = []

    def __call__(self, source):
        for example in decode(source):
            self.read.append(example.id)
            yield example


class Embedder:
    """An image holds the number of a word in its first pixel; a text is the word it ends with."""

    def __init__(self, words, confuse=()):
        self.words, self.confuse, self.text_calls, self.loss_calls = words, dict(confuse), [], []

    def one_hot(self, words):
        return np.eye(len(self.words), dtype=np.float32)[words]

    def images(self, images):
        codes = [int(image[0, 0, 0]) for image in images]
        return self.one_hot([self.confuse.get(code, code) for code in codes])

    def texts(self, texts):
        self.text_calls.append(list(texts))
        return self.one_hot([self.words.index(text.split()[-1]) for text in texts])

    def loss(self, images, texts, ids):
        self.loss_calls.append((images, texts, ids))
        return 0.25


def image(code, size=(8, 8)):
    return np.full((*size, 3), code, np.uint8)


def colours(count=30):
    records = [record(image(i % 6), [f"it is {COLOURS[i % 6]}"], i % 6, i % 6) for i in range(count)]
    return Source("colours/test", records, COLOURS, ["a {c}", "the {x} {c}"])


def numbers(count=20):
    records = [record(image(i, (200, 100)), [f"number {i}", f"it is {i}"], None, 2**63 + i) for i in range(count)]
    return Source("numbers", records)


def test_classification_and_retrieval_together():
    embedder, examples = Embedder([*COLOURS, *map(str, range(20))], confuse={0: 1}), Images()
    # The embedder's words are colours first: numbers are shifted behind them.
    shifted = numbers()
    for record in shifted:
        record["image"] = record["image"] + np.uint8(6)
    first, second = evaluate_embeddings([colours(), shifted], embedder, examples=examples)
    assert (first.dataset, first.task, first.n) == ("colours/test", "zeroshot_classification", 30)
    rates = {"acc1": 25 / 30, "acc5": 1.0, "mean_per_class_recall": 5 / 6, "macro_f1": (0 + 2 / 3 + 4) / 6}
    assert first.metrics == pytest.approx(rates | {"loss": 0.25})
    assert (second.dataset, second.task, second.n) == ("numbers", "zeroshot_retrieval", 20)
    assert second.metrics["image_retrieval_recall@1"] == second.metrics["text_retrieval_recall@1"] == 1.0
    assert first.artifacts is None and second.artifacts is None
    assert len(examples.read) == 50  # each image once

    # The held-out loss pairs every image with its first caption, and gets the ids.
    images, texts, ids = embedder.loss_calls[1]
    np.testing.assert_array_equal(images, texts)
    np.testing.assert_array_equal(ids, np.arange(20, dtype=np.uint64) + np.uint64(2**63))
    assert embedder.loss_calls[0][1].shape == (30, 26)


def test_a_loss_without_value_is_left_out():
    embedder = Embedder(COLOURS)
    embedder.loss = lambda *_: None
    assert "loss" not in evaluate_embeddings([colours()], embedder, examples=Images())[0].metrics


def test_artifacts_show_what_the_metrics_say():
    embedder, examples = Embedder(COLOURS, confuse={0: 1}), Images()
    (evaluation,) = evaluate_embeddings([colours()], embedder, examples=examples, keep_artifacts=True)
    artifacts = evaluation.artifacts
    assert artifacts.class_names == COLOURS
    assert artifacts.confusion.sum() == 30 and artifacts.confusion[0, 1] == 5 and np.trace(artifacts.confusion) == 25
    assert len(artifacts.images) == 12 and len(artifacts.captions) == 6
    # The five failures come first, and then seven of the others.
    assert [shown.nearest[0].right for shown in artifacts.images] == [False] * 5 + [True] * 7
    assert [shown.nearest[0].right for shown in artifacts.captions] == [False] * 1 + [True] * 5
    for shown in artifacts.images:
        colour = COLOURS[shown.image[0, 0, 0]]
        assert shown.captions == [f"it is {colour}"]
        assert [match.item for match in shown.nearest if match.right] in ([colour], [])
        assert shown.nearest[0].right == (colour != "red") and shown.nearest[0].score == 1.0
    for shown in artifacts.captions:
        assert len(shown.nearest) == 5
        for match in shown.nearest:
            assert match.right == (COLOURS[match.item[0, 0, 0]] == shown.caption)
    # The few shown are read again; the rest is not.
    assert 30 + 12 <= len(examples.read) < 60


def test_retrieval_artifacts_have_small_thumbnails_and_honour_ids():
    source = Source("pairs", [record(image(i // 2, (200, 100)), [f"it is {i // 2}"], None, i // 2) for i in range(30)])
    embedder = Embedder([str(i) for i in range(15)])
    (evaluation,) = evaluate_embeddings([source], embedder, examples=Images(), keep_artifacts=True)
    assert evaluation.metrics["image_retrieval_recall@1"] == evaluation.metrics["text_retrieval_recall@1"] == 1.0
    assert all(shown.nearest[0].right for shown in evaluation.artifacts.images)
    for shown in evaluation.artifacts.captions:
        assert [match.right for match in shown.nearest] == [True, True, False, False, False]
    assert evaluation.artifacts.images[0].image.shape == (160, 80, 3)
    assert evaluation.artifacts.confusion is None
    # Each different caption was embedded once.
    assert embedder.text_calls == [[f"it is {i}" for i in range(15)]]


def test_the_shown_examples_are_seeded_and_spread():
    picked = example_selection.stratified_sample(1200, 12, seed=3)
    np.testing.assert_array_equal(picked // 100, np.arange(12))
    np.testing.assert_array_equal(picked, example_selection.stratified_sample(1200, 12, seed=3))
    assert (picked != example_selection.stratified_sample(1200, 12, seed=4)).any()
    np.testing.assert_array_equal(example_selection.stratified_sample(5, 12, seed=0), np.arange(5))


def test_no_example_may_be_left_out():
    def examples(source):
        return (example for example in decode(source) if example.id % 3)

    with pytest.raises(ValueError, match="30 records gave 20 examples"):
        evaluate_embeddings([colours()], Embedder(COLOURS), examples=examples)


def test_with_the_real_examples():
    source = Source("pairs", [record(image(i), [f"it is {i}"], None, i) for i in range(40)])
    embedder = Embedder([str(i) for i in range(40)])
    (evaluation,) = evaluate_embeddings(
        [source], embedder, examples=lambda source: EvalExamples(source, ImageSpec(size=8)), keep_artifacts=True
    )
    assert evaluation.n == 40 and evaluation.metrics["text_retrieval_recall@1"] == 1.0
    for shown in evaluation.artifacts.images:
        assert shown.captions == [f"it is {shown.image[0, 0, 0]}"]


def test_images_are_streamed():
    alive, most = set(), 0

    class Tracked(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def examples(source):
        nonlocal most
        for example in decode(source):
            picture = example.image.copy().view(Tracked)
            alive.add(id(picture))
            most = max(most, len(alive))
            yield dataclasses.replace(example, image=picture)
            del picture

    evaluate_embeddings([colours(60)], Embedder(COLOURS), examples=examples)
    assert most <= 3


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (Source("void", []), UserError, "'void' has no examples"),
        (Source("bare", [record(image(0), ["it is red"], 0, 0)], COLOURS, None), UserError, "prompt templates"),
        (Source("bad", [record(image(0), ["it is red"], 0, 0)], COLOURS, ["a colour"]), UserError, "has no {c}"),
        (Source("half", [record(image(0), ["it is red"], None, 0)], COLOURS, ["{c}"]), ValueError, "have no label"),
        (Source("mute", [record(image(0), [], None, 0)]), ValueError, "image 0 has no caption"),
    ],
)
def test_sources_that_cannot_be_evaluated(source, error, message):
    embedder = Embedder(COLOURS)
    embedder.images = lambda images: embedder.one_hot([0 for _ in images])
    with pytest.raises(error, match=message):
        evaluate_embeddings([source], embedder, examples=Images())


def test_zero_shot_weights_normalise_average_and_normalise():
    vectors = {"a x": [3.0, 0.0], "b x": [0.0, 0.5], "a y{}": [0.0, 2.0], "b y{}": [0.0, 7.0]}
    weights = zero_shot_weights(
        lambda texts: np.array([vectors[t] for t in texts], np.float32), ["x", "y{}"], ["a {c}", "b {c}"]
    )
    np.testing.assert_allclose(weights, [[2**-0.5, 2**-0.5], [0, 1]], rtol=1e-6)
    assert weights.dtype == np.float32
    assert prompts("cat", ["a {c}, the {c} {d}"]) == ["a cat, the cat {d}"]


def test_zero_shot_of_a_constant_encoder_is_chance():
    result = evaluate_zero_shot(
        np.ones((20, 4), np.float32) / 2,
        np.arange(20) % 10,
        embed_texts=lambda texts: np.ones((len(texts), 4), np.float32),
        class_names=[str(i) for i in range(10)],
        templates=["{c}"],
    )
    f1 = pytest.approx(2 * 0.1 / 1.1 / 10)  # the precision of one class
    assert result.metrics == {"acc1": 0.1, "acc5": 0.5, "mean_per_class_recall": 0.1, "macro_f1": f1}
    np.testing.assert_array_equal(result.predictions, 0)


def test_equal_texts_are_embedded_once():
    calls = []

    def embed(texts):
        calls.append(texts)
        return np.array([[len(text), 1] for text in texts], np.float32)

    texts, embeddings, index = embed_unique(embed, ["bb", "a", "bb", "ccc"])
    assert calls == [["bb", "a", "ccc"]] and texts == ["bb", "a", "ccc"]
    np.testing.assert_array_equal(embeddings[index, 0], [2, 1, 2, 3])
    # A caption that two images share is twice in the gallery: the second image's copy comes second.
    result = evaluate_retrieval(np.eye(2, dtype=np.float32), [["bb"], ["bb"]], embed_texts=embed)
    assert result.metrics["text_retrieval_mean_rank"] == 1.5


def test_a_process_of_several_reads_its_rows_by_threads_and_past_a_batch(monkeypatch):
    """Two processes of a batch of four: this one embeds rows 1 and 2, and the other tells of the rest."""
    source, threads = colours(10), set()
    plain = list(EvalExamples(source, ImageSpec(size=8)))
    read = type(source).__getitem__

    def noting(self, index):
        threads.add((threading.current_thread().name, index))
        return read(self, index)

    def exchange(annotations):
        indices = {index for index, *_ in annotations}
        start = min(indices) // 4 * 4
        others = [
            [i, example.captions, example.label, example.id, example.labels]
            for i, example in enumerate(plain)
            if start <= i < start + 4 and i not in indices
        ]
        return [annotations, others]

    monkeypatch.setattr(type(source), "__getitem__", noting)
    monkeypatch.setattr(process_agreement, "all_gather_objects", exchange)
    shared = sharded_examples.ShardedExamples(source, ImageSpec(size=8), 4, np.array([1, 2]))
    examples = []
    for example in shared:
        examples.append(example)
        if len(examples) == 1:
            # The next batch is read while nobody has asked for it.
            deadline = time.monotonic() + 60
            while not {index for _, index in threads} > {1, 2} and time.monotonic() < deadline:
                time.sleep(0.001)
            first = {index for _, index in threads}
    assert {index for _, index in threads} == {1, 2, 5, 6, 9} and first > {1, 2}
    assert threading.main_thread().name not in {name for name, _ in threads}
    for index, (mine, expected) in enumerate(zip(examples, plain, strict=True)):
        assert mine[1:] == expected[1:]
        np.testing.assert_array_equal(mine.image, expected.image if index % 4 in (1, 2) else np.zeros((8, 8, 3)))


def test_records_and_table():
    metrics = {"acc1": np.float64(0.5), "acc5": 1.0, "mean_per_class_recall": 0.25, "loss": 1.5}
    recalls = {f"{side}_retrieval_recall@{k}": 0.125 for side in ("image", "text") for k in (1, 5, 10)}
    evaluations = [
        results.Evaluation("digits/test", results.CLASSIFICATION, 10, metrics),
        results.Evaluation("shapes/test", results.RETRIEVAL, 10, recalls | {"odd": 3.0}),
    ]
    records = results.to_records(evaluations, model="tiny", pretrained="step_7")
    assert json.loads(json.dumps(records))[0] == {
        "dataset": "digits/test",
        "model": "tiny",
        "pretrained": "step_7",
        "task": "zeroshot_classification",
        "metrics": {"acc1": 0.5, "acc5": 1.0, "mean_per_class_recall": 0.25, "loss": 1.5},
        "language": "en",
    }
    table = metric_columns.format_table(records)
    assert (
        "tiny  step_7" in table
        and "50.00%" in table
        and "12.50%" in table
        and "text to image" in table
        and "odd" in table
    )
    assert max(map(len, table.splitlines())) <= 120 and table.isascii()
    assert metric_columns.format_table([]) == ""
    two = records + [records[0] | {"model": "big"}]
    assert "digits/test (big step_7)" in metric_columns.format_table(two)
