"""Speech recognition: a tiny run that transcribes and translates, its evaluation, its report, what it is not for."""

import json
import re
from unittest import mock

import numpy as np
import pytest

import mmjax
from mmjax.config import recipe
from mmjax.data.sources.tones import MEANINGS, SAMPLE_RATE, WORDS, Tones
from mmjax.errors import UserError
from mmjax.metrics.word_errors import score_transcripts
from mmjax.training import train
from tests.helpers import runs

LENGTH = 24


def config_of(**changes):
    config = recipe.load_recipe("asr:variant=tiny,steps=60")
    config.batch_size, config.eval.batch_size = 16, 8
    config.data.train = "tones@0.5+tones/translations@0.5"
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model after 60 steps: it writes words of the task's language, though not yet those that are spoken."""
    folder = tmp_path_factory.mktemp("asr") / "run"
    with mock.patch("mmjax.data.sources.tones.TEST_LENGTH", LENGTH):
        assert runs.train(config_of(), folder, write_report=True) is None
    return folder


@pytest.mark.full
def test_another_task_token_changes_what_is_written(folder):
    model = mmjax.load(folder)
    assert model.can == ("caption", "transcribe")
    sounds = [Tones("test")[i]["modalities"]["audio"] for i in range(LENGTH)]
    transcripts = model.transcribe(sounds, rate=SAMPLE_RATE)
    translations = model.transcribe(sounds, rate=SAMPLE_RATE, task="translate")
    for texts, vocabulary in ((transcripts, WORDS), (translations, MEANINGS)):
        assert all(texts) and {word for text in texts for word in text.split()} <= set(vocabulary)
    with pytest.raises(UserError, match="transcribe: max_tokens=9, but the model's context has room for 7"):
        model.transcribe(sounds, rate=SAMPLE_RATE, max_tokens=9)


@pytest.mark.full
def test_an_evaluation_scores_what_the_model_transcribes(folder):
    (line,) = runs.lines(folder, "eval")
    model = mmjax.load(folder)
    for split, task in (("test", "transcribe"), ("test-translations", "translate")):
        records = [Tones(split, length=LENGTH)[i] for i in range(LENGTH)]
        sounds = [record["modalities"]["audio"] for record in records]
        texts = model.transcribe(sounds, rate=SAMPLE_RATE, task=task)
        metrics = score_transcripts([record["captions"][0] for record in records], texts).metrics
        name = Tones(split).name
        assert {key: line[f"{name}/speech_recognition/{key}"] for key in metrics} == pytest.approx(metrics)
        assert metrics["wer"] > 0.5 and line[f"{name}/speech_recognition/perplexity"] < 90


@pytest.mark.full
def test_a_report_shows_spectrograms_and_words_in_error_beside_what_was_spoken(folder):
    page = (folder / "report.html").read_text()
    tables = re.findall(r"<table class=words>.*?</table>", page, flags=re.S)
    assert len(tables) > 4 and all(table.count("<tr>") == 2 for table in tables)
    spoken, written = (re.findall(r"<td( class=miss)?>(\w*)</td>", row) for row in tables[0].split("<tr>")[1:])
    assert [miss for miss, _ in spoken] == [miss for miss, _ in written] and len(spoken) == len(written)
    assert all(bool(miss) == (a != b) for (miss, a), (_, b) in zip(spoken, written, strict=True))
    assert page.count("data:image/") > 8


@pytest.mark.full
def test_eval_py_and_suites_know_it(folder, tmp_path):
    suite = tmp_path / "suite.py"
    suite.write_text(
        'from mmjax.config import dataset, suite_config\n\n\ndef get_config(arg=""):\n'
        "    config = suite_config('data', 'heard')\n    config.speech_recognition.normalization = 'basic'\n"
        "    config.datasets.heard = dataset('tones/test', 'speech_recognition')\n    return config\n"
    )
    (line,) = runs.lines(folder, "eval")
    with mock.patch("mmjax.data.sources.tones.TEST_LENGTH", LENGTH):
        for number, flags in enumerate(([], [f"--config={suite}"])):
            output = tmp_path / f"{number}.json"
            assert runs.eval_cli(f"--workdir={folder}", f"--output={output}", *flags) == 0
            record = json.loads(output.read_text())[0]
            assert record["task"] == "speech_recognition"
            assert record["metrics"]["wer"] == pytest.approx(line["tones/speech_recognition/wer"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(data__caption_prompt="<|{lang}|>"), r"\{lang\} stands for nothing"),
        (dict(data__caption_prompt="<|{task}|><|sing|>"), r"<\|sing\|> is no token of data.tokenizer="),
        (dict(data__caption_prompt="<|{language}|>"), "has no language, which data.caption_prompt="),
        (dict(data__texts="answers"), "is of data.texts='captions', not 'answers'"),
        (dict(eval__speech_recognition__normalization="english"), "normalization='english'"),
    ],
)
def test_what_does_not_fit_is_one_line_at_the_start(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        train.open_run(config_of(**changes), None)
    assert "\n" not in str(caught.value)


def test_models_of_images_do_not_transcribe():
    config = recipe.load_recipe("captioner:variant=tiny-captioner")
    config.eval.tasks = ("speech_recognition",)
    with pytest.raises(UserError, match="speech_recognition is not for model.kind='captioner'"):
        train.open_run(config, None)
    config = runs.config(data__caption_prompt="a photo of ")
    with pytest.raises(UserError, match="is for a captioner that is trained with objectives.caption alone"):
        train.open_run(config, None)


def test_an_example_without_a_text_has_no_rate():
    with pytest.raises(ValueError, match="without a word"):
        score_transcripts([""], ["a"])
    assert np.isfinite(score_transcripts(["a"], [""]).metrics["wer"])
