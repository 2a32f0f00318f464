"""Captions and answers of videos and sounds, from files and arrays, whole and by windows."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

import mmjax
from mmjax import tasks
from mmjax.config import parse
from mmjax.config.schema import base_config, set_group
from mmjax.data.sources.moving import Moving
from mmjax.errors import UserError
from mmjax.inference.windows import equal_spans
from mmjax.training import checkpoint
from mmjax.training.state import TrainState
from tests.helpers import media_models
from tests.helpers.media import frames, make_sound, make_video, tones

SLOTS = {
    "video": dict(media_models.TOKENS, kind="frames", frames=4, image_size=16, patch_size=8, pre_norm=False),
    "audio": dict(media_models.AUDIO, kind="audio"),
}
SLOTS["video"] |= dict(frame_pool="none", temporal="embedding")


def saved(slot, texts, random_params, folder):
    """What a run leaves of a captioner with random parameters, loaded."""
    config = base_config("tiny-captioner")
    set_group(config, "model", config.model.to_dict() | ({} if slot == "image" else {"image": None, slot: SLOTS[slot]}))
    config.model.text.update(depth=1, scan=False)
    config.objectives.caption, config.precision = 1.0, "float32"
    config.data.update(tokenizer="words:shapes", texts=texts)
    config.data.audio.sample_rate = 8000 if slot == "audio" else 0
    parsed = parse(config)
    spec, tokenizer = tasks.make_image_spec(parsed), tasks.make_tokenizer(parsed)
    task = tasks.Task(parsed, spec if slot == "image" else None, tokenizer, None, tasks.DatasetMetadata())
    params = random_params(jax.eval_shape(task.init, jax.random.key(0)), std=0.5)
    state = TrainState(np.int32(2), params, (), None, np.zeros(2, np.uint32), np.int32(-1))
    facts = dataclasses.asdict(task.dataset_metadata)
    meta = checkpoint.make_meta(parsed, 16, task.image_spec, tokenizer, bad_examples={}, evaluated=False, facts=facts)
    with contextlib.closing(checkpoint.Checkpoints(folder / "checkpoints")) as checkpoints:
        checkpoints.save(2, state, meta)
        checkpoints.wait()
    return mmjax.load(folder)


@pytest.fixture(scope="module")
def load(random_params, tmp_path_factory):
    """Gives the model that sees a slot and reads texts, made once."""
    models = {}

    def make(slot, texts="captions"):
        if (slot, texts) not in models:
            models[slot, texts] = saved(slot, texts, random_params, tmp_path_factory.mktemp(slot))
        return models[slot, texts]

    return make


def clip(count, seed=0):
    return frames(count, (16, 16), seed)


@pytest.mark.full
def test_files_bytes_and_arrays_of_one_video_are_described_alike(load, tmp_path):
    model = load("video")
    assert model.can == ("caption",)
    pixels = clip(24)
    file = make_video("h264.mkv", pixels, rate=8)
    (tmp_path / "a.mkv").write_bytes(file)
    texts = model.caption([tmp_path / "a.mkv", str(tmp_path / "a.mkv"), file])
    assert len(set(texts)) == 1 and model.caption([pixels], rate=8) == model.caption([pixels])
    assert model.caption([]) == []


@pytest.mark.full
@pytest.mark.parametrize("slot", ["video", "audio"])
def test_windows_are_equal_parts(slot, load):
    """As few as are short enough; those of a sound are described as its samples alone are."""
    model = load(slot)
    if slot == "video":
        values, rate, longest, expected = [clip(30), clip(8, 3)], 8.0, 1.0, [4, 1]
    else:
        sound = tones(5000, 8000)[:, 0]
        values, rate, longest, expected = (
            [np.float32(sound * np.linspace(0.2, 1, 5000)), sound[:1500]],
            8000.0,
            0.3,
            [3, 1],
        )
    written = model.caption(values, rate=rate, windows=longest)
    spans = [[(window.start, window.end) for window in of_file] for of_file in written]
    for parts, value, count in zip(spans, values, expected, strict=True):
        length = len(value) / rate
        np.testing.assert_allclose(parts, [(length * i / count, length * (i + 1) / count) for i in range(count)])
        assert max(end - start for start, end in parts) <= longest
    if slot == "audio":
        parts = [values[0][start : start + 1667] for start in (0, 1667, 3333)] + [values[1]]
        alone = [model.caption([part], rate=rate)[0] for part in parts]
        assert [window.text for of_file in written for window in of_file] == alone


@pytest.mark.full
def test_windows_of_files(load, tmp_path):
    """Of a video its own seconds count; a sound's file and its samples are cut alike."""
    file = make_video("h264.mp4", clip(50), rate=25)
    (of_video,) = load("video").caption([file], windows=0.5)
    assert [(window.start, window.end) for window in of_video] == [(0, 0.5), (0.5, 1), (1, 1.5), (1.5, 2)]
    samples = tones(6000, 8000)[:, 0]
    sound = make_sound("wav", samples[:, None], rate=8000, subtype="FLOAT")
    model = load("audio")
    assert model.caption([sound], windows=0.25) == model.caption([samples], rate=8000, windows=0.25)
    assert len(model.caption([sound], windows=0.25)[0]) == 3


@pytest.mark.full
def test_questions_about_videos_and_sounds(load):
    scene = Moving("test")[0]["modalities"]
    video, audio = load("video", "answers"), load("audio", "answers")
    assert video.can == audio.can == ("answer",)
    questions = ["what colour is the circle?", "what shape is the red object?"]
    assert len(video.answer([scene["video"]] * 2, questions)) == 2
    answers = audio.answer([scene["audio"]] * 2, questions, rate=8000)
    assert answers == [audio.answer([scene["audio"]], text, rate=8000)[0] for text in questions]


PICTURE, VIDEO, SOUND = np.zeros((16, 16, 3), np.uint8), clip(4), np.zeros(4000, np.float32)


SEES = "and this model sees"


@pytest.mark.parametrize(
    ("slot", "call", "message"),
    [
        ("image", lambda m: m.caption([VIDEO]), f"number 0 is a video, {SEES} images; give those"),
        ("image", lambda m: m.caption(["a/clip.mp4"]), f"number 0 ('a/clip.mp4') is a video, {SEES} images"),
        ("image", lambda m: m.caption([PICTURE, make_sound("flac")]), f"number 1 is a sound, {SEES} images"),
        ("image", lambda m: m.caption([PICTURE], windows=2.0), "windows=2.0: windows are of videos and sounds"),
        ("image", lambda m: m.caption([PICTURE], rate=25), "caption: rate=25 is of videos and sounds"),
        ("video", lambda m: m.caption([PICTURE]), f"number 0 is an image, {SEES} videos; give those"),
        ("video", lambda m: m.caption(["a.jpg"]), f"number 0 ('a.jpg') is an image, {SEES} videos"),
        ("video", lambda m: m.caption(["a.wav"], windows=1.0), f"number 0 ('a.wav') is a sound, {SEES} videos"),
        ("video", lambda m: m.caption([VIDEO], windows=1.0), "video 0: an array has no seconds without its rate"),
        ("video", lambda m: m.caption([VIDEO], rate=4, windows=0), "windows=0: give seconds, more than 0"),
        (
            "video",
            lambda m: m.caption([VIDEO], rate=4, windows=1e-6),
            "video 0: windows=1e-06: 1 s are more than 10,000 windows",
        ),
        ("audio", lambda m: m.caption(["a.png"]), f"number 0 ('a.png') is an image, {SEES} sounds"),
        ("audio", lambda m: m.caption([SOUND], rate=8000, windows=2.0), "windows=2.0: the model hears 0.335 s at a"),
        ("audio", lambda m: m.caption([SOUND]), "audio 0: samples that are an array come with rates={'audio': None}"),
    ],
)
def test_what_a_model_does_not_see_is_one_line(slot, call, message, load):
    with pytest.raises(UserError) as caught:
        call(load(slot))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_equal_spans_are_the_fewest_that_are_short_enough():
    assert equal_spans(3.0, 1.0) == [(0, 1), (1, 2), (2, 3)] and equal_spans(0.2, 1.0) == [(0, 0.2)]
    assert equal_spans(0.1 * 3, 0.1)[-1][1] == 0.1 * 3 and len(equal_spans(0.1 * 3, 0.1)) == 3  # 0.30000000000000004
