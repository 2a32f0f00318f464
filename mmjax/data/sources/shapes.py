"""Drawn scenes of one to three objects, with captions and structure: unlimited real supervision without a download.

A scene is one to three objects, each a (size, colour, shape), in different cells of a 2 x 2 grid. Two objects share a
row or a column; three form an L around one of them, the anchor. Every relation that a caption states therefore holds
along one axis, with the other axis nearly level. The description (objects and relations, without positions, exact
colours or wording) decides by its hash whether a scene belongs to training or to the test split, so a test description
is never seen in training, while each of its parts is: the test measures composition.
"""

import functools
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from mmjax.data.record import Record, check_index, stable_id
from mmjax.errors import UserError, validate_choice

COLORS = {
    "red": (224, 36, 36),
    "green": (32, 160, 56),
    "blue": (40, 84, 236),
    "yellow": (244, 224, 40),
    "purple": (156, 48, 200),
    "orange": (248, 136, 16),
    "pink": (252, 128, 192),
    "white": (248, 248, 248),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
RADII = {"small": (4.0, 4.2, 4.4), "large": (6.1, 6.3, 6.5)}  # in pixels of a 32-pixel image: half the object's extent
SIZES = tuple(RADII)
RELATIONS = ("left of", "right of", "above", "below")
TRAIN_LENGTH = 1_000_000
TEST_LENGTH = 1_000
MAX_TEST_LENGTH = 2_000  # held-out pairs would run out beyond

_COLORS = tuple(COLORS)
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
# Where the second object stands when the first one is `relation` it: (row, column).
_STEP = {"left of": (0, 1), "right of": (0, -1), "above": (1, 0), "below": (-1, 0)}
_CELL = 14.0  # cells of a 32-pixel image, after a border of 2 pixels
_BORDER = 2.0
_MAX_JITTER = 1.5
_PHASES = 4  # object positions are multiples of 1 / _PHASES pixel, so that masks can be cached
_SUPERSAMPLE = 4
BACKGROUNDS = 64  # how many there are, and of shades per colour: drawn once and kept
TINTS = 16

_TRAIN, _TEST, _TEST_DRAWING, _BACKGROUND, _TINT = range(5)  # independent streams of random numbers

Kind = tuple[str, str, str]  # size, colour, shape


class Scene(NamedTuple):
    """The content of a scene: `objects[0]` is the anchor, `relations` are triples (0, relation, other object)."""

    objects: tuple[Kind, ...]
    relations: tuple[tuple[int, str, int], ...]


def description(scene: Scene) -> str:
    """Returns the scene's objects and relations as one canonical string: equal for equal meanings."""
    phrases = [" ".join(kind) for kind in scene.objects]
    if len(phrases) == 2:
        _, relation, _ = scene.relations[0]
        if relation in ("right of", "below"):
            phrases, relation = phrases[::-1], _OPPOSITE[relation]
        return f"{phrases[0]} | {relation} {phrases[1]}"
    # The anchor of three is the one that shares a row with one and a column with the other, hence unique.
    return " | ".join(
        [phrases[0], *(f"{relation} {phrases[j]}" for _, relation, j in sorted(scene.relations, key=_axis))]
    )


@functools.lru_cache(maxsize=16)  # needed twice per example: for the split and for the record
def scene_id(scene: Scene) -> int:
    """Returns the 64-bit id shared by all drawings of the scene's description."""
    return stable_id("shapes", description(scene))


def is_held_out(scene: Scene) -> bool:
    """Whether the scene's description belongs to the test split.

    One tenth of all descriptions of two and three objects, and half of the 80 of a single object, of which one tenth
    would be too few to test on.
    """
    return scene in _held_out_singles() if len(scene.objects) == 1 else scene_id(scene) % 10 == 0


def draw_scene(rng: random.Random, count: int) -> Scene:
    """Draws `count` (1 to 3) different kinds of object and how they stand to one another."""
    objects: list[Kind] = []
    while len(objects) < count:
        kind = (pick(rng, SIZES), pick(rng, _COLORS), pick(rng, SHAPES))
        if kind not in objects:  # "a small red ring left of a small red ring" would describe nothing
            objects.append(kind)
    if count == 1:
        return Scene(tuple(objects), ())
    if count == 2:
        return Scene(tuple(objects), ((0, pick(rng, RELATIONS), 1),))
    horizontal, vertical = pick(rng, RELATIONS[:2]), pick(rng, RELATIONS[2:])
    return Scene(tuple(objects), ((0, horizontal, 1), (0, vertical, 2)))


def caption(scene: Scene, rng: random.Random) -> str:
    """Words the scene in one of its `wordings`, drawn at random."""
    swap = rng.random() < 0.5
    return wordings(scene)[-1 if swap else 0]


def wordings(scene: Scene) -> list[str]:
    """All captions that a scene can have: every object, attribute and relation, in two orders if there are several.

    "a small red ring left of a large blue cross"; of three objects the anchor comes first: "a large blue cross above a
    small red ring and right of a large green square". At most 16 words of lower-case letters, without punctuation.
    """
    names = ["a " + " ".join(kind) for kind in scene.objects]
    if not scene.relations:
        return names
    if len(names) == 2:
        (_, relation, _), (a, b) = scene.relations[0], names
        return [f"{a} {relation} {b}", f"{b} {_OPPOSITE[relation]} {a}"]
    parts = [f"{relation} {names[j]}" for _, relation, j in scene.relations]
    return [f"{names[0]} {' and '.join(order)}" for order in (parts, parts[::-1])]


def place_objects(scene: Scene, rng: random.Random, size: int) -> list[dict[str, Any]]:
    """Gives every object its cell, position and radius.

    Returns:
      One dict per object: `color`, `shape`, `size`, and `x`, `y` (centre; rightwards and downwards), `radius` (half the
      extent), in pixels of an image of `size` x `size`.
    """
    steps = [(0, 0)] + [_STEP[relation] for _, relation, _ in scene.relations]
    origin = []
    for axis in (0, 1):
        low, high = min(s[axis] for s in steps), max(s[axis] for s in steps)
        origin.append(-low if high > low else int(rng.random() * 2))
    scale = size / 32
    objects = []
    for (size_name, color, shape), (row, column) in zip(scene.objects, steps, strict=True):
        radius = pick(rng, RADII[size_name])
        jitter = min(_MAX_JITTER, _CELL / 2 - radius - 0.25)
        x = _BORDER + _CELL * (origin[1] + column + 0.5) + jitter * (2 * rng.random() - 1)
        y = _BORDER + _CELL * (origin[0] + row + 0.5) + jitter * (2 * rng.random() - 1)
        x, y = (int(v * scale * _PHASES) / _PHASES for v in (x, y))
        objects.append({"color": color, "shape": shape, "size": size_name, "x": x, "y": y, "radius": radius * scale})
    return objects


def render(objects: list[dict[str, Any]], rng: random.Random, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Draws placed objects, antialiased, on a dark, slightly tinted and graded background."""
    # [size, size * 3] while drawing: numpy is several times slower with three channels as a dimension of their own.
    image = background(int(rng.random() * BACKGROUNDS), size).copy()
    for item in objects:
        draw_object(image, item, int(rng.random() * TINTS))
    return image.astype(np.uint8).reshape(size, size, 3)


def draw_object(image: Float[np.ndarray, "height three_widths"], item: dict[str, Any], shade: int) -> None:
    """Draws an object into an image, in place.

    Args:
      image: values 0 to 255, the channels of a pixel side by side.
      item: `color`, `shape`, `x`, `y`, `radius`, as `place_objects` gives them, two pixels or more from the edges.
      shade: below `TINTS`, of its colour.
    """
    x, y = item["x"], item["y"]
    left, top = int(x), int(y)
    mask = _mask(item["shape"], item["radius"], int((x - left) * _PHASES), int((y - top) * _PHASES))
    reach = len(mask) // 2
    tint = _tint(item["color"], shade, 2 * reach)
    patch = image[top - reach : top + reach, 3 * (left - reach) : 3 * (left + reach)]
    patch += mask * (tint - patch)


class Shapes:
    """Drawn scenes, `size` pixels square; example i is a pure function of (split, i).

    Records have the scene's description as `id` (so two drawings of one description are positives of each other), one
    caption, all its wordings as `references`, and an `annotation`: `objects` as `place_objects` gives them, `relations`
    as (i, relation, j), "object i is `relation` object j".

    Args:
      split: "train", a million scenes, one in ten of a single object and the others half of two, half of three; or
        "test", scenes whose descriptions are held out and pairwise different, and so are their captions: one in 25 of a
        single object, the others half of two, half of three.
      size: pixels of the image's side, at least 32.
      length: number of examples; at most 2,000 in the test split.

    Raises:
      UserError: on an unknown split, or a size or length out of range.
    """

    class_names = None
    splits = ("train", "test")
    templates = None

    def __init__(self, split: str = "train", size: int = 32, length: int | None = None):
        self.split = validate_choice("split", split, self.splits)
        self.name = "shapes" if split == "test" else "shapes/train"
        self.size = size
        self.length = length if length is not None else TRAIN_LENGTH if split == "train" else TEST_LENGTH
        if size < 32:
            raise UserError(f"size={size} is too small to tell the shapes apart; choose 32 or more")
        if self.length < 1 or (split == "test" and self.length > MAX_TEST_LENGTH):
            most = MAX_TEST_LENGTH if split == "test" else "any number"
            raise UserError(f"length={self.length} is out of range for shapes/{split}; choose from 1 to {most}")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Record:
        return self.annotated(index)[0]

    def annotated(self, index: int) -> tuple[Record, dict[str, Any]]:
        """A record, and its `annotation`."""
        index = check_index(index, self.length)
        if self.split == "train":
            rng = _generator(_TRAIN, index)
            scene = _train_scene(rng)
            text = caption(scene, rng)
        else:
            scene, text = _test_scenes(self.length)[index]
            rng = _generator(_TEST_DRAWING, index)
        objects = place_objects(scene, rng, self.size)
        annotation = {"objects": objects, "relations": list(scene.relations)}
        record = Record(
            image=render(objects, rng, self.size),
            captions=[text],
            references=wordings(scene),
            id=scene_id(scene),
            annotation=annotation,
        )
        return record, annotation


@functools.lru_cache
def _held_out_singles() -> tuple[Scene, ...]:
    """Returns the 40 scenes of a single object whose ids are lowest."""
    kinds = [(size, color, shape) for size in SIZES for color in _COLORS for shape in SHAPES]
    scenes = [Scene((kind,), ()) for kind in kinds]
    return tuple(sorted(scenes, key=scene_id)[: len(scenes) // 2])


def _train_scene(rng: random.Random) -> Scene:
    draw = rng.random()
    count = 1 if draw < 0.1 else 2 if draw < 0.55 else 3
    while is_held_out(scene := draw_scene(rng, count)):
        pass
    return scene


@functools.lru_cache(maxsize=4)
def _test_scenes(length: int) -> list[tuple[Scene, str]]:
    """Returns the first `length` scenes of the test split with their captions; a shorter split begins a longer one."""
    rng = _generator(_TEST, 0)
    singles = list(_held_out_singles())
    chosen: list[tuple[Scene, str]] = []
    descriptions, captions = set(), set()
    while len(chosen) < length:
        i = len(chosen)
        scene = singles.pop() if i % 25 == 0 and singles else draw_scene(rng, 2 + i % 2)
        text = caption(scene, rng)
        if is_held_out(scene) and description(scene) not in descriptions and text not in captions:
            chosen.append((scene, text))
            descriptions.add(description(scene))
            captions.add(text)
    return chosen


def _generator(stream: int, index: int) -> random.Random:
    # Python's own generator: a tenth of the price of numpy's to seed and to draw single numbers from.
    return random.Random(index << 3 | stream)


def pick(rng: random.Random | np.random.Generator, options: Sequence[Any]) -> Any:
    """One of several options, each as likely."""
    # Only `random()` is promised to give the same sequence in every version of Python.
    return options[int(rng.random() * len(options))]


def _axis(relation: tuple[int, str, int]) -> int:
    return RELATIONS.index(relation[1]) // 2


@functools.lru_cache(maxsize=4 * BACKGROUNDS)  # of several sizes
def background(variant: int, size: int) -> Float[np.ndarray, "size three_sizes"]:
    """A dark plane of one tint with a slight gradient, values 0 to 98; `variant` is below `BACKGROUNDS`. Copy it."""
    rng = _generator(_BACKGROUND, variant)
    level = 24 + 40 * rng.random()
    base = np.array([level + 10 * rng.random() for _ in range(3)], np.float32)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    gradient = (24 * rng.random() - 12) * ramp[None, :] + (24 * rng.random() - 12) * ramp[:, None]
    return (gradient[:, :, None] + base).reshape(size, 3 * size)


@functools.lru_cache(maxsize=4096)
def _tint(color: str, variant: int, width: int) -> Float[np.ndarray, " row"]:
    """Returns a row of `width` pixels in one of the shades of a colour."""
    rng = _generator(_TINT, variant)
    shade = [min(255.0, max(0.0, channel + 20 * rng.random() - 10)) for channel in COLORS[color]]
    return np.array(shade * width, np.float32)


@functools.lru_cache(maxsize=4096)
def _mask(shape: str, radius: float, x_phase: int, y_phase: int) -> Float[np.ndarray, "side three_sides"]:
    """Returns how much of each pixel and channel an object covers, around the pixel corner at or before its centre."""
    reach = int(np.ceil(radius + 1))
    steps = (np.arange(2 * reach * _SUPERSAMPLE) + 0.5) / _SUPERSAMPLE - reach
    x = (steps[None, :] - x_phase / _PHASES) / radius
    y = (steps[:, None] - y_phase / _PHASES) / radius
    fine = _inside(shape, x, y).astype(np.float32)
    side = 2 * reach
    return np.repeat(fine.reshape(side, _SUPERSAMPLE, side, _SUPERSAMPLE).mean((1, 3)), 3, axis=1)


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points lie in a shape of unit radius; y points down. All shapes fit the square [-1, 1] x [-1, 1]."""
    if shape == "circle":
        return x**2 + y**2 <= 1
    if shape == "ring":
        return (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.25)
    if shape == "square":
        return (abs(x) <= 0.94) & (abs(y) <= 0.94)
    if shape == "triangle":  # apex up
        return (y <= 0.9) & (2 * abs(x) <= y + 1.0)
    return np.minimum(abs(x), abs(y) + 0 * x) <= np.where(np.maximum(abs(x), abs(y)) <= 1, 0.3, -1)  # cross
