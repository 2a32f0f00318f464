import hashlib

import numpy as np
import pytest

from mmjax.data.mixture import open_source
from mmjax.data.record import record_mistake
from mmjax.data.source_protocols import HasModalities, Source
from mmjax.data.sources import instruments
from mmjax.data.sources.instruments import NOTES, REGISTERS, REST, SAMPLE_RATE, STEPS, TIMBRES, Instruments, Tune
from mmjax.data.sources.shapes import COLORS, SHAPES
from mmjax.errors import UserError


@pytest.fixture(scope="module")
def records():
    source = Instruments("train")
    return [source[i] for i in range(200)]


def beats(record):
    return np.split(record["modalities"]["audio"], instruments.BEATS)


def test_pitches_are_those_of_colour_and_melody(records):
    """The loudest frequency of a note is its pitch, and a rest is silent but for noise."""
    for record in records[:60]:
        tune = Tune(**record["annotation"])
        for note, part in zip(tune.melody, beats(record), strict=True):
            if note == REST:
                assert abs(part).max() <= 0.002
                continue
            spectrum = abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 15))
            pitch = REGISTERS[tune.color] * 2 ** (STEPS[NOTES.index(note)] / 12)
            got = spectrum.argmax() * SAMPLE_RATE / (1 << 15)
            assert abs(12 * np.log2(got / pitch)) < 0.5, (tune, note)


def test_registers_do_not_overlap():
    lowest = sorted(REGISTERS.values())
    assert len(lowest) == len(COLORS) and set(TIMBRES) == set(SHAPES)
    tuned = 0.5  # semitones
    assert all(12 * np.log2(b / a) > STEPS[-1] + 2 * tuned - 1e-6 for a, b in zip(lowest, lowest[1:], strict=False))
    assert lowest[-1] * 2 ** ((STEPS[-1] + tuned) / 12) < SAMPLE_RATE / 2


def test_timbres_differ_in_how_notes_go_on(records):
    """The share of a note's energy in its last third: little of what is plucked, much of what swells."""
    shares = {shape: [] for shape in SHAPES}
    for record in records:
        for note, part in zip(record["annotation"]["melody"], beats(record), strict=True):
            if note != REST:
                energy = np.square(part)
                shares[record["annotation"]["shape"]].append(energy[-len(part) // 3 :].sum() / energy.sum())
    means = {shape: float(np.mean(values)) for shape, values in shares.items()}
    assert means["cross"] < 0.01 < means["ring"] < 0.2 < means["circle"] < 0.34 < means["triangle"]


def test_all_instruments_sound_alike_but_for_pitch_and_timbre(records):
    """Nothing but what is tied to the picture tells one clip from another: as many notes, as loud."""
    by_color = {color: [] for color in COLORS}
    for record in records:
        by_color[record["annotation"]["color"]].append(sum(note != REST for note in record["annotation"]["melody"]))
    assert all(2.5 < np.mean(counts) < 4 for counts in by_color.values())


def test_pictures_show_colour_shape_and_melody(records):
    for record in records[:20]:
        video, tune = record["modalities"]["video"], Tune(**record["annotation"])
        assert video.shape == (8, 32, 32, 3) and video.dtype == np.uint8
        distance = abs(video.astype(int) - np.array(COLORS[tune.color])).sum(-1)
        rows = [np.nonzero(frame < 60)[0].mean() for frame in distance]
        heights = [NOTES.index(note) for note in tune.melody if note != REST]
        seen = [rows[2 * beat] for beat, note in enumerate(tune.melody) if note != REST]
        for (a, x), (b, y) in zip(
            zip(heights, seen, strict=True), zip(heights[1:], seen[1:], strict=True), strict=False
        ):
            assert (a > b) == (x < y - 1) and (a < b) == (x > y + 1)


def test_descriptions_of_the_test_split_are_held_out(records):
    tunes = instruments._test_tunes(1000)
    assert len(set(tunes)) == 1000 and all(map(instruments.is_held_out, tunes))
    assert not any(instruments.is_held_out(Tune(**record["annotation"])) for record in records)
    assert [Instruments("test")[i]["annotation"] for i in (0, 999)] == [tunes[0]._asdict(), tunes[999]._asdict()]
    assert instruments._test_tunes(10) == tunes[:10]
    ids = {record["id"] for record in records}
    assert len(ids) > 190


def test_a_record_is_a_pure_function_of_its_index(records):
    source = Instruments()
    assert isinstance(source, Source) and isinstance(source, HasModalities)
    for i in (150, 0, 7):
        assert record_mistake(source[i]) == "" and source[i]["captions"] == records[i]["captions"]
        for name, array in source[i]["modalities"].items():
            np.testing.assert_array_equal(array, records[i]["modalities"][name])
            assert array.shape == source.modality_shapes[name]
    assert all(abs(record["modalities"]["audio"]).max() < 1 for record in records)


def test_the_first_records_do_not_change(records):
    # A change here changes every result on instruments: deliberately, and noted, or not at all.
    assert [record["captions"][0] for record in records[:2]] == FIRST
    digest = hashlib.sha256(records[0]["modalities"]["video"].tobytes()).hexdigest()[:12]
    assert digest == PICTURES
    np.testing.assert_allclose(records[0]["modalities"]["audio"].std(), SPREAD, rtol=1e-4)


FIRST = ["a white ring plays highest rest high highest", "a white ring plays lowest middle lowest high"]
PICTURES, SPREAD = "068f5a115c35", 0.128694


def test_the_source_has_a_name_splits_and_limits():
    assert (
        open_source("instruments").name == "instruments/train" and open_source("instruments/test").name == "instruments"
    )
    for options, message in (
        (dict(split="val"), "split='val' is not known"),
        (dict(length=0), "length=0 is out of range"),
        (dict(split="test", length=2001), "choose from 1 to 2000"),
    ):
        with pytest.raises(UserError, match=message):
            Instruments(**options)
