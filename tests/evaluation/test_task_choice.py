"""Evaluations by what a model sees: captions and questions of images, videos and sounds have names of their own."""

import pytest

from mmjax import tasks
from mmjax.config import parse
from mmjax.config.schema import base_config, set_group
from mmjax.data.mixture import open_source
from mmjax.errors import UserError
from mmjax.evaluation import evaluation_task, task_choice

LAYERS = dict(width=8, depth=1, heads=2, mlp_dim=16)
SLOTS = {
    "image": None,
    "video": dict(kind="frames", frames=8, image_size=32, patch_size=16, frame_pool="mean", **LAYERS),
    "audio": dict(kind="audio", frames=96, mel_bins=32, patch_size=(8, 32), **LAYERS),
    "series": dict(kind="series", steps=6, patch_length=2, **LAYERS),
}
NAMES = {
    ("image", "captions"): "image_captioning",
    ("image", "answers"): "visual_question_answering",
    ("video", "captions"): "video_captioning",
    ("video", "answers"): "video_question_answering",
    ("audio", "captions"): "audio_captioning",
    ("audio", "answers"): "audio_question_answering",
    ("series", "captions"): "image_captioning",
}


def task_of(slot, texts, **data):
    config = base_config("tiny-captioner")
    if slot != "image":
        set_group(config, "model", config.model.to_dict() | {"image": None, slot: SLOTS[slot]})
    config.objectives.caption = 1.0
    config.data.tokenizer, config.data.texts = "words:shapes", texts
    config.data.update(data)
    parsed = parse(config)
    spec = tasks.make_image_spec(parsed) if slot == "image" else None
    shapes = tasks.DatasetMetadata(shapes=(("series", (6, 3)),)) if slot == "series" else tasks.DatasetMetadata()
    return tasks.Task(parsed, spec, tasks.make_tokenizer(parsed), None, shapes)


@pytest.mark.parametrize(("slot", "texts"), NAMES)
def test_what_is_evaluated_by_default_is_named_after_what_a_model_sees(slot, texts):
    task, source = task_of(slot, texts), open_source("moving/test")
    name = NAMES[slot, texts]
    transcripts = ["speech_recognition"] if name == "audio_captioning" else []  # only where it is named
    assert task_choice.default_names(task, source) == [name]
    assert task_choice.supported(task) == [name, *transcripts]
    lacking = task_choice.lacking_fields(name, source, task_choice.seen_by(task))
    assert lacking == ("" if slot in ("video", "audio") or texts == "answers" else f"{slot} with captions")


def test_the_name_for_another_modality_is_refused_with_the_right_one():
    with pytest.raises(UserError) as caught:
        task_choice.check_model(["image_captioning"], task_of("video", "captions"), "eval.tasks")
    assert str(caught.value).endswith("trained with caption; choose among video_captioning")
    assert str(caught.value).startswith("eval.tasks: image_captioning is not for model.kind='captioner'")


def test_their_tables_have_titles_and_units_of_their_own():
    infos = {name: evaluation_task.load(name) for name in set(NAMES.values())}
    assert len({info.title for info in infos.values()}) == len(infos)
    assert infos["video_captioning"].unit == "videos" and infos["audio_captioning"].unit == "sounds"
