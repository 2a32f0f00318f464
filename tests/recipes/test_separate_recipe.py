"""The recipe of separation: complete configs, killed runs that go on bit for bit, meshes, files, what is written."""

import dataclasses
import io

import av
import numpy as np
import pytest
import soundfile

import mmjax
from mmjax import tasks
from mmjax.config import parse, recipe
from mmjax.data.sources.instruments import FRAMES, SAMPLE_RATE, Instruments
from mmjax.errors import UserError
from mmjax.evaluation.evaluators import source_separation
from mmjax.metrics.source_separation import si_sdr
from mmjax.training import validate_run
from tests.helpers import runs
from tests.training import test_step_slots

TINY = dict(
    kind="video", width=16, heads=2, mlp_dim=16, depth=1, frames=2, image_size=16, patch_size=8, tubelet_frames=2
)


def short(**changes):
    config = recipe.load_recipe("separate")
    config.steps, config.batch_size, config.schedule.warmup, config.schedule.name = 4, 8, 1, "constant"
    config.checkpoint.every, config.log.every, config.eval.batch_size = 2, 1, 8
    config.model.channels, config.model.features = (4, 8), 4
    config.model.video.update({name: value for name, value in TINY.items() if name != "kind"})
    config.data.separation.update(n_fft=254, hop=64, frames=32, log_bins=32)
    config.eval.source_separation.mixtures = 6
    with config.ignore_type():
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


@pytest.mark.parametrize("spec", ["separate", "separate:pictures=false", "separate:variant=music"])
def test_a_recipe_is_a_complete_config(spec):
    config = recipe.load_recipe(spec)
    config.data.train = config.data.train or "files:videos"
    validate_run.check_config(parse(config))
    assert config.schedule.warmup < config.steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(model__channels=(4,) * 6), "halves spectrograms 6 times, and data.separation.frames makes 32"),
        (dict(data__separation__log_bins=30), "data.separation.log_bins makes 30 of them"),
        (dict(data__separation__log_bins=0, model__channels=(4,)), None),
        (dict(model__channels=()), "give one level or more"),
        (dict(data__separation__sources=1), "data.separation.sources=1: give 2 or more"),
        (dict(loss__mask_target="soft"), "mask_target"),
        (dict(objectives__classify=1.0), "objectives.classify=1.0 needs a model that serves classes"),
    ],
)
def test_what_does_not_fit_is_one_line(changes, message):
    if message is None:
        return validate_run.check_config(parse(short(**changes)))
    with pytest.raises(UserError, match=message) as caught:
        config = parse(short(**changes))
        validate_run.check_config(config)
        tasks.Task(config, None)
    assert "\n" not in str(caught.value)
    return None


@pytest.mark.parametrize(
    ("source", "message"),
    [("tones", "model.video: 'tones/train' has no such modality"), ("digits", "'digits/train' has no sounds")],
)
def test_data_without_pictures_or_sounds_is_one_line(source, message):
    config = parse(short(data__train=source))
    with pytest.raises(UserError, match=message) as caught:
        tasks.read_dataset_metadata(config, tasks.open_mixture(config))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four steps, its training lines and its folder."""
    folder = tmp_path_factory.mktemp("separate")
    assert runs.train(short(), folder, write_report=True) is None
    return folder


@pytest.mark.full
def test_it_trains_and_goes_on_where_it_was(trained, tmp_path):
    lines = runs.lines(trained, "train")
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and all(np.isfinite(line["loss"]) for line in lines)
    (evaluated,) = runs.lines(trained, "eval")
    assert {f"instruments/{name}" for name in ("si_sdr", "si_sdr_improvement", "sdr", "sir", "sar")} <= set(evaluated)
    report = next(trained.rglob("*.html")).read_text()
    assert "Separated sounds: instruments" in report and "mask 2" in report

    runs.train(short(steps=2), tmp_path)
    assert runs.train(short(), tmp_path) is None
    again = runs.lines(tmp_path, "train")
    assert [line["loss"] for line in again[-2:]] == [line["loss"] for line in lines[-2:]]


@pytest.mark.full
@pytest.mark.parametrize(("mesh", "microbatch"), [((8, 1, 1), 1), ((2, 2, 1), 2)], ids=str)
def test_every_mesh_gives_the_update_of_one_device(mesh, microbatch, random_params, monkeypatch):
    """Losses of two steps and parameters after them: the first update is the gradient."""

    def config_of(mesh=(1, 1, 1), microbatch=1):
        config = short(batch_size=16, microbatch=microbatch, steps=2)
        config.mesh.update(data=mesh[0], fsdp=mesh[1], tensor=mesh[2])
        config.optimizer.update(name="sgd", learning_rate=0.1, b1=0.9, weight_decay=0.0, grad_clip=0.0)
        config.schedule.warmup = 0
        return config

    def batch_of(task, seed):
        examples = tasks.make_train_examples(task.config, tasks.open_mixture(task.config), task.example_transform)
        rows = [examples[16 * seed + row] for row in range(16)]
        names = ("video", "mixture", "target", "id")
        return {name: np.stack([row[name] for row in rows]) for name in names}

    monkeypatch.setattr(test_step_slots, "batch_of", batch_of)
    losses, params, start = test_step_slots.train(config_of(), random_params)
    ours, got, _ = test_step_slots.train(config_of(mesh, microbatch), random_params)
    np.testing.assert_allclose(ours, losses, rtol=1e-5)
    assert losses[0] != losses[1]
    for path, value in params.items():
        np.testing.assert_allclose(got[path], value, atol=2e-6, err_msg=path)


@pytest.mark.full
def test_mixtures_of_evaluation_follow_from_the_seed(trained):
    model = mmjax.load(trained)
    task, spec = model._task, source_separation.separation_data.mixture_spec(model.config)
    specs = source_separation.clip_specs(task.input_specs, spec)
    examples = source_separation.EvalExamples(Instruments("test", length=20), specs)
    draw = lambda **changes: source_separation.draw_mixtures(
        examples, spec, dataclasses.replace(model.config.eval, **changes)
    )
    one, again, other = draw(), draw(), draw(seed=1)
    assert len(one) == 6 and all(np.array_equal(a.mixture, b.mixture) for a, b in zip(one, again, strict=True))
    assert not all(np.array_equal(a.mixture, b.mixture) for a, b in zip(one, other, strict=True))
    assert all(np.allclose(mixture.sounds.sum(axis=0), mixture.mixture) for mixture in one)
    ideal = [
        spec.apply((spec.magnitudes(s) > 0.5 * spec.magnitudes(one[0].mixture)).astype(np.float32), one[0].mixture)[0]
        for s in one[0].sounds
    ]
    values = source_separation.separation_metrics(one[0], np.stack(ideal))
    assert values["si_sdr_improvement"] > 10 and values["sdr_improvement"] > 5

    class Alike(Instruments):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "id": 1}

    examples = source_separation.EvalExamples(Alike("test", length=20), specs)
    with pytest.raises(UserError, match="too few had another id"):
        source_separation.draw_mixtures(examples, spec, model.config.eval)


def write_video(path, record, repeats=1):
    """An MP4 of a record's pictures with its sound, both again and again."""
    video = np.tile(record["modalities"]["video"], (repeats, 1, 1, 1)).repeat(2, axis=1).repeat(2, axis=2)
    sound = np.tile(record["modalities"]["audio"], repeats)
    with av.open(path, "w") as container:
        pictures = container.add_stream("libx264", rate=FRAMES)
        pictures.width, pictures.height, pictures.pix_fmt = video.shape[2], video.shape[1], "yuv420p"
        track = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for frame in video:
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(pictures.encode(None))
        block = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
        block.sample_rate, block.pts = SAMPLE_RATE, 0
        container.mux(track.encode(block))
        container.mux(track.encode(None))


@pytest.mark.full
def test_it_trains_on_files_and_separates_them(trained, tmp_path):
    source = Instruments("train")
    for i in range(6):
        write_video(tmp_path / f"{i}.mp4", source[i])
    config = short(
        data__train=f"files:{tmp_path}",
        data__eval=f"files:{tmp_path}",
        data__caption_keys="none",
        eval__caption_keys="none",
        steps=2,
        eval__source_separation__mixtures=3,
    )
    assert runs.train(config, tmp_path / "run") is None
    (line,) = runs.lines(tmp_path / "run", "eval")
    assert any(name.endswith("/si_sdr") for name in line)

    model = mmjax.load(trained)
    assert model.can == ("separate",)
    write_video(tmp_path / "long.mp4", source[7], repeats=3)
    (long, left), raw = (
        [
            model.separate([tmp_path / "long.mp4"], folder=tmp_path / "out")[0],
            model.separate([tmp_path / "long.mp4"], region=(0, 0, 0.5, 1))[0],
        ],
        source[7]["modalities"],
    )
    waveform = np.tile(raw["audio"], 3)
    assert long.sample_rate == SAMPLE_RATE and abs(len(long.sound) - len(waveform)) < 3000
    assert not np.array_equal(long.sound, left.sound)
    total = long.sound + long.rest
    np.testing.assert_allclose(total, left.sound + left.rest, atol=1e-6)
    written, rate = soundfile.read(tmp_path / "out/long-sound.wav", dtype="float32")
    assert rate == SAMPLE_RATE and np.array_equal(written, long.sound)
    assert np.array_equal(soundfile.read(tmp_path / "out/long-rest.wav", dtype="float32")[0], long.rest)

    # Arrays and files alike; a window is that of the model, where the sound is no longer.
    arrays = [{"video": raw["video"], "audio": raw["audio"][:2047]}]
    rates = {"video": float(FRAMES), "audio": float(SAMPLE_RATE)}
    (short_sound,) = model.separate(arrays, rates=rates)
    spec = source_separation.separation_data.mixture_spec(model.config)
    stretch = spec.stretch(raw["audio"][:2047], 0)
    clip = model._task.input_specs.evaluate({"id": 0, "modalities": {"video": raw["video"]}, "rates": rates})["video"]
    mask = model._run(model._separate, (clip[None], spec.magnitudes(stretch)[None]))[0]
    np.testing.assert_allclose(short_sound.sound, spec.apply(mask, stretch)[0][:2047], atol=1e-5)


@pytest.mark.full
def test_windows_that_overlap_add_up(trained, monkeypatch):
    """With masks of ones the sound is all of it, however long; with zeros nothing is."""
    model = mmjax.load(trained)
    rng = np.random.default_rng(0)
    rates = {"video": 8.0, "audio": 8000.0}
    for samples in (100, 2047, 2048, 5000, 12345):
        wave = rng.uniform(-1, 1, samples).astype(np.float32)
        entry = {"video": rng.integers(0, 256, (20, 16, 16, 3)).astype(np.uint8), "audio": wave}
        for level in (1.0, 0.0):
            monkeypatch.setattr(model, "_run", lambda function, columns, level=level: np.full_like(columns[1], level))
            (parts,) = model.separate([entry], rates=rates)
            np.testing.assert_allclose(parts.sound, level * wave, atol=1e-5)
            np.testing.assert_allclose(parts.rest, (1 - level) * wave, atol=1e-5)
            if level and samples > 5000:
                assert si_sdr(parts.sound, wave) > 80


@pytest.mark.full
def test_what_cannot_be_separated_is_one_line(trained, tmp_path):
    model = mmjax.load(trained)
    silent = io.BytesIO()
    with av.open(silent, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    video = np.zeros((4, 16, 16, 3), np.uint8)
    both = {"video": video, "audio": np.zeros(100, np.float32)}
    for videos, options, message in (
        ("a.mp4", {}, "videos: give a list"),
        (["nowhere.mp4"], {}, "cannot be read"),
        ([silent.getvalue()], {}, r"videos\[0\]: no_track"),
        ([{"video": video}], {}, r"videos\[0\] has no audio"),
        ([both], {}, "rates="),
        ([both], dict(region=(0.5, 0, 0.2, 1)), "region="),
    ):
        with pytest.raises(UserError, match=message) as caught:
            model.separate(videos, **options)
        assert "\n" not in str(caught.value)
    folders = [tmp_path / name / "same.mp4" for name in "ab"]
    for path in folders:
        path.parent.mkdir()
        write_video(path, Instruments("train")[0])
    with pytest.raises(UserError, match="two videos are called 'same'"):
        model.separate(folders, folder=tmp_path)
