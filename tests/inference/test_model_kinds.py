"""`mmjax.load` of captioners, of models that answer questions, and of fused modalities."""

import dataclasses
import functools
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmjax
from mmjax.cli import main
from mmjax.data.sources import questions, sensors, shapes
from mmjax.errors import UserError
from mmjax.evaluation.embedding import batched_apply
from mmjax.evaluation.evaluators import captioning, multimodal_classification, question_answering
from mmjax.metrics.classification import classification_metrics
from mmjax.metrics.vqa_accuracy import score_answers
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from tests.helpers import model_kinds, runs
from tests.helpers.evaluated_sources import evaluated

RECORDS = 6


def small(name, **changes):
    """A run of two steps, one layer deep."""
    more = dict(steps=2, batch_size=8, eval__batch_size=8, schedule__warmup=0, log__every=1, log__tensorboard=False)
    more |= dict(checkpoint__every=2, eval__every=0, data__eval="", optimizer__learning_rate=1e-2)
    config = model_kinds.config(name, **more, **changes)
    for part in config.model.values():
        if hasattr(part, "keys") and "scan" in part:
            part.depth, part.scan = 1, False
    return config


@pytest.fixture(scope="session")
def make(random_params):
    """Makes a workdir as a run leaves it, without the run: compiling a step takes long."""
    return functools.partial(model_kinds.save, random_params)


@pytest.fixture(scope="session")
def captioner(make, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("captioner")
    make(small("tiny-captioner", data__train="shapes"), workdir)
    return workdir


@pytest.fixture(scope="session")
def vqa(make, tmp_path_factory):
    config = small("tiny-vilt", data__train="questions", data__texts="questions")
    config.objectives.update(itm=0.0, mlm=0.0, vqa=1.0)
    config.model.update(match=False, mlm=False, answers=21)
    workdir = tmp_path_factory.mktemp("vqa")
    make(config, workdir)
    return workdir


@pytest.fixture(scope="session")
def fusion(make, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("fusion")
    make(small("fusion:concat", data__train="sensors"), workdir)
    return workdir


class Feeder(batched_apply.BatchRunner):
    """Remembers what the last run gave."""

    def run(self, *args):
        self.out = super().run(*args)
        return self.out


_loaded = {}


def loaded(workdir):
    """The model, and what feeds the evaluation it is compared with."""
    if workdir not in _loaded:
        _loaded[workdir] = mmjax.load(workdir)
    mesh = make_mesh(MeshConfig(data=1, fsdp=1, tensor=1), jax.devices()[:1])
    return _loaded[workdir], Feeder(mesh, 8)


class First:
    """The first records of a source."""

    class_names = templates = None

    def __init__(self, source):
        self.source, self.name = source, source.name

    def __len__(self):
        return RECORDS

    def __getitem__(self, index):
        if index >= RECORDS:
            raise IndexError
        return self.source[index]


class Turned(First):
    """The same records, the last one first."""

    def __getitem__(self, index):
        return self.source[len(self) - 1 - index]


def test_a_captioner_writes_what_its_evaluation_does(captioner):
    model, feeder = loaded(captioner)
    source = First(shapes.Shapes("test"))
    part = captioning.CaptioningEvaluator(model._task, feeder, model.tokenizer)
    part(evaluated(source, model.image_spec, params=model.params))
    pictures = [source[i]["image"] for i in range(RECORDS)]
    result = model.caption(pictures)
    assert result == [model.tokenizer.decode(row) for row in part.tokens.tolist()] and any(result)
    assert model.can == ("caption",) and model.tokenizer.spec == "words:shapes"


@pytest.mark.full
def test_what_an_evaluation_samples_follows_from_the_examples(captioner):
    model, feeder = loaded(captioner)
    source, task = First(shapes.Shapes("test")), model._task
    sampling = dataclasses.replace(task.config.decoding, method="sample")
    with mock.patch.object(task, "config", dataclasses.replace(task.config, decoding=sampling)):
        part = captioning.CaptioningEvaluator(task, feeder, model.tokenizer)
    tokens = []
    for variant in (source, source, Turned(source)):
        part(evaluated(variant, model.image_spec, params=model.params))
        tokens.append(part.tokens.tolist())
    assert tokens[0] == tokens[1] == tokens[2][::-1] and len({*map(tuple, tokens[0])}) > 1


@pytest.mark.full
def test_sampling_and_beams(captioner):
    model, _ = loaded(captioner)
    pictures = [shapes.Shapes("test")[i]["image"] for i in range(5)]
    sampled = model.caption(pictures, method="sample", seed=3)
    assert sampled == model.caption(pictures, method="sample", seed=3) != model.caption(pictures, method="sample")
    assert sampled[:2] == model.caption(pictures[:2], method="sample", seed=3)
    assert model.caption(pictures, method="beam", beams=1) == model.caption(pictures)
    # A prompt is read, and is no part of what is written.
    ids, mask = model.tokenizer(["a red circle"])
    decoding = dataclasses.replace(model._task.decoding(model.tokenizer), max_tokens=3)
    columns = model._to_pictures("", pictures[:1]), ids[:, :4], mask[:, :4]
    want = model._task.generate(model.params, *map(jnp.asarray, columns), decoding).tokens[0].tolist()
    assert model.caption(pictures[:1], "a red circle", max_tokens=3) == [model.tokenizer.decode(want)]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m, x: m.encode_image(x), "is not for model.kind='captioner' trained with caption; it can caption$"),
        (lambda m, x: m.zero_shot(x, ["a"]), "zero_shot is not for .* it can caption"),
        (lambda m, x: m.match(x, "a"), "match is not for"),
        (lambda m, x: m.classify({}), "classify is not for"),
        (lambda m, x: m.logit_scale, "compares no embeddings"),
        (lambda m, x: m.caption(x, beam=3), r"the argument='beam' is not known \(did you mean 'beams'\?\)"),
        (lambda m, x: m.caption(x, beams=3), "beams=3 is of method='beam', and the method is 'greedy'"),
        (lambda m, x: m.caption(x, method="sampel"), "did you mean 'sample'"),
        (lambda m, x: m.caption(x, max_tokens="5"), "max_tokens='5' is no int, such as 19"),
        (lambda m, x: m.caption(x, max_tokens=30), "max_tokens=30, but the model's context has room for 20"),
        (lambda m, x: m.caption(x, ["a", "b"]), "prompt: 2 for 1 images"),
        (lambda m, x: m.caption(x, "a red circle " * 9), "it has 19 tokens or more, .*=20 leaves no room after them"),
        (lambda m, x: m.caption("photo.jpg"), "images: number 0: 'photo.jpg' cannot be read"),
        (lambda m, x: m.caption(np.zeros((1, 16, 16, 3), np.float32)), "floats are for encode_image"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(captioner, call, message):
    model, _ = loaded(captioner)
    with pytest.raises(UserError, match=message) as error:
        call(model, np.zeros((16, 16, 3), np.uint8))
    assert "\n" not in str(error.value)


@pytest.mark.full
def test_questions_are_answered_as_in_the_evaluation(vqa):
    model, feeder = loaded(vqa)
    source = First(questions.Questions("test"))
    part = question_answering.AnswerClassificationEvaluator(model._task, feeder, model.tokenizer)
    result = part(evaluated(source, model.image_spec, params=model.params))
    records = [source[i] for i in range(RECORDS)]
    answers = model.answer([record["image"] for record in records], [record["question"] for record in records])
    assert len(model.answers) == 21 and set(answers) <= set(model.answers)
    people = [list(record["answers"]) for record in records]
    assert score_answers(answers, people, normalize="both").metrics["accuracy"] == result.metrics["accuracy"]
    assert model.can == ("answer",)
    assert model.answer([], []) == []


def modalities():
    """Of the first records, by name, with their labels."""
    records = [sensors.Sensors("test")[i] for i in range(RECORDS)]
    names = ("image", "series", "table")
    values = {name: np.stack([record["modalities"][name] for record in records]) for name in names}
    return values, np.array([record["label"] for record in records])


def test_modalities_are_classified(fusion):
    (model, _), (values, _) = loaded(fusion), modalities()
    scores = model.classify(values)
    assert model.can == ("classify",) and scores.dtype == np.float32 and scores.shape == (RECORDS, 8)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
    # What is left out is missing, whatever its array holds.
    all_of = np.ones((RECORDS, 3), bool)
    without = model.classify({"series": values["series"], "table": values["table"]})
    masked = model.classify(values | {"image": values["image"] + 1e6}, all_of & [False, True, True])
    np.testing.assert_array_equal(without, masked)
    assert np.abs(without - scores).max() > 1e-4
    for arguments, message in (
        (({"pictures": values["image"]},), "modalities: the name='pictures' is not known"),
        (({},), "the model has image, series, table"),
        (({"table": values["table"][:, :4]},), r"modality 'table' has shape \(4,\), not \(6,\) \(example 0\)"),
        ((values | {"table": values["table"][:2]},), "6 of image, 6 of series, 2 of table"),
        ((values, np.zeros((RECORDS, 3), bool)), "example 0 has no modality at all"),
        (({"table": values["table"]}, all_of), "image, series is said to be there, and not among"),
        ((values, np.ones((RECORDS, 2), bool)), r"give bool \[6, 3\]"),
    ):
        with pytest.raises(UserError, match=message):
            model.classify(*arguments)


@pytest.mark.full
def test_modalities_are_classified_as_in_the_evaluation(fusion):
    (model, feeder), (values, labels) = loaded(fusion), modalities()
    source = First(sensors.Sensors("test"))
    source.class_names = source.source.class_names
    part = multimodal_classification.MultimodalClassificationEvaluator(model._task, feeder)
    result = part(evaluated(source, model._task.input_specs, params=model.params))
    scores = model.classify(values)
    assert classification_metrics(scores, labels)["acc1"] == result.metrics["acc1"]
    np.testing.assert_allclose(scores, jax.nn.softmax(feeder.out["acc1"]), rtol=1e-4)
    without = model.classify({"series": values["series"], "table": values["table"]})
    np.testing.assert_allclose(without, jax.nn.softmax(feeder.out["acc1_without_image"]), rtol=1e-4)


class TestCommands:
    def test_info_tells_the_kind_and_what_it_can(self, captioner, vqa, fusion, capsys):
        for workdir, parts in (
            (captioner, ["'captioner' trained with caption; it can caption", "vocab_size 64", "words:shapes"]),
            (vqa, ["'vilt' trained with vqa; it can answer", "21: ", "answer_head", "modality_embedding 64"]),
            (fusion, ["it can classify", "series [32, 4]", "encoder_series", "head 264"]),
        ):  # fmt: skip
            assert main.main(["info", str(workdir)]) == 0
            message = capsys.readouterr().out
            for part in parts:
                assert part in message, message
            total = sum(x.size for x in jax.tree.leaves(loaded(workdir)[0].params))
            assert f"{total:,} parameters" in message

    def test_what_needs_embeddings_is_one_line(self, captioner, tmp_path, capsys):
        runs.write_classes(tmp_path / "images", count=1)
        suite = "error: datasets.digits.tasks: zeroshot_classification is not for model.kind='captioner' trained with"
        search = ["search", "red", f"--workdir={captioner}", f"--images={tmp_path / 'images'}"]
        for argv, message in (
            (["eval", f"--workdir={captioner}", "--config=eval"], suite),
            (["eval", f"--model={captioner}", "--config=eval", f"--output={tmp_path}/x.json"], "; choose among image_"),
            (search, "error: search by images is not for model.kind='captioner'"),
            (["convert", str(captioner), f"{tmp_path}/out", "--to=openclip"], "model.kind='captioner'"),
        ):  # fmt: skip
            with runs.shared_compilation(), runs.on_devices(1):
                assert main.main(argv) == 2
            error = capsys.readouterr().err
            assert message in error and error.count("\n") == 1, error
        assert not (tmp_path / "out").exists()


@pytest.mark.full
@pytest.mark.parametrize("name", ["tiny-coca", "tiny-albef"])
def test_models_that_also_embed_are_searched_and_evaluated(name, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert runs.train(small(name, data__train="shapes"), workdir) is None
    model, _ = loaded(workdir)
    pictures = [shapes.Shapes("test")[i]["image"] for i in range(3)]
    want = jax.jit(model._task.embed_images)(model.params, model._to_pictures("", pictures))
    np.testing.assert_allclose(model.encode_image(pictures), want, atol=1e-5)
    assert model.zero_shot(pictures, ["red", "blue"]).shape == (3, 2) and "encode_text" in model.can
    if name == "tiny-coca":
        assert len(model.caption(pictures)) == 3
    else:
        texts = ["a red circle", "a blue square", "a red circle"]
        result = model.match(pictures, texts)
        ids, mask = model.tokenizer(texts)
        logits = jax.jit(model._task.match)(model.params, model._to_pictures("", pictures), ids, mask)
        np.testing.assert_allclose(result, 1 / (1 + np.exp(-np.asarray(logits))), rtol=1e-4)
        assert result.dtype == np.float32
    classes = runs.write_classes(tmp_path / "images", count=2)
    with runs.shared_compilation(), runs.on_devices(1):
        assert main.main(["search", "red", f"--workdir={workdir}", f"--images={classes}", "--top=1"]) == 0
        suite = ["--config=eval", "--config.collection=shapes", f"--output={tmp_path}/out.json"]
        assert main.main(["eval", f"--workdir={workdir}", *suite]) == 0
    (record,) = json.loads((tmp_path / "out.json").read_text())
    assert 0 <= record["metrics"]["image_retrieval_recall@1"] <= 1


@pytest.mark.full
def test_answers_in_words(tmp_path):
    config = small("tiny-prefix_lm", data__train="questions", data__texts="answers")
    config.model.text.sep_id, config.model.prefix_text = 5, True
    workdir = tmp_path / "run"
    assert runs.train(config, workdir) is None
    model, feeder = loaded(workdir)
    assert model.can == ("answer",)
    source = First(questions.Questions("test"))
    part = question_answering.AnswerGenerationEvaluator(model._task, feeder, model.tokenizer)
    part(evaluated(source, model.image_spec, params=model.params))
    records = [source[i] for i in range(RECORDS)]
    result = model.answer([record["image"] for record in records], [record["question"] for record in records])
    assert result == [model.tokenizer.decode(row) for row in part.tokens.tolist()]
