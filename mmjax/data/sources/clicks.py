"""The sounds of `moving` described in words: captions of what is heard, without a download.

    audio  float32 [8000]  a second: one click or two, loud or soft, of one of five pitches, on wood, metal or glass

A description (pitches and loudnesses in their order, and the material) decides by its hash whether a sound belongs to
training or to the test split: there are 330, of which a tenth is held out.
"""

from typing import Any

from mmjax.data.loading.order import example_rng
from mmjax.data.record import Record, check_index, stable_id
from mmjax.data.sources import moving
from mmjax.data.sources.moving import PITCH_NAMES, WALLS
from mmjax.data.sources.shapes import pick
from mmjax.errors import UserError, validate_choice
from mmjax.utils.random_streams import ClickStream

LOUDNESS_NAMES = {"slow": "soft", "fast": "loud"}
# Words of captions. Ids follow from the order: append, never insert.
VOCABULARY = (
    *("a", "one", "two", "click", "clicks", "and", "then", "on"),
    *LOUDNESS_NAMES.values(),
    *PITCH_NAMES.values(),
    *WALLS,
)
HELD_OUT = 10  # one description in so many

Click = tuple[str, str]  # loudness and pitch in words


def wordings(clicks: list[Click], walls: str) -> list[str]:
    """All captions that a sound can have, two; at most 14 words.

    "a loud high click and then a soft deep click on wood", "two clicks on wood a loud high one and then a soft deep
    one"; of one click "a loud high click on wood", "one click on wood a loud high one".
    """
    join = lambda noun: " and then ".join(f"a {loudness} {pitch} {noun}" for loudness, pitch in clicks)
    count = "two clicks" if len(clicks) == 2 else "one click"
    return [f"{join('click')} on {walls}", f"{count} on {walls} {join('one')}"]


def sound_id(clicks: list[Click], walls: str) -> int:
    """The 64-bit id shared by all sounds of a description."""
    return stable_id("clicks", wordings(clicks, walls)[0])


class Clicks:
    """Sounds of objects that bounce off walls; example i is a pure function of (split, i).

    Records have the description as `id` (so two sounds of one description are positives of each other), one caption,
    both wordings as `references`, and `modalities` with `audio` float32 [samples] and its rate in `rates`.

    Args:
      split: "train", a million sounds, or "test", 1,000 whose descriptions are held out.
      sample_rate: in Hz, at least 8000.
      length: number of examples.

    Attributes:
      modality_shapes: of `audio`.

    Raises:
      UserError: on an unknown split, or a number out of range.
    """

    class_names = None
    splits = ("train", "test")
    templates = None

    def __init__(self, split: str = "train", sample_rate: int = 8000, length: int | None = None):
        self.split = validate_choice("split", split, self.splits)
        self.name = "clicks" if split == "test" else "clicks/train"
        if sample_rate < 8000:
            raise UserError(f"sample_rate={sample_rate} is too small to tell the sounds apart; choose 8000 or more")
        self.sample_rate = sample_rate
        self.length = length if length is not None else moving.TRAIN_LENGTH if split == "train" else moving.TEST_LENGTH
        if self.length < 1:
            raise UserError(f"length={self.length} is out of range for clicks/{split}; choose 1 or more")
        self.modality_shapes = {"audio": (int(sample_rate * moving.SECONDS),)}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, self.length)
        is_test = self.split == "test"
        rng = example_rng(ClickStream.TEST if is_test else ClickStream.TRAIN, index)
        while True:
            walls, scene = pick(rng, tuple(WALLS)), moving.draw_scene(rng)
            objects = moving.place_objects(scene, rng, 32, 8)
            clicks = _clicks(objects)
            identity = sound_id(clicks, walls)
            if (identity % HELD_OUT == 0) == is_test:
                break
        texts = wordings(clicks, walls)
        return Record(
            id=identity,
            captions=[pick(rng, texts)],
            references=texts,
            modalities={"audio": moving.sound(objects, walls, rng, self.sample_rate)},
            rates={"audio": float(self.sample_rate)},
            annotation={"walls": walls, "times": sorted(_times(objects))},
        )


def _times(objects: list[dict[str, Any]]) -> list[float]:
    return [item["bounce_time"] for item in objects if item["bounces"]]


def _clicks(objects: list[dict[str, Any]]) -> list[Click]:
    """What is heard, in its order."""
    bouncing = sorted((item for item in objects if item["bounces"]), key=lambda item: item["bounce_time"])
    return [(LOUDNESS_NAMES[item["speed"]], PITCH_NAMES[item["shape"]]) for item in bouncing]
