"""Questions about the drawn scenes, each with exactly one right answer: VQA without a download.

Example i asks one question about scene i of `shapes`, so that the scenes of the test split show compositions that
training never does. Questions are worded from templates, and answers follow from the scene's annotation:

    colour    what colour is the circle?                      a colour
    shape     what shape is the small red object?             a shape
    size      what size is the ring?                          small, large
    count     how many objects are there?                     0 to 3
              how many red objects are there?
    exists    is there a small red circle?                    yes, no
    relation  is the ring left of the red circle?             yes, no
              what colour is the object above the ring?       a colour
              what shape is the object left of the red ring?  a shape

An object is named by attributes that are its alone in the scene; the object beside another one by a direction in which
no further one lies. A "no" is as likely as a "yes" whatever the wording, and in half of the cases the object asked for
differs from one that is there in a single attribute. The most frequent answer to each question is right in 35 of 100.
"""

import bisect
import itertools
import random
from typing import Any, NamedTuple

from mmjax.data.record import Record, check_index
from mmjax.data.sources.shapes import COLORS, SHAPES, SIZES, Shapes, pick
from mmjax.errors import validate_choice
from mmjax.metrics.vqa_answers import HUMANS, answer_type

TRAIN_LENGTH = 1_000_000
TEST_LENGTH = 2_000
TYPES = {"colour": 0.2, "shape": 0.2, "size": 0.1, "count": 0.15, "exists": 0.2, "relation": 0.15}  # shares
COUNTS = ("0", "1", "2", "3")

_VALUES = {"size": SIZES, "color": tuple(COLORS), "shape": SHAPES}  # in the order of words
_ATTRIBUTES = {"colour": "color", "shape": "shape", "size": "size"}
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_PLURALS = {shape: "crosses" if shape == "cross" else shape + "s" for shape in SHAPES}
_NAMES = tuple(TYPES)
_ENDS = list(itertools.accumulate(TYPES.values()))[:-1]
_TRAIN, _TEST = 6, 7  # streams of random numbers beside those of the scenes

Object = dict[str, Any]


class Question(NamedTuple):
    """A question: its words, its answer, and the name of its template."""

    text: str
    answer: str
    template: str


class Questions:
    """Questions about drawn scenes; example i is a pure function of (split, i).

    Records are those of `shapes` (image, caption, id, annotation) with `question`, `answers` (the right one ten times,
    as if ten people had given it), `answer_type` and `question_type`, the template.

    Args:
      split: "train", a million, or "test", 2,000 about held-out scenes.
      size: pixels of the image's side, at least 32.

    Attributes:
      answer_names: all 21 answers, sorted.

    Raises:
      UserError: on an unknown split, or a size out of range.
    """

    class_names = None
    splits = ("train", "test")
    templates = None
    answer_names = sorted([*COLORS, *SHAPES, *SIZES, *COUNTS, "yes", "no"])

    def __init__(self, split: str = "train", size: int = 32):
        self.split = validate_choice("split", split, self.splits)
        self.name = "questions" if split == "test" else "questions/train"
        self._scenes = Shapes(split, size, TRAIN_LENGTH if split == "train" else TEST_LENGTH)

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        record, annotation = self._scenes.annotated(index)
        # Python's own generator, as for the scenes: quick to seed, and the same in every version.
        rng = random.Random(index << 3 | (_TRAIN if self.split == "train" else _TEST))
        question = ask(annotation, rng)
        answers = [question.answer] * HUMANS
        return {
            **record,
            "question": question.text,
            "answers": answers,
            "answer_type": answer_type(answers),
            "question_type": question.template,
        }


def ask(annotation: dict[str, Any], rng: random.Random) -> Question:
    """Draws a question about a scene.

    Args:
      annotation: of a record of `shapes`.
      rng: the example's own; a question that the scene does not allow (no two objects, say) is drawn again.
    """
    while True:
        template = _NAMES[bisect.bisect(_ENDS, rng.random())]
        text_and_answer = _TEMPLATES[template](annotation, rng)
        if text_and_answer is not None:
            text, answer = text_and_answer
            return Question(text, answer, template)


def _attribute(attribute: str) -> Any:
    def draw(annotation: dict[str, Any], rng: random.Random) -> tuple[str, str] | None:
        objects = annotation["objects"]
        target = pick(rng, objects)
        name = _name(objects, target, rng, without=_ATTRIBUTES[attribute])
        return None if name is None else (f"what {attribute} is the {name}?", target[_ATTRIBUTES[attribute]])

    return draw


def _count(annotation: dict[str, Any], rng: random.Random) -> tuple[str, str]:
    objects = annotation["objects"]
    if rng.random() < 0.25:
        return "how many objects are there?", str(len(objects))
    attribute = pick(rng, ("size", "size", "color", "shape"))  # of a size there are several most often
    # Of all colours most are not there: one that is, more often.
    values = [item[attribute] for item in objects] if rng.random() < 0.6 else _VALUES[attribute]
    value = pick(rng, values)
    plural = _PLURALS[value] if attribute == "shape" else f"{value} objects"
    return f"how many {plural} are there?", str(sum(item[attribute] == value for item in objects))


def _exists(annotation: dict[str, Any], rng: random.Random) -> tuple[str, str]:
    objects = annotation["objects"]
    attributes = pick(rng, _COMBINATIONS)
    kinds = {tuple(item[a] for a in attributes) for item in objects}
    if rng.random() < 0.5:
        return f"is there a {_words(attributes, pick(rng, sorted(kinds)))}?", "yes"
    near = rng.random() < 0.5
    while True:
        kind = tuple(pick(rng, _VALUES[a]) for a in attributes)
        if near:  # like one that is there, but for one attribute
            changed = int(rng.random() * len(attributes))
            similar = pick(rng, sorted(kinds))
            kind = (*similar[:changed], kind[changed], *similar[changed + 1 :])
        if kind not in kinds:
            return f"is there a {_words(attributes, kind)}?", "no"


def _relation(annotation: dict[str, Any], rng: random.Random) -> tuple[str, str] | None:
    objects = annotation["objects"]
    if not annotation["relations"]:
        return None
    verify, turned = rng.random() < 0.4, rng.random() < 0.5
    first, relation, second = pick(rng, annotation["relations"])
    # Of three objects, the first one alone has nothing else on the same side.
    if turned if verify or len(objects) == 2 else second != 0:
        first, relation, second = second, _OPPOSITE[relation], first
    if verify:
        one, other = (_name(objects, objects[i], rng) for i in (first, second))
        if one is None or other is None:
            return None
        true = rng.random() < 0.5
        return f"is the {one} {relation if true else _OPPOSITE[relation]} the {other}?", "yes" if true else "no"
    name = _name(objects, objects[second], rng)
    attribute = pick(rng, ("colour", "shape"))
    answer = objects[first][_ATTRIBUTES[attribute]]
    return None if name is None else (f"what {attribute} is the object {relation} the {name}?", answer)


_COMBINATIONS = tuple(c for n in (1, 2, 3) for c in itertools.combinations(_VALUES, n) if c != ("size",))
_TEMPLATES = {
    **{attribute: _attribute(attribute) for attribute in _ATTRIBUTES},
    "count": _count,
    "exists": _exists,
    "relation": _relation,
}


def _name(objects: list[Object], target: Object, rng: random.Random, without: str = "") -> str | None:
    """Words that fit one object of a scene alone, "small red object"; None where no words without an attribute do."""
    usable = [a for a in _VALUES if a != without]
    fitting = []
    for count in range(len(usable) + 1):
        for attributes in itertools.combinations(usable, count):
            if sum(all(item[a] == target[a] for a in attributes) for item in objects) == 1:
                fitting.append(attributes)
    if not fitting:
        return None
    attributes = pick(rng, fitting)
    return _words(attributes, [target[a] for a in attributes])


def _words(attributes: tuple[str, ...], values: Any) -> str:
    return " ".join([*values] if "shape" in attributes else [*values, "object"])
