import collections
import hashlib
import re
import subprocess
import sys

import numpy as np
import pytest

from mmjax.data.mixture import open_source
from mmjax.data.record import record_mistake, stable_id
from mmjax.data.source_protocols import HasModalities, Source
from mmjax.data.sources import tones
from mmjax.data.sources.tones import CONSONANTS, COUNTS, SAMPLE_RATE, VOWELS, WORDS, Tones
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import UserError


@pytest.fixture(scope="module")
def train_sample():
    source = Tones("train")
    return [source[i] for i in range(240)]


@pytest.fixture(scope="module")
def held_out():
    source = Tones("test")
    return [source[i] for i in range(60)]


def spectra(record):
    """For each word, 10 log spectra of 20 ms from its start to its end, in 12 bands up to 3.6 kHz."""
    audio, length = record["modalities"]["audio"], SAMPLE_RATE // 50
    words = record["annotation"]["words"]
    starts = np.concatenate([np.linspace(w["start"], w["end"] - 0.02, 10) for w in words])
    frames = np.stack([audio[int(s * SAMPLE_RATE) :][:length] for s in starts]) * np.hanning(length)
    power = np.square(abs(np.fft.rfft(frames, axis=1)))[:, 1:73].reshape(len(frames), 12, 6).sum(-1)
    return np.log(power + 1e-4).reshape(len(words), -1)


def test_words_can_be_recognised_in_utterances_never_heard(train_sample, held_out):
    """A linear classifier of spectra, trained on words of the training split, reads those of the test split."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    (x, y), (held_out_x, held_out_y) = (
        (np.concatenate([spectra(r) for r in part]), [w["word"] for r in part for w in r["annotation"]["words"]])
        for part in (train_sample, held_out)
    )
    classifier = LinearDiscriminantAnalysis("lsqr", shrinkage=0.1).fit(x, y)
    assert classifier.score(held_out_x, held_out_y) > 0.9


def test_vowels_have_their_formants(train_sample):
    """The strongest tones in the middle of the second vowel are those of the table, times the voice's scale."""
    for record in train_sample[:40]:
        audio, scale = record["modalities"]["audio"], record["annotation"]["formant_scale"]
        for word in record["annotation"]["words"]:
            end = int((word["end"] - 0.015) * SAMPLE_RATE)
            part = audio[end - 320 : end] * np.hanning(320)
            power = abs(np.fft.rfft(part, 4096))
            frequency = np.fft.rfftfreq(4096, 1 / SAMPLE_RATE)
            for formant in VOWELS[word["word"][3]]:
                near = abs(frequency - scale * formant) < 60
                assert power[near].max() > 6 * np.median(power)


def test_transcripts_are_what_is_spoken(train_sample):
    counts = collections.Counter()
    for record in train_sample:
        words = record["annotation"]["words"]
        assert record["captions"] == [" ".join(word["word"] for word in words)]
        assert record["id"] == stable_id("tones", record["captions"][0]) and record_mistake(record) == ""
        ends = [0.02, *(word["end"] for word in words)]
        assert all(e <= w["start"] < w["end"] for e, w in zip(ends, words, strict=False)) and ends[-1] <= 1.98
        audio, noise = record["modalities"]["audio"], record["annotation"]["noise"]
        assert audio.shape == (16000,) and audio.dtype == np.float32 and abs(audio).max() < 1
        # Before the first word there is noise alone, in the words more.
        begin = int(words[0]["start"] * SAMPLE_RATE)
        assert audio[:begin].std() == pytest.approx(noise, rel=0.3) and audio.std() > 2 * noise
        counts[len(words)] += 1
    assert set(counts) == set(COUNTS) and min(counts.values()) > 50
    assert {word for r in train_sample for word in r["captions"][0].split()} == set(WORDS)


def test_words_are_two_syllables_and_differ():
    assert len(set(WORDS)) == len(WORDS) == 40
    pattern = f"[{''.join(CONSONANTS)}][{''.join(VOWELS)}]" * 2
    assert all(re.fullmatch(pattern, word) for word in WORDS)
    assert {letter for word in WORDS for letter in word} == {*CONSONANTS, *VOWELS}


def test_transcripts_of_the_test_split_are_held_out(train_sample, held_out):
    assert sum(len(WORDS) ** count for count in COUNTS) == 2_625_600
    texts = [" ".join(words) for words in tones._test_utterances(1000)]
    assert len(set(texts)) == 1000 and all(stable_id("tones", text) % 20 == 0 for text in texts)
    assert [r["captions"][0] for r in held_out] == texts[: len(held_out)]
    assert not any(r["id"] % 20 == 0 for r in train_sample)
    rng = np.random.default_rng(0)
    drawn = [tones.draw_words(rng) for _ in range(2000)]
    assert abs(np.mean([tones.is_held_out(words) for words in drawn]) - 0.05) < 4 * (0.05 * 0.95 / 2000) ** 0.5
    assert len(set(drawn)) > 1_600


def test_a_record_is_a_pure_function_of_its_index(train_sample):
    source = Tones()
    assert isinstance(source, Source) and isinstance(source, HasModalities)
    assert (len(source), len(Tones("test")), source.modality_shapes) == (1_000_000, 1_000, {"audio": (16000,)})
    for i in (239, 0, 11):
        assert source[i]["annotation"] == train_sample[i]["annotation"]
        assert np.array_equal(source[i]["modalities"]["audio"], train_sample[i]["modalities"]["audio"])
    assert source[-1]["id"] == source[999_999]["id"]
    code = (
        "import sys, hashlib\nfrom mmjax.data.sources.tones import Tones\n"
        "sounds = [Tones(split, length=9)[i]['modalities']['audio'] for split in ('train', 'test') for i in range(3)]\n"
        "sys.stdout.write(hashlib.sha256(b''.join(x.tobytes() for x in sounds)).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    sounds = [Tones(split)[i]["modalities"]["audio"] for split in ("train", "test") for i in range(3)]
    assert out == hashlib.sha256(b"".join(x.tobytes() for x in sounds)).hexdigest()


def test_the_first_records_do_not_change(train_sample):
    # A change here changes every result on tones: deliberately, and noted, or not at all.
    assert [r["captions"][0] for r in train_sample[:4]] == FIRST
    sound = train_sample[0]["modalities"]["audio"]
    np.testing.assert_allclose([sound[:9000].std(), sound[9000:].std()], SPREADS, rtol=1e-4)


FIRST = ["dule seku sebu", "kemo deli like", "lado sebu lomi", "biku kuso lado"]
SPREADS = [0.0962779, 0.0489512]


def test_translations_are_the_same_sounds_with_what_the_words_mean(train_sample, held_out):
    for split, records in (("translations", train_sample[:20]), ("test-translations", held_out[:20])):
        source = Tones(split)
        for i, record in enumerate(records):
            other = source[i]
            assert (record["task"], other["task"], record_mistake(other)) == ("transcribe", "translate", "")
            assert np.array_equal(other["modalities"]["audio"], record["modalities"]["audio"])
            pairs = list(zip(record["captions"][0].split(), other["captions"][0].split(), strict=True))
            assert all(tones.MEANINGS[WORDS.index(word)] == meaning for word, meaning in pairs)
            assert other["id"] == record["id"]
    assert len(Tones("test-translations")) == 1_000 and Tones("translations").name == "tones/translations"


def test_trimmed_sounds_have_all_words_and_less_silence(train_sample):
    source = Tones("trimmed")
    for i, record in enumerate(train_sample[:40]):
        other, words = source[i], record["annotation"]["words"]
        start, end = other["spans"]["audio"]
        assert other["captions"] == record["captions"] and record_mistake(other) == "" and 0 <= start < end <= 2
        assert 0.02 <= words[0]["start"] - start <= 0.12 + 1e-9 and 0.02 - 1e-9 <= end - words[-1]["end"] <= 0.12 + 1e-9
    assert len({source[i]["spans"]["audio"][0] for i in range(10)}) == 10


def test_embedded_words_are_those_of_transcripts():
    tokenizer = make_tokenizer("words:tones", 8)
    ids, mask = tokenizer([" ".join(WORDS[i : i + 4]) for i in range(0, 40, 4)])
    assert set(ids[mask].tolist()) - {1, 2} == set(range(6, tokenizer.vocab_size)) and mask.sum(1).max() == 6


def test_the_source_has_a_name_splits_and_limits():
    assert open_source("tones").name == "tones/train" and open_source("tones/test").name == "tones"
    with pytest.raises(UserError, match="data.train='tones/tets': split='tets'.*did you mean 'test'"):
        open_source("tones/tets")
    for length in (0, 10_001):
        with pytest.raises(UserError, match=f"length={length} is out of range for tones/test; choose from 1 to 10000"):
            Tones("test", length=length)
    with pytest.raises(IndexError):
        Tones("test", length=5)[5]
