"""Scenes of two objects in motion with their sounds, captions, and questions: video and audio without a download.

An object has a colour, a shape, a direction and a speed; one of the two or both bounce off a wall, once. The walls are
the edges of the picture. A bounce is heard as a click: its pitch says which shape bounces, its loudness how fast, and
its ring what the walls are made of, which is not seen:

    video  uint8 [8, 32, 32, 3]  colours, shapes, directions, speeds, bounces
    audio  float32 [8000]        the shapes and speeds of what bounces, and when; wood, metal or glass

The sound does not depend on the directions, nor the picture on the material of the walls. A description (colours,
shapes, directions, speeds and bounces, without positions, times, walls or wording) decides by its hash whether a scene
belongs to training or to the test split: there are 134,400, of which 5 % are held out.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8

from mmjax.data.loading.order import example_rng
from mmjax.data.record import Record, check_index, stable_id
from mmjax.data.sources import moving_questions
from mmjax.data.sources.shapes import BACKGROUNDS, COLORS, SHAPES, TINTS, background, draw_object, pick
from mmjax.errors import UserError, validate_choice
from mmjax.metrics.vqa_answers import HUMANS, answer_type
from mmjax.utils.random_streams import MovingStream

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # x rightwards, y downwards
SPEEDS = {"slow": 9.0, "fast": 19.0}  # pixels of a 32-pixel frame a second
MOTIONS = ("sideways", "up and down", "crosswise")  # both, both, one and the other
BOUNCES = ((True, True), (True, False), (False, True))
WALLS = {"wood": 0.012, "metal": 0.16, "glass": 0.05}  # seconds in which a click decays to 1 / e
PARTIALS = {  # multiples of a click's pitch, and their shares
    "wood": ((1.0, 1.0),),
    "metal": ((1.0, 0.5), (1.58, 0.3), (2.24, 0.2)),
    "glass": ((1.0, 0.55), (2.6, 0.45)),
}
PITCHES = dict(zip(SHAPES, (400.0, 520.0, 676.0, 879.0, 1143.0), strict=True))  # Hz
PITCH_NAMES = dict(zip(SHAPES, ("deep", "low", "middle", "high", "shrill"), strict=True))
LOUDNESS = {"slow": 0.2, "fast": 0.4}
SECONDS = 1.0
# Words of captions, questions, answers, transcripts and class names. Ids follow from the order: append, never insert.
VOCABULARY = (
    *("a", "an", "moves", "and", "bounces", "while", "going", "back", "with", "slowly"),
    *COLORS,
    *SHAPES,
    *DIRECTIONS,
    *SPEEDS,
    *(
        "what",
        "colour",
        "shape",
        "is",
        "the",
        "object",
        "that",
        "starts",
        "to",
        "move",
        "which",
        "way",
        "does",
        "start",
    ),
    *("how", "bounce", "first", "many", "clicks", "are", "there", "walls", "made", "of", "yes", "no", "1", "2"),
    *WALLS,
    *(*PITCH_NAMES.values(), "click", "on"),
    *("two", "objects", "sideways", "crosswise", "between"),
)
TRAIN_LENGTH = 1_000_000
TEST_LENGTH = 1_000
MAX_TEST_LENGTH = 4_000  # held-out descriptions would run out beyond
HELD_OUT = 20  # one description in so many

_COLORS, _SPEEDS, _WALLS = map(tuple, (COLORS, SPEEDS, WALLS))
_RADII = (4.4, 4.6, 4.8)  # pixels of a 32-pixel frame
_BOUNCE_TIMES = (0.3, 0.7)  # seconds; before and after, there are frames that show the direction
_APART = 0.15  # seconds from one bounce to the other, at least
_MARGIN = 1.5  # pixels of a 32-pixel frame between a wall and what does not bounce
_LANES = 6  # tries to keep objects from hiding one another
_EDGE = 4  # pixels around a frame while it is drawn


class MovingObject(NamedTuple):
    """What is said of an object."""

    color: str
    shape: str
    direction: str
    speed: str
    bounces: bool


Scene = tuple[MovingObject, MovingObject]  # in the order of their colours, which differ


def description(scene: Scene) -> str:
    """A scene as one canonical string: equal for equal meanings."""
    return " | ".join(" ".join([*item[:4], "bounces" if item.bounces else ""]).strip() for item in scene)


def descriptions() -> Iterator[Scene]:
    """All scenes that there are: 28 pairs of colours, 5 x 5 shapes, (4 x 2)^2 motions, 3 bounces."""
    kinds = tuple(itertools.product(SHAPES, DIRECTIONS, _SPEEDS))
    for colors, first, second, bounces in itertools.product(itertools.combinations(_COLORS, 2), kinds, kinds, BOUNCES):
        yield MovingObject(colors[0], *first, bounces[0]), MovingObject(colors[1], *second, bounces[1])


def scene_id(scene: Scene) -> int:
    """The 64-bit id shared by all scenes of a description."""
    return stable_id("moving", description(scene))


def is_held_out(scene: Scene) -> bool:
    """Whether a description belongs to the test split."""
    return scene_id(scene) % HELD_OUT == 0


def motion(scene: Scene) -> str:
    """Along which axes the two objects move, one of `MOTIONS`; a bounce changes nothing about it."""
    return _motion(scene[0].direction, scene[1].direction)


def _motion(direction: str, other: str) -> str:
    axes = {_axis(direction), _axis(other)}
    return MOTIONS[2] if len(axes) == 2 else MOTIONS[axes.pop()]


def _axis(direction: str) -> int:
    """0 from left to right or back, 1 up or down."""
    return 0 if DIRECTIONS[direction][0] else 1


_DIRECTIONS = {  # of the two objects
    name: tuple(pair for pair in itertools.product(DIRECTIONS, repeat=2) if _motion(*pair) == name) for name in MOTIONS
}


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draws two objects; each of `MOTIONS` is as likely."""
    directions = pick(rng, _DIRECTIONS[pick(rng, MOTIONS)])
    colors = int(rng.random() * len(_COLORS)), int(rng.random() * (len(_COLORS) - 1))
    colors = sorted((colors[0], colors[1] + (colors[1] >= colors[0])))
    one, other = (
        MovingObject(_COLORS[color], pick(rng, SHAPES), direction, pick(rng, _SPEEDS), bounces)
        for color, direction, bounces in zip(colors, directions, pick(rng, BOUNCES), strict=True)
    )
    return one, other


def wordings(scene: Scene) -> list[str]:
    """All captions that a scene can have, four; at most 17 words of lower-case letters, without punctuation.

    "a red circle moves left fast and bounces while a blue ring moves up slowly", "a fast red circle going left and back
    with a slow blue ring going up", and both the other way round.
    """
    adverbs = {"slow": "slowly", "fast": "fast"}
    sentences, phrases = [], []
    for color, shape, direction, speed, bounces in scene:
        end = " and bounces" if bounces else ""
        sentences.append(
            f"{'an' if color[0] in 'aeiou' else 'a'} {color} {shape} moves {direction} {adverbs[speed]}{end}"
        )
        phrases.append(f"a {speed} {color} {shape} going {direction}{' and back' if bounces else ''}")
    return [
        joint.join(order)
        for joint, parts in ((" while ", sentences), (" with ", phrases))
        for order in (parts, parts[::-1])
    ]


def place_objects(scene: Scene, rng: np.random.Generator, size: int, frames: int) -> list[dict[str, Any]]:
    """Gives both objects their tracks.

    What is heard (the times of the bounces) is drawn before and without the directions.

    Returns:
      A dict for each object: `color`, `shape`, `direction`, `speed`, `bounces`; `radius` (half the extent), `x`, `y`
      (of the centre in every frame; rightwards and downwards) in pixels of frames of `size` x `size`; `bounce_time` in
      seconds, None where it does not bounce.
    """
    bounce_times = _bounce_times(scene, rng)
    seconds = np.arange(frames) * (SECONDS / frames)
    radii, along = [], []
    for item, bounce_time in zip(scene, bounce_times, strict=True):
        radius = pick(rng, _RADII)
        speed = SPEEDS[item.speed] * (0.95 + 0.1 * rng.random())
        if bounce_time is None:
            free = 32 - 2 * radius - _MARGIN - speed * SECONDS
            distance = _MARGIN + speed * (SECONDS - seconds) + free * rng.random()  # from the wall in front
        else:
            distance = speed * abs(seconds - bounce_time)
        forwards = sum(DIRECTIONS[item.direction]) > 0
        radii.append(radius)
        along.append(32 - radius - distance if forwards else radius + distance)

    def tracks() -> list[list[np.ndarray]]:
        lanes = [np.full(frames, radius + (32 - 2 * radius) * rng.random()) for radius in radii]
        return [
            [track, lane] if _axis(item.direction) == 0 else [lane, track]
            for item, track, lane in zip(scene, along, lanes, strict=True)
        ]

    def nearest(pair: list[list[np.ndarray]]) -> float:
        return float(min((pair[0][0] - pair[1][0]) ** 2 + (pair[0][1] - pair[1][1]) ** 2))

    chosen = max([tracks() for _ in range(_LANES)], key=nearest)
    scale = size / 32
    return [
        item._asdict()
        | {"radius": radius * scale, "x": (x * scale).tolist(), "y": (y * scale).tolist(), "bounce_time": bounce_time}
        for item, radius, (x, y), bounce_time in zip(scene, radii, chosen, bounce_times, strict=True)
    ]


def _bounce_times(scene: Scene, rng: np.random.Generator) -> list[float | None]:
    low, high = _BOUNCE_TIMES
    while True:
        times = [low + (high - low) * rng.random() for _ in scene]
        if abs(times[0] - times[1]) >= _APART:  # as likely for every scene, also where only one of them is used
            return [time if item.bounces else None for item, time in zip(scene, times, strict=True)]


def render(
    objects: list[dict[str, Any]], rng: np.random.Generator, size: int, frames: int
) -> UInt8[np.ndarray, "frames size size 3"]:
    """Draws the frames of placed objects, antialiased, on the backgrounds of `shapes`."""
    side = size + 2 * _EDGE
    plane = background(int(rng.random() * BACKGROUNDS), side)
    shades = [int(rng.random() * TINTS) for _ in objects]
    order = [0, 1] if rng.random() < 0.5 else [1, 0]  # who hides the other
    video = np.empty((frames, side, 3 * side), np.float32)
    video[:] = plane
    for frame in range(frames):
        for i in order:
            item = objects[i]
            # Quarters of a pixel, for which `shapes` keeps its masks.
            x, y = (int(4 * item[axis][frame]) / 4 + _EDGE for axis in "xy")
            draw_object(video[frame], {**item, "x": x, "y": y}, shades[i])
    inside = video[:, _EDGE:-_EDGE, 3 * _EDGE : -3 * _EDGE]
    return inside.astype(np.uint8).reshape(frames, size, size, 3)


def sound(
    objects: list[dict[str, Any]], walls: str, rng: np.random.Generator, sample_rate: int
) -> Float32[np.ndarray, " samples"]:
    """A second with a click at each bounce, in [-1, 1], and some noise."""
    time = _sample_times(sample_rate)
    wave = (rng.random(len(time)) - 0.5) * (0.04 * rng.random())
    for item in objects:
        if item["bounce_time"] is None:
            continue
        pitch = PITCHES[item["shape"]] * (0.98 + 0.04 * rng.random())
        loudness = LOUDNESS[item["speed"]] * (0.85 + 0.3 * rng.random())
        begin = int(item["bounce_time"] * sample_rate)
        since = time[: len(time) - begin]
        tone = sum(share * np.sin(2 * np.pi * pitch * multiple * since) for multiple, share in PARTIALS[walls])
        wave[begin:] += loudness * np.exp(since / -WALLS[walls]) * tone
    return wave.astype(np.float32)


def transcript(objects: list[dict[str, Any]], walls: str) -> str:
    """The sounds in words, in their order: "high click deep click on wood"."""
    heard = sorted((item["bounce_time"], item["shape"]) for item in objects if item["bounces"])
    return f"{' '.join(f'{PITCH_NAMES[shape]} click' for _, shape in heard)} on {walls}"


class Moving:
    """Scenes of two moving objects with their sounds; example i is a pure function of (split, i).

    Records have the scene's description as `id` (so two scenes of one description are positives of each other), one
    caption of what is seen, all its wordings as `references`, a question with ten times its answer, and `modalities`:
    `video` uint8 [frames, size, size, 3] and `audio` float32 [samples] with their `rates`. The `annotation` has
    `objects` as `place_objects` gives them, `motion`, `walls`, and `transcript`: the sounds in words.

    Args:
      split: "train", a million scenes, or "test", scenes whose descriptions are held out and pairwise different, and so
        are their captions.
      frames: of a second of video, at least 8.
      size: pixels of a frame's side, at least 32.
      sample_rate: of the sound in Hz, at least 8000.
      length: number of examples; at most 4,000 in the test split.

    Attributes:
      answer_names: all answers, sorted.
      modality_shapes: of `video` and `audio`.

    Raises:
      UserError: on an unknown split, or a number out of range.
    """

    class_names = None
    splits = ("train", "test")
    templates = None
    answer_names = sorted([*COLORS, *SHAPES, *DIRECTIONS, *SPEEDS, *WALLS, *moving_questions.COUNTS, "yes", "no"])

    def __init__(
        self,
        split: str = "train",
        frames: int = 8,
        size: int = 32,
        sample_rate: int = 8000,
        length: int | None = None,
    ):
        self.split = validate_choice("split", split, self.splits)
        self.name = "moving" if split == "test" else "moving/train"
        self.frames, self.size, self.sample_rate = frames, size, sample_rate
        for field, value, least in (("frames", frames, 8), ("size", size, 32), ("sample_rate", sample_rate, 8000)):
            if value < least:
                raise UserError(f"{field}={value} is too small to tell the scenes apart; choose {least} or more")
        self.length = length if length is not None else TRAIN_LENGTH if split == "train" else TEST_LENGTH
        if self.length < 1 or (split == "test" and self.length > MAX_TEST_LENGTH):
            most = MAX_TEST_LENGTH if split == "test" else "any number"
            raise UserError(f"length={self.length} is out of range for moving/{split}; choose from 1 to {most}")
        self.modality_shapes = {"video": (frames, size, size, 3), "audio": (int(sample_rate * SECONDS),)}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, self.length)
        if self.split == "train":
            rng = example_rng(MovingStream.TRAIN, index)
            while is_held_out(scene := draw_scene(rng)):
                pass
        else:
            scene = _test_scenes(self.length)[index]
            rng = example_rng(MovingStream.TEST, index)
        # First what is said, so that neither rates nor sizes change it.
        walls, texts = pick(rng, _WALLS), wordings(scene)
        text = pick(rng, texts)
        objects = place_objects(scene, rng, self.size, self.frames)
        question = moving_questions.ask(objects, walls, rng)
        answers = [question.answer] * HUMANS
        return Record(
            id=scene_id(scene),
            modalities={
                "video": render(objects, rng, self.size, self.frames),
                "audio": sound(objects, walls, rng, self.sample_rate),
            },
            rates={"video": self.frames / SECONDS, "audio": float(self.sample_rate)},
            captions=[text],
            references=texts,
            question=question.text,
            answers=answers,
            answer_type=answer_type(answers),
            question_type=question.template,
            annotation={
                "objects": objects,
                "motion": motion(scene),
                "walls": walls,
                "transcript": transcript(objects, walls),
            },
        )


@functools.lru_cache(maxsize=4)
def _test_scenes(length: int) -> list[Scene]:
    """The first `length` scenes of the test split; a shorter split begins a longer one."""
    rng = example_rng(MovingStream.TEST_SCENES, 0)
    chosen: dict[Scene, None] = {}  # in the order in which they are drawn
    while len(chosen) < length:
        scene = draw_scene(rng)
        if is_held_out(scene):
            chosen[scene] = None
    return list(chosen)


@functools.lru_cache(maxsize=8)
def _sample_times(sample_rate: int) -> Float[np.ndarray, " samples"]:
    """Seconds of the samples."""
    return np.arange(int(sample_rate * SECONDS)) / sample_rate
