"""Four synthetic modalities that share information about a label, for fusion and for missing modalities.

Three hidden bits u, v, w make eight classes. Each modality shows two of them, so that no modality shows all:

    image   float32 [16, 16, 3]  a blob: u moves it left or right, v up or down
    series  float32 [32, 4]      waves: v sets their frequency, w the phase of channels 2 and 3 against 0 and 1
    table   float32 [6]          w and u, mixed into four numbers and two categories
    text    float32 [10]         "the valve is wide and the pump is slow": u opens the valve, v speeds the pump; ids of
                                 VOCABULARY, NaN after the last

What a modality shows of a bit is the bit as +-1 plus Gaussian noise of its own; the pixels', samples' and columns'
noise comes on top of that and matters little. Who reads everything out of a modality knows each of its bits with
probability Phi(1 / noise), and with both that show a bit, Phi(sqrt(1 / noise_1^2 + 1 / noise_2^2)); a bit that none
shows is a coin flip. That bounds the accuracy of any classifier, `best_accuracy`:

    image 0.47   series 0.44   table 0.44   image+series 0.91   image+table 0.91   series+table 0.87   all three 0.97
    text 0.47    table+text 0.91
"""

import functools
import math
from collections.abc import Collection

import numpy as np
from jaxtyping import Float32

from mmjax.data.loading.order import example_rng
from mmjax.data.record import Record, check_index, stable_id
from mmjax.errors import validate_choice
from mmjax.utils.random_streams import SensorStream

TRAIN_LENGTH = 1_000_000
TEST_LENGTH = 2_000
SHAPES = {"image": (16, 16, 3), "series": (32, 4), "table": (6,), "text": (10,)}
NUMERIC, CATEGORIES = 4, (4, 6)  # the table's columns: numbers, then categories and how many there are
SHOWS = {"image": "uv", "series": "vw", "table": "wu", "text": "uv"}  # bits
# Standard deviation of what is shown of a bit.
NOISE = {"image": 1 / 1.9, "series": 1 / 1.55, "table": 1 / 1.55, "text": 1 / 1.9}
OPENINGS = ("shut", "closed", "narrow", "open", "wide", "gaping")
SPEEDS = ("stopped", "crawling", "slow", "brisk", "fast", "racing")
VOCABULARY = ("the", "valve", "pump", "is", "and", "while", "today", "again", *OPENINGS, *SPEEDS)

_BLOB = 2.0  # standard deviation, pixels
_SHIFT = 2.5  # of the blob by +-1, pixels
_PIXELS, _SAMPLES, _COLUMNS = 0.1, 0.2, 0.1  # standard deviations of the noise on top
_CYCLES = (4.0, 1.0)  # in a series: at 0, and more at +1
_PHASE = math.pi / 4


class Sensors:
    """Examples of four modalities and a label; example i is a pure function of (split, i).

    Records have `modalities` (all of them; a source never leaves one out), `label` = 4 u + 2 v + w, and an `id` of
    their own.

    Args:
      split: "train", a million examples, or "test", 2,000.

    Attributes:
      modality_shapes: by name.
      class_names: the bits, "000" to "111".
    """

    splits = ("train", "test")
    templates = None
    modality_shapes = SHAPES

    def __init__(self, split: str = "train"):
        self.split = validate_choice("split", split, self.splits)
        self.name = "sensors" if split == "test" else "sensors/train"
        self.class_names = [f"{label:03b}" for label in range(8)]

    def __len__(self) -> int:
        return TRAIN_LENGTH if self.split == "train" else TEST_LENGTH

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        rng = example_rng(SensorStream.TRAIN if self.split == "train" else SensorStream.TEST, index)
        label = int(rng.random() * 8)
        bits = dict(zip("uvw", (float(2 * (label >> shift & 1) - 1) for shift in (2, 1, 0)), strict=True))
        modalities = {}
        for name, make in (("image", _image), ("series", _series), ("table", _table), ("text", _text)):
            noise = _normal(rng, 2)
            first, second = (bits[bit] + NOISE[name] * x for bit, x in zip(SHOWS[name], noise, strict=True))
            modalities[name] = make(first, second, rng)
        return Record(id=stable_id("sensors", self.split, index), label=label, modalities=modalities)


def best_accuracy(names: Collection[str]) -> float:
    """The accuracy that no classifier of these modalities can exceed: the product over the bits of what is known."""
    known = 1.0
    for bit in "uvw":
        signal = math.sqrt(sum(NOISE[name] ** -2 for name in names if bit in SHOWS[name]))
        known *= 0.5 * (1 + math.erf(signal / math.sqrt(2)))
    return known


def _image(u: float, v: float, rng: np.random.Generator) -> Float32[np.ndarray, "16 16 3"]:
    height, width, channels = SHAPES["image"]
    x, y = _centred(width), _centred(height)
    blob = np.exp(-((y - _SHIFT * v) ** 2) / (2 * _BLOB**2))[:, None] * np.exp(
        -((x - _SHIFT * u) ** 2) / (2 * _BLOB**2)
    )
    tint = 0.5 + 0.5 * rng.random(channels)  # tells nothing
    noise = _uniform(rng, (height, width, channels))
    return (blob[:, :, None] * tint + _PIXELS * noise).astype(np.float32)


def _series(v: float, w: float, rng: np.random.Generator) -> Float32[np.ndarray, "32 4"]:
    steps, channels = SHAPES["series"]
    time = _centred(steps) / steps
    angle = 2 * math.pi * ((_CYCLES[0] + _CYCLES[1] * v) * time + (rng.random() - 0.5) / 4)
    shifted = angle + _PHASE * w
    waves = np.stack([np.sin(angle), np.cos(angle), np.sin(shifted), np.cos(shifted)], axis=1)
    return (waves + _SAMPLES * _uniform(rng, (steps, channels))).astype(np.float32)


def _table(w: float, u: float, rng: np.random.Generator) -> Float32[np.ndarray, " 6"]:
    noise = _COLUMNS * _uniform(rng, NUMERIC)
    nothing = rng.random(2)
    group = 2 * (w > 0) + (u > 0)  # what can be read off roughly is a category, too
    return np.array(
        [
            0.8 * w + 0.6 * u + noise[0],
            0.6 * w - 0.8 * u + noise[1],
            math.tanh(w) + noise[2],
            4 * nothing[0] - 2 + noise[3],
            (0, 3, 1, 2)[group],
            int(CATEGORIES[1] * nothing[1]),
        ],
        np.float32,
    )


def _text(u: float, v: float, rng: np.random.Generator) -> Float32[np.ndarray, " 10"]:
    clauses = [f"the valve is {_word(OPENINGS, u)}", f"the pump is {_word(SPEEDS, v)}"]
    clauses = clauses if rng.random() < 0.5 else clauses[::-1]  # the order and the words between tell nothing
    sentence = ("and", "while")[int(2 * rng.random())].join(f" {clause} " for clause in clauses)
    words = [*sentence.split(), *(("today",), ("again",), ())[int(3 * rng.random())]]
    ids = np.full(SHAPES["text"], np.nan, np.float32)
    ids[: len(words)] = [VOCABULARY.index(word) for word in words]
    return ids


def _word(words: tuple[str, ...], value: float) -> str:
    """The word for a value, from the first for the lowest to the last for the highest."""
    return words[int(np.searchsorted((-1.5, -0.75, 0.0, 0.75, 1.5), value))]


@functools.lru_cache(maxsize=8)
def _centred(count: int) -> np.ndarray:
    """Of so many pixels or samples, from the middle."""
    return np.arange(count) - (count - 1) / 2


def _uniform(rng: np.random.Generator, shape: int | tuple[int, ...]) -> np.ndarray:
    """Uniform noise of variance 1."""
    return (rng.random(shape) - 0.5) * math.sqrt(12)


def _normal(rng: np.random.Generator, count: int) -> np.ndarray:
    # Only `random()` is promised to give the same sequence in every version: Box and Muller's transform of it.
    half = -(-count // 2)
    radius, angle = np.sqrt(-2 * np.log1p(-rng.random(half))), 2 * np.pi * rng.random(half)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
