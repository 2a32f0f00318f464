"""Pictures of instruments that play, with their sounds: separation of sounds by what is seen, without a download.

An instrument is a coloured shape. Its colour is its register, the range of its pitches; its shape is its timbre: how a
note begins, trembles and dies away. It plays four notes or rests, and is seen higher the higher it plays:

    video  uint8 [8, 32, 32, 3]  colour and shape; the melody as heights
    audio  float32 [8000]        a second: four notes or rests

All melodies and loudnesses are as likely for every instrument: of two that play together, nothing that is heard says
which one a picture is of. Of one colour, one pair in eight, two are told apart by their timbres, or by nothing where
they have one shape, too. A description (colour, shape and melody) decides by its hash whether an example belongs to
training or to the test split: there are 51,800, of which 5 % are held out.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from mmjax.data.loading.order import example_rng
from mmjax.data.record import Record, check_index, stable_id
from mmjax.data.sources.shapes import BACKGROUNDS, COLORS, SHAPES, TINTS, background, draw_object, pick
from mmjax.errors import UserError, validate_choice
from mmjax.utils.random_streams import InstrumentStream

NOTES = ("lowest", "low", "middle", "high", "highest")
REST = "rest"
STEPS = (0, 1, 2, 3, 4)  # semitones of the notes above the lowest
BEATS = 4
SAMPLE_RATE = 8000
SECONDS = 1.0
FRAMES, SIZE = 8, 32
# Hz of the lowest note of each colour, five semitones from one to the next.
REGISTERS = {color: 200.0 * 2 ** (5 * step / 12) for step, color in enumerate(COLORS)}


class Timbre(NamedTuple):
    """How a note sounds.

    Attributes:
      attack, decay: seconds in which it begins, and in which it falls to 1 / e.
      tremolo: beats a second of its loudness; 0 for none.
      octave: loudness of the octave above it.
    """

    attack: float
    decay: float
    tremolo: float
    octave: float


TIMBRES = {
    "circle": Timbre(0.02, 2.0, 0.0, 0.0),
    "square": Timbre(0.02, 2.0, 16.0, 0.0),
    "triangle": Timbre(0.2, 2.0, 0.0, 0.0),
    "cross": Timbre(0.005, 0.04, 0.0, 0.0),
    "ring": Timbre(0.005, 0.15, 0.0, 0.3),
}
TRAIN_LENGTH = 1_000_000
TEST_LENGTH = 1_000
MAX_TEST_LENGTH = 2_000  # held-out descriptions would run out beyond
HELD_OUT = 20  # one description in so many

_COLORS = tuple(COLORS)
_HIGHEST = 3800.0  # Hz, beyond which octaves are left out
_RELEASE = 0.02  # seconds in which a note ends
_EDGE = 4  # pixels around a frame while it is drawn


class Tune(NamedTuple):
    """What is said of an example: an instrument and its melody, of `NOTES` and `REST`."""

    color: str
    shape: str
    melody: tuple[str, ...]


def description(tune: Tune) -> str:
    """A tune as one canonical string."""
    return f"{tune.color} {tune.shape} | {' '.join(tune.melody)}"


def tune_id(tune: Tune) -> int:
    """The 64-bit id shared by all examples of a description."""
    return stable_id("instruments", description(tune))


def is_held_out(tune: Tune) -> bool:
    """Whether a description belongs to the test split."""
    return tune_id(tune) % HELD_OUT == 0


def draw_tune(rng: np.random.Generator) -> Tune:
    """Draws an instrument and a melody of one note or more."""
    color, shape = pick(rng, _COLORS), pick(rng, SHAPES)
    while True:
        melody = tuple(pick(rng, (*NOTES, REST)) for _ in range(BEATS))
        if set(melody) != {REST}:
            return Tune(color, shape, melody)


def caption(tune: Tune) -> str:
    """A tune in words: "a red ring plays low rest high high"."""
    article = "an" if tune.color[0] in "aeiou" else "a"
    return f"{article} {tune.color} {tune.shape} plays {' '.join(tune.melody)}"


def sound(tune: Tune, rng: np.random.Generator) -> Float32[np.ndarray, " samples"]:
    """A second of a tune, in [-1, 1], with a little noise."""
    count = int(SECONDS * SAMPLE_RATE)
    timbre = TIMBRES[tune.shape]
    tuning, loudness = 2 ** ((rng.random() - 0.5) / 24), 0.2 + 0.2 * rng.random()
    wave = 0.004 * (rng.random(count) - 0.5)
    beat = count // BEATS
    since = np.arange(beat) / SAMPLE_RATE
    envelope = np.minimum(1, since / timbre.attack) * np.minimum(1, since[::-1] / _RELEASE)
    envelope *= np.exp(-since / timbre.decay) * (1 + np.cos(2 * np.pi * timbre.tremolo * since)) / 2
    for number, note in enumerate(tune.melody):
        gain, phase = 0.8 + 0.4 * rng.random(), 2 * np.pi * rng.random()
        if note == REST:
            continue
        pitch = tuning * REGISTERS[tune.color] * 2 ** (STEPS[NOTES.index(note)] / 12)
        tone = np.sin(2 * np.pi * pitch * since + phase)
        if 2 * pitch < _HIGHEST:
            tone += timbre.octave * np.sin(4 * np.pi * pitch * since + phase)
        wave[number * beat : (number + 1) * beat] += loudness * gain * envelope * tone
    return wave.astype(np.float32)


def render(tune: Tune, rng: np.random.Generator) -> UInt8[np.ndarray, "frames size size 3"]:
    """The frames of a tune, on the backgrounds of `shapes`; what rests stays where it was."""
    side = SIZE + 2 * _EDGE
    plane = background(int(rng.random() * BACKGROUNDS), side)
    shade, radius = int(rng.random() * TINTS), pick(rng, (5.5, 6.0, 6.5))
    x = radius + (SIZE - 2 * radius) * rng.random()
    heights = np.linspace(SIZE - radius, radius, len(NOTES))
    video, y = np.empty((FRAMES, side, 3 * side), np.float32), heights[len(NOTES) // 2]
    video[:] = plane
    for frame in range(FRAMES):
        note = tune.melody[frame * BEATS // FRAMES]
        y = y if note == REST else heights[NOTES.index(note)]
        position = {axis: int(4 * value) / 4 + _EDGE for axis, value in (("x", x), ("y", y))}
        item: dict[str, Any] = {"color": tune.color, "shape": tune.shape, "radius": radius, **position}
        draw_object(video[frame], item, shade)
    inside = video[:, _EDGE:-_EDGE, 3 * _EDGE : -3 * _EDGE]
    return inside.astype(np.uint8).reshape(FRAMES, SIZE, SIZE, 3)


class Instruments:
    """Instruments that play; example i is a pure function of (split, i).

    Records have the description as `id`, what it says as their only caption, and `modalities`: `video` uint8
    [8, 32, 32, 3] and `audio` float32 [8000] with their `rates`. The `annotation` has `color`, `shape` and `melody`.

    Args:
      split: "train", a million, or "test", tunes whose descriptions are held out and pairwise different.
      length: number of examples; at most 2,000 in the test split.

    Attributes:
      modality_shapes: of `video` and `audio`.

    Raises:
      UserError: on an unknown split, or a length out of range.
    """

    class_names = None
    splits = ("train", "test")
    templates = None

    def __init__(self, split: str = "train", length: int | None = None):
        self.split = validate_choice("split", split, self.splits)
        self.name = "instruments" if split == "test" else "instruments/train"
        self.length = length if length is not None else TRAIN_LENGTH if split == "train" else TEST_LENGTH
        if self.length < 1 or (split == "test" and self.length > MAX_TEST_LENGTH):
            most = MAX_TEST_LENGTH if split == "test" else "any number"
            raise UserError(f"length={self.length} is out of range for instruments/{split}; choose from 1 to {most}")
        self.modality_shapes = {"video": (FRAMES, SIZE, SIZE, 3), "audio": (int(SECONDS * SAMPLE_RATE),)}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, self.length)
        if self.split == "train":
            rng = example_rng(InstrumentStream.TRAIN, index)
            while is_held_out(tune := draw_tune(rng)):
                pass
        else:
            tune = _test_tunes(self.length)[index]
            rng = example_rng(InstrumentStream.TEST, index)
        audio = sound(tune, rng)
        return Record(
            id=tune_id(tune),
            modalities={"video": render(tune, rng), "audio": audio},
            rates={"video": FRAMES / SECONDS, "audio": float(SAMPLE_RATE)},
            captions=[caption(tune)],
            annotation=tune._asdict(),
        )


@functools.lru_cache(maxsize=4)
def _test_tunes(length: int) -> list[Tune]:
    """The first `length` tunes of the test split; a shorter split begins a longer one."""
    rng = example_rng(InstrumentStream.TEST_TUNES, 0)
    chosen: dict[Tune, None] = {}  # in the order in which they are drawn
    while len(chosen) < length:
        tune = draw_tune(rng)
        if is_held_out(tune):
            chosen[tune] = None
    return list(chosen)
