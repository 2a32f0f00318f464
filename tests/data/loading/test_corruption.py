"""Corruptions of held-out examples: levels mean what they say, and an example is corrupted alike everywhere."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mmjax.data.audio.transform import AudioSpec
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading import corruption
from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.data.loading.inputs import InputSpecs, ModalitySpec
from mmjax.data.record import Record
from mmjax.errors import UserError
from tests.helpers.media import make_sound

GREY = np.full((64, 64, 3), 128, np.uint8)


def one(text):
    (sweep,) = corruption.parse_sweeps(text)
    (point,) = sweep.points
    return point


def changed(text, index=0, **arrays):
    return corruption.corrupt_arrays(arrays, one(text), index)


def test_sweeps_are_read_level_by_level():
    first, second = corruption.parse_sweeps("image:noise0/0.1/0.25, audio:snr20/10/-5 + text:drop0.5")
    assert first.name == "image:noise,audio:snr" and second.name == "text:drop"
    assert [", ".join(map(str, point)) for point in first.points] == [
        "image:noise0, audio:snr20", "image:noise0.1, audio:snr10", "image:noise0.25, audio:snr-5",
    ]  # fmt: skip
    (alone,) = corruption.parse_sweeps("image:noise0/0.1")
    assert [str(item) for (item,) in alone.points] == ["image:noise0.1"]  # at 0 examples are as they are
    assert corruption.parse_sweeps("") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imgae:noise0.1", r"modality='imgae' is not known \(did you mean 'image'\?\)"),
        ("audio:noise0.1", "kind of audio='noise' is not known"),
        ("image", "'image' is no MODALITY:KINDLEVEL"),
        ("image:noise", "level '' is not a number from 0 on"),
        ("image:noise-0.1", "level '-0.1' is not a number from 0 on"),
        ("image:noiseinf", "kind of image='noiseinf' is not known"),
        ("text:drop1.5", "level '1.5' is not a probability from 0 to 1"),
        ("audio:snrx", "kind of audio='snrx' is not known"),
        ("audio:snr10/20/10", "do not rise or fall"),
        ("image:noise0.2/0.1", "do not rise; put them in order"),
        ("image:noise0.1/0.2,series:noise0.1", "other numbers of levels (image 2, series 1)"),
        ("image:noise0.1,image:blur1", "names a modality twice"),
        ("image:noise0.1+image:noise0.2", "names image:noise twice"),
        ("image:noise0", "changes nothing"),
        ("image:noise0.1000001/0.1000002", "are image:noise0.1 in six digits; give levels that differ there"),
        ("image:noise0.1+", "'' is no MODALITY:KINDLEVEL"),
    ],
)
def test_a_mistake_is_one_line(text, message):
    with pytest.raises(UserError) as caught:
        corruption.parse_sweeps(text)
    text = str(caught.value)
    assert text.startswith("eval.corrupt=") and "\n" not in text
    assert message.replace("\\", "") in text


def test_noise_has_the_deviation_that_the_level_says():
    noise = changed("image:noise0.1", image=GREY)["image"].astype(float) / 255 - 128 / 255
    assert changed("image:noise0.1", image=GREY)["image"].dtype == np.uint8
    assert noise.std() == pytest.approx(0.1, rel=0.02) and abs(noise.mean()) < 0.003
    floats = np.full((64, 64, 3), 0.5, np.float32)
    values = changed("image:noise1", image=floats)["image"]
    assert values.dtype == np.float32 and values.min() < 0 and values.std() == pytest.approx(1, rel=0.02)
    series = np.stack([np.arange(4000) % 7, 100 * (np.arange(4000) % 3)], axis=1).astype(np.float32)
    added = changed("series:noise0.5", series=series)["series"] - series
    np.testing.assert_allclose(added.std(axis=0), 0.5 * series.std(axis=0), rtol=0.05)
    # Of a table numbers alone; what is missing stays missing.
    table = np.array([1.0, np.nan, 3.0, 2.0], np.float32)
    (point,) = one("table:noise1")
    result = corruption.corrupt_arrays({"table": table}, [corruption.Corruption("table", "noise", 1.0, numbers=2)], 0)
    assert result["table"][0] != 1 and np.isnan(result["table"][1]) and result["table"][2:].tolist() == [3, 2]
    assert (corruption.corrupt_arrays({"table": table}, [point], 0)["table"] != table).all()


def test_blur_is_a_gaussian_in_pixels_of_each_frame():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)))
    blurred = changed("image:blur2", image=pixels)["image"]
    # Pillow's is made of boxes, and cuts at another place.
    assert np.abs(blurred[8:-8, 8:-8].astype(int) - expected[8:-8, 8:-8]).max() <= 12
    clip = np.stack([pixels, np.zeros_like(pixels)])[None]
    result = changed("video:blur2", video=clip)["video"]
    np.testing.assert_array_equal(result[0, 0], blurred)
    assert not result[0, 1].any()


def sounds(samples, rate=8000):
    return Record(id=0, modalities={"audio": samples}, rates={"audio": rate})


def snr(clean, noisy):
    return 10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2))


def test_noise_of_sounds_has_the_ratio_of_powers_that_the_level_says():
    samples = (0.3 * np.sin(np.arange(16000) / 9)).astype(np.float32)
    for level in (20, 0, -10):
        noisy = corruption.corrupt_record(sounds(samples), one(f"audio:snr{level}"), 3)["modalities"]["audio"]
        assert snr(samples, noisy) == pytest.approx(level, abs=0.2)
    silent = corruption.corrupt_record(sounds(np.zeros(100, np.float32)), one("audio:snr0"), 0)["modalities"]["audio"]
    assert not silent.any()
    # A file is decoded, at its own rate, and of it what counts.
    file = make_sound("wav", samples[:, None], rate=8000)
    record = Record(id=0, modalities={"audio": file}, spans={"audio": (0.5, 1.5)})
    made = corruption.corrupt_record(record, one("audio:snr30"), 3)
    assert made["rates"]["audio"] == 8000 and "audio" not in made["spans"]
    assert snr(samples[4000:12000], made["modalities"]["audio"]) == pytest.approx(30, abs=0.3)
    assert record["modalities"]["audio"] is file
    # A span is read as it is without corruption, and what is no sound is left for where the sound is prepared.
    spanned = Record(id=0, modalities={"audio": samples}, rates={"audio": 8000}, spans={"audio": (-0.5, 0.25)})
    assert len(corruption.corrupt_record(spanned, one("audio:snr30"), 3)["modalities"]["audio"]) == 2000
    for wrong in (samples.astype(np.int16), np.full(9, np.nan, np.float32), samples[:, None]):
        assert corruption.corrupt_record(sounds(wrong), one("audio:snr0"), 0)["modalities"]["audio"] is wrong


def test_characters_are_left_out_or_replaced_with_the_probability_of_the_level():
    text = "0" * 4000
    of = lambda kind: corruption.corrupt_record(Record(id=0, modalities={"text": text}), one(kind), 1)["modalities"]
    assert len(of("text:delete0.3")["text"]) == pytest.approx(2800, rel=0.05)
    replaced = of("text:replace0.3")["text"]
    assert len(replaced) == 4000 and replaced.count("0") == pytest.approx(2800, rel=0.05)
    assert set(replaced) <= set("0abcdefghijklmnopqrstuvwxyz")


def test_a_modality_is_dropped_with_the_probability_of_the_level_and_never_the_last():
    arrays = {"series": np.ones((4, 1)), "table": np.ones(3)}
    half = [corruption.corrupt_arrays(arrays, one("table:drop0.5"), index) for index in range(2000)]
    assert sum("table" not in item for item in half) == pytest.approx(1000, rel=0.08)
    both = [corruption.corrupt_arrays(arrays, one("table:drop1,series:drop1"), index) for index in range(5)]
    assert all(list(item) == ["series"] for item in both)


def test_draws_are_the_examples_alone_and_shared_by_levels():
    first = changed("image:noise0.05", 7, image=GREY)["image"].astype(int) - 128
    again = changed("image:noise0.05", 7, image=GREY)["image"].astype(int) - 128
    np.testing.assert_array_equal(first, again)
    other = changed("image:noise0.05", 8, image=GREY)["image"].astype(int) - 128
    assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.05
    twice = changed("image:noise0.1", 7, image=GREY)["image"].astype(int) - 128
    assert np.abs(twice - 2 * first).max() <= 1
    # The numbers themselves, which results that repeat rely on.
    assert first[0, 0].tolist() == FIRST


FIRST = [-24, 9, 19]


def test_examples_are_corrupted_by_their_index_whatever_is_read():
    class Source:
        name, class_names, templates = "pictures", None, None

        def __len__(self):
            return 6

        def __getitem__(self, index):
            file = io.BytesIO()
            Image.fromarray(GREY).save(file, "PNG")
            samples = (0.3 * np.sin(np.arange(8000) / 9)).astype(np.float32)
            return Record(id=0, image=file.getvalue(), modalities={"audio": samples}, rates={"audio": 8000})

    audio = ModalitySpec.decoded("audio", AudioSpec(frames=16, mel_bins=8, sample_rate=8000))
    (sweep,) = corruption.parse_sweeps("image:noise0.1,audio:snr10")
    clean = InputSpecs(ImageSpec(size=16), (audio,))
    specs = InputSpecs(ImageSpec(size=16), (audio,), corruptions=sweep.points[0])
    every = [example.inputs for example in EvalExamples(Source(), specs)]
    plain = EvalExamples(Source(), clean)[0].inputs
    for name in ("image", "audio"):
        assert len({inputs[name].tobytes() for inputs in [plain, *every]}) == 7
        np.testing.assert_array_equal(EvalExamples(Source(), specs)[4].inputs[name], every[4][name])
        (alone,) = EvalExamples(Source(), specs).read([2])
        np.testing.assert_array_equal(alone.inputs[name], every[2][name])
