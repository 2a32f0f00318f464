"""Utterances in an invented language, spoken by tones, with their transcripts: recognition without a download.

A word is two syllables of a consonant and a vowel. As in speech, two resonances (formants) move: a vowel holds them, a
consonant is where the second one comes from, with its noise, its murmur or its silence. An utterance is two to four
words. Its voice has a pitch, which falls, and formants of its own height; words are spoken faster or slower, and there
is noise:

    audio  float32 [16000]  two seconds at 8 kHz; before and after the words there is noise alone

The transcript decides by its hash whether an utterance belongs to training or to the test split: there are 2.6 million,
of which 5 % are held out. Each word has a translation, so that there are two tasks, which `task` of a record says.
"""

import functools

import numpy as np
from jaxtyping import Float32

from mmjax.data.loading.order import example_rng
from mmjax.data.record import Record, check_index, stable_id
from mmjax.data.sources.shapes import pick
from mmjax.errors import UserError, validate_choice
from mmjax.utils.random_streams import ToneStream

WORDS = (
    *("bado", "bemi", "biku", "bosa", "bule", "dabi", "dema", "diso", "doku", "dule"),
    *("kabe", "kedu", "kila", "komi", "kuso", "lado", "lebu", "like", "lomi", "lusa"),
    *("mabu", "medo", "miki", "mola", "muse", "sabi", "seku", "simo", "sode", "sula"),
    *("bake", "deli", "kosi", "lama", "mubo", "sidu", "baso", "kemo", "lodi", "sebu"),
)
# What they mean, word by word; none of them is a word of the language itself.
MEANINGS = (
    *("house", "tree", "water", "fire", "stone", "bird", "fish", "horse", "dog", "cat"),
    *("sun", "moon", "star", "rain", "wind", "snow", "river", "hill", "road", "field"),
    *("bread", "milk", "salt", "apple", "egg", "hand", "eye", "foot", "head", "heart"),
    *("boat", "door", "book", "cup", "knife", "red", "blue", "green", "black", "white"),
)
TASKS = ("transcribe", "translate")
COUNTS = (2, 3, 4)  # words of an utterance
SAMPLE_RATE = 8000
SECONDS = 2.0
TRAIN_LENGTH = 1_000_000
TEST_LENGTH = 1_000
MAX_TEST_LENGTH = 10_000
HELD_OUT = 20  # one transcript in so many

VOWELS = {"a": (750.0, 1250.0), "e": (500.0, 1850.0), "i": (300.0, 2300.0), "o": (480.0, 900.0), "u": (320.0, 680.0)}
# Where the second formant comes from in Hz; how loud voice and noise are.
CONSONANTS = {
    "b": (600.0, 0.15, 0.1),
    "d": (1800.0, 0.15, 0.1),
    "k": (2500.0, 0.0, 0.35),
    "l": (1300.0, 0.6, 0.0),
    "m": (1000.0, 0.35, 0.0),
    "s": (1900.0, 0.0, 0.8),
}
_MURMUR = 250.0  # Hz of the first formant of a consonant
_CONSONANT, _VOWEL, _PAUSE = 0.05, 0.1, 0.06  # seconds at normal speed, which are at most 1.25 times as long
_GLIDE = 0.025  # seconds from a consonant's formants to a vowel's
_SILENCE = 0.02  # seconds before and after, at least


class Tones:
    """Utterances of invented words; example i is a pure function of (split, i).

    Records have the transcript as their only caption, of the splits of translations what it means word by word, `task`,
    the transcript's hash as `id`, and `modalities` with `audio` float32 [16000] and its rate in `rates`. The
    `annotation` has `words` with `start` and `end` in seconds, `pitch` in Hz,
    `formant_scale`, by which this voice's formants are higher than those of the tables, and the standard deviation of
    the `noise`.

    Args:
      split: "train", a million, or "test", utterances whose transcripts are held out and pairwise different;
        "translations" and "test-translations" are the same sounds with their translations; "trimmed" are those of
        "train" with less silence around, in `spans`: 20 to 120 ms before the first word and after the last.
      length: number of examples; at most 10,000 in the test splits.

    Attributes:
      modality_shapes: of `audio`.

    Raises:
      UserError: on an unknown split, or a length out of range.
    """

    class_names = None
    splits = ("train", "test", "translations", "test-translations", "trimmed")
    templates = None

    def __init__(self, split: str = "train", length: int | None = None):
        self.split = validate_choice("split", split, self.splits)
        self.name = "tones" if split == "test" else f"tones/{split}"
        self.task = TASKS["translations" in split]
        self._is_test = split.startswith("test")
        self.length = length if length is not None else TEST_LENGTH if self._is_test else TRAIN_LENGTH
        if self.length < 1 or (self._is_test and self.length > MAX_TEST_LENGTH):
            most = MAX_TEST_LENGTH if self._is_test else "any number"
            raise UserError(f"length={self.length} is out of range for tones/{split}; choose from 1 to {most}")
        self.modality_shapes = {"audio": (int(SECONDS * SAMPLE_RATE),)}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, self.length)
        if not self._is_test:
            rng = example_rng(ToneStream.TRAIN, index)
            while is_held_out(words := draw_words(rng)):
                pass
        else:
            words = _test_utterances(self.length)[index]
            rng = example_rng(ToneStream.TEST, index)
        audio, annotation = speak(words, rng)
        text = " ".join(words)
        record = Record(
            id=stable_id("tones", text),
            modalities={"audio": audio},
            rates={"audio": float(SAMPLE_RATE)},
            captions=[text if self.task == "transcribe" else translation(words)],
            task=self.task,
            annotation=annotation,
        )
        if self.split == "trimmed":
            record["spans"] = {"audio": _trimmed(annotation["words"], rng)}
        return record


def translation(words: tuple[str, ...]) -> str:
    """What words mean."""
    return " ".join(MEANINGS[WORDS.index(word)] for word in words)


def draw_words(rng: np.random.Generator) -> tuple[str, ...]:
    """Draws the words of an utterance, any after any."""
    return tuple(pick(rng, WORDS) for _ in range(pick(rng, COUNTS)))


def is_held_out(words: tuple[str, ...]) -> bool:
    """Whether a transcript belongs to the test split."""
    return stable_id("tones", " ".join(words)) % HELD_OUT == 0


def speak(words: tuple[str, ...], rng: np.random.Generator) -> tuple[Float32[np.ndarray, " samples"], dict]:
    """Makes the sound of an utterance, and its annotation, see `Tones`."""
    count = int(SECONDS * SAMPLE_RATE)
    scale, pitch = 0.9 + 0.2 * rng.random(), 90.0 + 130.0 * rng.random()
    noise = 0.002 + 0.018 * rng.random()
    tempo = 0.8 + 0.45 * rng.random()  # factor of all durations
    # Control points: second; first and second formant in Hz; loudness of voice and of noise.
    points: list[tuple[float, float, float, float, float]] = []
    spoken, time = [], 0.0
    for word in words:
        time += _PAUSE * tempo * (0.5 + 0.5 * rng.random()) if spoken else 0.0
        begin = time
        for consonant, vowel in (word[:2], word[2:]):
            locus, voice, hiss = CONSONANTS[consonant]
            first, second = VOWELS[vowel]
            middle = time + _CONSONANT * tempo * (0.85 + 0.3 * rng.random())
            end = middle + _VOWEL * tempo * (0.85 + 0.3 * rng.random())
            points += [
                (time, _MURMUR, locus, 0.0, 0.0),
                (time + 0.005, _MURMUR, locus, voice, hiss),
                (middle - 0.005, _MURMUR, locus, voice, hiss),
                (middle + _GLIDE, first, second, 1.0, 0.0),
                (end - 0.01, first, second, 1.0, 0.0),
                (end, first, second, 0.0, 0.0),
            ]
            time = end
        spoken.append((word, begin, time))
    start = _SILENCE + (SECONDS - 2 * _SILENCE - time) * rng.random()
    sample = int(start * SAMPLE_RATE)
    samples = np.arange(sample, min(count, sample + int(time * SAMPLE_RATE) + 1)) / SAMPLE_RATE - start
    controls = np.array(points)
    first, second, voice, hiss = (np.interp(samples, controls[:, 0], column) for column in controls[:, 1:].T)
    # The larynx opens and closes in the rhythm of the pitch, which falls by a fifth.
    opening = 1 - 0.6 * np.cos(_phase(np.linspace(pitch, 0.8 * pitch, len(samples))))
    tones = 0.6 * np.sin(_phase(scale * first)) + 0.4 * np.sin(_phase(scale * second))
    gain = 0.25 * (0.8 + 0.4 * rng.random())
    random = rng.random(count + 1) - 0.5
    wave = noise * np.sqrt(12) * random[1:]
    # Differences of neighbours hiss: they have more of the high frequencies.
    hissing = 0.3 * hiss * np.diff(random[sample : sample + len(samples) + 1])
    wave[sample : sample + len(samples)] += gain * voice * opening * tones + hissing
    timed = [{"word": word, "start": start + begin, "end": start + end} for word, begin, end in spoken]
    annotation = {"words": timed, "pitch": pitch, "formant_scale": scale, "noise": noise}
    return wave.astype(np.float32), annotation


def _trimmed(words: list[dict], rng: np.random.Generator) -> tuple[float, float]:
    """From and to which second an utterance is heard of which little silence remains."""
    before, after = (_SILENCE + 0.1 * rng.random() for _ in range(2))
    return max(0.0, words[0]["start"] - before), min(SECONDS, words[-1]["end"] + after)


def _phase(frequency: np.ndarray) -> np.ndarray:
    """Radians that a tone of a changing frequency has gone through."""
    return np.cumsum(frequency) * (2 * np.pi / SAMPLE_RATE)


@functools.lru_cache(maxsize=4)
def _test_utterances(length: int) -> list[tuple[str, ...]]:
    """The first `length` transcripts of the test split; a shorter split begins a longer one."""
    rng = example_rng(ToneStream.TEST_TRANSCRIPTS, 0)
    chosen: dict[tuple[str, ...], None] = {}  # in the order in which they are drawn
    while len(chosen) < length:
        words = draw_words(rng)
        if is_held_out(words):
            chosen[words] = None
    return list(chosen)
