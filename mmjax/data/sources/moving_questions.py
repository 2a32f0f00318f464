"""Questions about the scenes of `moving`, each with exactly one right answer.

    colour     what colour is the circle?                          a colour
               what colour is the object that starts to move up?
    shape      what shape is the red object?                       a shape
    direction  which way does the red circle start to move?        left, right, up, down
    speed      how fast is the red circle?                         slow, fast
    bounce     does the red circle bounce?                         yes, no
    first      what colour is the object that bounces first?       a colour
    clicks     how many clicks are there?                          1, 2
    walls      what are the walls made of?                         wood, metal, glass

The walls are heard alone, clicks and what bounces first are seen and heard, everything else is seen.
"""

import bisect
import itertools
from typing import Any, NamedTuple

import numpy as np

from mmjax.data.sources.shapes import pick

# Shares of those that are tried; a question that a scene does not allow is drawn again.
TYPES = {
    "colour": 0.15,
    "shape": 0.15,
    "direction": 0.2,
    "speed": 0.1,
    "bounce": 0.1,
    "first": 0.1,
    "clicks": 0.05,
    "walls": 0.15,
}
COUNTS = ("1", "2")

_NAMES = tuple(TYPES)
_ENDS = list(itertools.accumulate(TYPES.values()))[:-1]

Object = dict[str, Any]


class Question(NamedTuple):
    """A question: its words, its answer, and the name of its template."""

    text: str
    answer: str
    template: str


def ask(objects: list[Object], walls: str, rng: np.random.Generator) -> Question:
    """Draws a question about a scene.

    Args:
      objects: the two, as `moving.place_objects` gives them.
      walls: what they are made of.
      rng: the example's own.
    """
    while True:
        template = _NAMES[bisect.bisect(_ENDS, rng.random())]
        item, other = objects if rng.random() < 0.5 else objects[::-1]
        text_and_answer = _word(template, item, other, walls, rng)
        if text_and_answer is not None:
            return Question(*text_and_answer, template)


def _word(template: str, item: Object, other: Object, walls: str, rng: np.random.Generator) -> tuple[str, str] | None:
    """A question of a template about `item`, with its answer; None where the scene does not allow it."""
    if template == "colour":
        return _ask_colour(item, other, rng)
    if template == "shape":
        return f"what shape is the {item['color']} object?", item["shape"]
    if template == "first":
        if not (item["bounces"] and other["bounces"]):
            return None
        first = min(item, other, key=lambda bouncing: bouncing["bounce_time"])
        return "what colour is the object that bounces first?", first["color"]
    if template == "clicks":
        return "how many clicks are there?", COUNTS[item["bounces"] + other["bounces"] - 1]
    if template == "walls":
        return "what are the walls made of?", walls
    name = f"{item['color']} {item['shape'] if rng.random() < 0.5 else 'object'}"
    if template == "direction":
        return f"which way does the {name} start to move?", item["direction"]
    if template == "speed":
        return f"how fast is the {name}?", item["speed"]
    return f"does the {name} bounce?", "yes" if item["bounces"] else "no"


def _ask_colour(item: Object, other: Object, rng: np.random.Generator) -> tuple[str, str] | None:
    """By a shape or a direction that is the object's alone."""
    unique = [field for field in ("shape", "direction") if item[field] != other[field]]
    if not unique:
        return None
    field = pick(rng, unique)
    name = item["shape"] if field == "shape" else f"object that starts to move {item['direction']}"
    return f"what colour is the {name}?", item["color"]
