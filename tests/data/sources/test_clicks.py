"""Sounds with captions: what is said is what is heard, and what is held out is not trained on."""

import collections

import numpy as np
import pytest

from mmjax.data.mixture import open_source
from mmjax.data.record import record_mistake
from mmjax.data.source_protocols import HasModalities, Source
from mmjax.data.sources import clicks
from mmjax.data.sources.clicks import HELD_OUT, Clicks
from mmjax.data.sources.moving import PITCH_NAMES, PITCHES, WALLS
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import UserError


@pytest.fixture(scope="module")
def records():
    return {split: [Clicks(split)[i] for i in range(200)] for split in Clicks.splits}


def test_records_are_whole_and_repeat(records):
    source = Clicks("test")
    assert isinstance(source, Source) and isinstance(source, HasModalities) and len(source) == 1000
    for record in records["test"][:20] + records["train"][:20]:
        assert record_mistake(record) == "" and record["modalities"]["audio"].shape == (8000,)
        assert len(record["references"]) == 2 and record["captions"][0] in record["references"]
    np.testing.assert_array_equal(source[7]["modalities"]["audio"], records["test"][7]["modalities"]["audio"])


def test_no_description_is_in_both_splits(records):
    ids = {split: {record["id"] for record in some} for split, some in records.items()}
    assert all(number % HELD_OUT == 0 for number in ids["test"]) and all(number % HELD_OUT for number in ids["train"])


def test_every_description_has_a_caption_of_its_own():
    kinds = [(loudness, pitch) for loudness in clicks.LOUDNESS_NAMES.values() for pitch in PITCH_NAMES.values()]
    heard = [([one], walls) for one in kinds for walls in WALLS]
    heard += [([one, other], walls) for one in kinds for other in kinds for walls in WALLS]
    texts = [text for sound in heard for text in clicks.wordings(*sound)]
    assert len(heard) == 330 and len(set(texts)) == 660
    tokenizer = make_tokenizer("words:clicks", 16)
    ids, mask = tokenizer(texts)
    assert [tokenizer.decode(row.tolist()) for row in ids] == texts  # every word is known, and none is cut
    assert set(ids[mask].tolist()) - {1, 2} == set(range(6, tokenizer.vocab_size))  # and there is none in vain


def test_what_is_said_is_what_is_heard(records):
    """Pitch by the loudest frequency after each click, loudness by its peak, in their order."""
    names = {PITCH_NAMES[shape]: pitch for shape, pitch in PITCHES.items()}
    right = collections.Counter()
    for record in records["train"]:
        words = record["references"][0].split()
        words_heard = list(zip(words[1::6], words[2::6], strict=False))[: len(record["annotation"]["times"])]
        audio = record["modalities"]["audio"].astype(np.float64)
        assert words[-1] == record["annotation"]["walls"]
        for (loudness, pitch), time in zip(words_heard, record["annotation"]["times"], strict=True):
            begin = int(time * 8000)
            window = audio[begin : begin + 240] * np.hanning(480)[240:]
            spectrum = np.abs(np.fft.rfft(window, 8192))
            lowest = np.array(
                [spectrum[int(0.97 * f * 8192 / 8000) : int(1.03 * f * 8192 / 8000) + 1].max() for f in names.values()]
            )
            right["pitch"] += list(names)[lowest.argmax()] == pitch
            right["loudness"] += (np.abs(audio[begin : begin + 80]).max() > 0.27) == (loudness == "loud")
            right["all"] += 1
    assert right["pitch"] > 0.9 * right["all"] and right["loudness"] > 0.85 * right["all"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: open_source("clicks/tset", field="data.eval"), "data.eval='clicks/tset': split='tset'.*'test'"),
        (lambda: Clicks(sample_rate=4000), "sample_rate=4000 is too small"),
        (lambda: Clicks(length=0), "length=0 is out of range for clicks/train"),
    ],
)
def test_what_is_out_of_range_is_one_line(make, message):
    with pytest.raises(UserError, match=message):
        make()
