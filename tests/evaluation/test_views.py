"""Several clips and crops of testing: equal to the mean of single views, cut by hand."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmjax
from mmjax.config import parse
from mmjax.data import mixture
from mmjax.data.audio.transform import AudioSpec
from mmjax.errors import UserError
from mmjax.evaluation import evaluation_task, from_config
from mmjax.evaluation.config import SuiteConfig
from mmjax.evaluation.evaluation_task import EvaluatedModel, EvaluatedSource
from mmjax.evaluation.suite.jobs import Job
from mmjax.evaluation.views import view_specs
from mmjax.inference import checkpoint_source, eval_model
from mmjax.metrics.classification import classification_metrics
from tests.helpers import media_models, model_kinds, runs

RATE = 8000
WINDOW = 0.325  # seconds that a spectrogram of 32 frames shows
CLIPS, STRIDE = 3, 2


def video(seed, count=13):
    """Frames of 16 x 24 pixels: three crops of 16 x 16 begin at 0, 4 and 8."""
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 24, 3), dtype=np.uint8)


def sound(seed, seconds=1.0):
    rng = np.random.default_rng(seed)
    time = np.arange(int(RATE * seconds)) / RATE
    return (np.sin(time * rng.uniform(500, 9000) * (1 + time)) * 0.5).astype(np.float32)


def video_views(frames, crops=3):
    """Clips of four frames, two apart, beginning at the first, the middle and the last possible one."""
    last = len(frames) - 1 - 3 * STRIDE
    clips = [frames[start : start + 4 * STRIDE : STRIDE] for start in (0, last // 2, last)]
    return [clip[:, :, x : x + 16] for clip in clips for x in ((0, 4, 8) if crops == 3 else (4,))]


def sound_views(samples):
    window = AudioSpec(frames=32, mel_bins=16, sample_rate=RATE).log_mel_spec.samples(32)
    assert window / RATE == pytest.approx(WINDOW, abs=0.02)
    last = len(samples) - window
    return [samples[start : start + window] for start in (0, last // 2, last)]


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory, random_params):
    """Two towers of videos, sounds and texts, and a classifier, each tested in one view and in several."""
    folder = tmp_path_factory.mktemp("views")
    for kind, config in (("towers", media_models.towers("video", "audio", "text")), ("fused", media_models.fused())):
        config.data.video.stride = STRIDE
        model_kinds.save(random_params, config, folder / f"{kind}-one")
        config.eval.video.clips, config.eval.video.crops, config.eval.audio.clips = CLIPS, 3, CLIPS
        model_kinds.save(random_params, config, folder / f"{kind}-views")
    return folder


def unit_mean(rows):
    mean = np.mean(rows, axis=0, dtype=np.float64)
    return mean / np.linalg.norm(mean)


def test_embeddings_are_the_mean_made_a_unit_vector(workdirs):
    one, views = mmjax.load(workdirs / "towers-one"), mmjax.load(workdirs / "towers-views")
    videos, sounds = [video(0), video(1, 7)], [sound(0), sound(1)]
    expected = [unit_mean(one.encode_video(video_views(frames))) for frames in videos]
    np.testing.assert_allclose(views.encode_video(videos), expected, atol=1e-5)
    np.testing.assert_allclose(one.encode_video(videos, clips=CLIPS, crops=3), expected, atol=1e-5)
    middle = [unit_mean(one.encode_video(video_views(frames, crops=1))) for frames in videos]
    np.testing.assert_allclose(views.encode_video(videos, crops=1), middle, atol=1e-5)
    assert np.abs(np.array(middle) - one.encode_video(videos)).max() > 1e-3
    expected = [unit_mean(one.encode_audio(sound_views(samples), rate=RATE)) for samples in sounds]
    np.testing.assert_allclose(views.encode_audio(sounds, rate=RATE), expected, atol=1e-5)
    # A sound that is shorter than a window is seen once.
    short = [sound(2, 0.2)]
    np.testing.assert_allclose(
        views.encode_audio(short, rate=RATE), one.encode_audio(short, rate=RATE), rtol=0, atol=1e-6
    )
    names = ["a red circle", "a blue square", "a green ring"]
    similarity = views.encode_video(videos) @ views.encode_text([f"a photo of a {name}." for name in names]).T
    probabilities = np.exp(views.logit_scale * similarity)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(views.zero_shot(videos, names), probabilities, atol=1e-5)


def test_classes_are_by_the_mean_of_probabilities(workdirs):
    one, views = mmjax.load(workdirs / "fused-one"), mmjax.load(workdirs / "fused-views")
    videos, sounds = [video(0), video(1)], [sound(0), sound(1)]
    arrays = lambda entries: {"video": entries}
    spec, several = one._spec("audio"), view_specs(views._task, views.config.eval)
    prepared = lambda samples: spec.decoder.prepare(samples, None, rate=RATE)
    expected = []
    for frames, samples in zip(videos, sounds, strict=True):
        windows = [prepared(part) for part in sound_views(samples)]
        batch = np.stack([one._spec("video").decoder.prepare(part, None) for part in video_views(frames)])
        paired = np.repeat(np.stack(windows), 3, axis=0)  # all crops of a clip go with its window
        scores = jax.jit(one._task.classify)(one.params, {"video": batch, "audio": paired}, jnp.ones((9, 2), bool))
        expected.append(jax.nn.softmax(np.asarray(scores, np.float64), axis=-1).mean(axis=0))
    specs = {spec.name: spec for spec in several.others}
    record = lambda i: {"modalities": {"video": videos[i], "audio": sounds[i]}, "rates": {"audio": RATE}, "id": i}
    batch = {name: np.stack([specs[name].array(record(i), None) for i in range(2)]) for name in specs}
    assert batch["video"].shape == (2, 3, 3, 4, 16, 16, 3) and batch["audio"].shape == (2, 3, 1, 32, 16)
    scores = jax.jit(views._task.classify)(views.params, batch, jnp.ones((2, 2), bool))
    np.testing.assert_allclose(jax.nn.softmax(scores, axis=-1), expected, atol=1e-5)
    # Of videos alone, as `mmjax.load` classifies them.
    expected = [one.classify(arrays(video_views(frames))).mean(axis=0) for frames in videos]
    np.testing.assert_allclose(views.classify(arrays(videos)), expected, atol=1e-5)


class Source:
    """Eight videos with sounds, captions and labels."""

    name, class_names, templates = "made", mixture.open_source("actions/test").class_names, ["a {c}"]

    def __len__(self):
        return 8

    def __getitem__(self, index):
        modalities = {"video": video(index), "audio": sound(index)}
        captions = [f"a {color} circle" for color in ("red", "green", "blue", "yellow")]
        record = {"id": index, "modalities": modalities, "rates": {"audio": RATE}, "label": index}
        return record | {"captions": [captions[index % 4]]}


def evaluate(workdir, name, **changes):
    """Metrics of an evaluation over two devices, with fields of `eval` changed."""
    run = checkpoint_source.RunCheckpoint(workdir)
    run.config = eval_model.apply_overrides(
        run.config, [(path.replace("__", "."), str(v)) for path, v in changes.items()]
    )
    with runs.on_devices(2):
        model = eval_model.open_workdir(run)
        evaluator = from_config.Evaluator(run.config, model.task, model.mesh, model.tokenizer)
        evaluated = EvaluatedModel.make(model.task, model.mesh, run.config, run.config.eval)
        params = model.restore()
        if evaluation_task.load(name).embeds:
            evaluator.embedder = from_config.embedder.MeshEmbedder(model.task, model.mesh, model.tokenizer, 8)
            evaluator.embedder.bind(params)
        decode = from_config.sharded_examples.make_examples([], evaluator.specs, evaluator.runner)
        specs = dict(specs=evaluator.specs, views=evaluator.views)
        data = EvaluatedSource(Source(), params, decode, **specs, bound_embedder=evaluator.embedder)
        return data, evaluation_task.make_evaluator(name, evaluated)(data).metrics


@pytest.mark.full
def test_evaluations_take_them(workdirs):
    model = mmjax.load(workdirs / "towers-views")
    data, _ = evaluate(workdirs / "towers-views", "zeroshot_classification")
    np.testing.assert_allclose(
        data.features.embeddings, model.encode_video([video(i) for i in range(8)]), rtol=0, atol=1e-5
    )
    data, metrics = evaluate(workdirs / "towers-views", "modality_retrieval")
    videos = model.encode_video([video(i) for i in range(8)])
    sounds = model.encode_audio([sound(i) for i in range(8)], rate=RATE)
    scores = videos @ sounds.T
    ranks = (scores > scores.diagonal()[:, None]).sum(axis=1) + 1
    assert metrics["video_to_audio_mean_rank"] == pytest.approx(ranks.mean())
    data, metrics = evaluate(workdirs / "fused-views", "multimodal_classification")
    fused = mmjax.load(workdirs / "fused-views")
    scores = fused.classify({"video": [video(i) for i in range(8)]})
    expected = classification_metrics(scores, np.arange(8))["acc1"]
    assert metrics["acc1_without_audio"] == pytest.approx(expected)
    one = evaluate(workdirs / "fused-one", "multimodal_classification")[1]
    set_to_one = dict(eval__video__clips=1, eval__video__crops=1, eval__audio__clips=1)
    assert evaluate(workdirs / "fused-views", "multimodal_classification", **set_to_one)[1] == one


def test_settings_of_a_suite_name_them_where_they_are_several():
    suite, config = SuiteConfig(), parse(media_models.towers("video", "text"))
    job = Job(name="made", source="made")
    settings = lambda task, suite: job.settings(task, suite, config)
    plain = settings("zeroshot_retrieval", suite)
    assert not any("clips" in name or "crops" in name for name in plain)
    several = dataclasses.replace(suite, video=dataclasses.replace(suite.video, clips=4))
    assert settings("zeroshot_retrieval", several) == plain | {"video.clips": 4}
    assert settings("image_captioning", several) == settings("image_captioning", suite)
    json.dumps(plain)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (("video", "text"), {"video.clips": 0}, "eval.video.clips=0: wants a number from 1 up"),
        (("video", "text"), {"video.crops": 2}, "eval.video.crops=2: give 1 (the middle) or 3"),
        (
            ("video", "text"),
            {"audio.clips": 4},
            "eval.audio.clips=4: model.kind='two_tower' trained with itc decodes no",
        ),
        (
            ("audio", "text"),
            {"video.crops": 3},
            "eval.video.crops=3: model.kind='two_tower' trained with itc decodes no",
        ),
        ((), {"video.clips": 4, "audio.clips": 2}, "eval.video.clips=4 and eval.audio.clips=2: a classifier of both"),
    ],
)
def test_mistakes_are_one_line(config, changes, message):
    config = media_models.towers(*config) if config else media_models.fused()
    for path, value in changes.items():
        group, name = path.split(".")
        config.eval[group][name] = value
    with pytest.raises(UserError) as caught:
        settings = parse(config).eval
        from_config.task_choice.check_numbers(settings)
        view_specs(model_kinds.task(config), settings)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
