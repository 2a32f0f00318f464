"""The scenes of `moving` with classes that neither their video nor their sound tells alone.

A class is how the two objects move (sideways, up and down, or one of each: crosswise), which is seen and not heard, and
what the walls are made of (wood, metal, glass), which is heard and not seen. The two are independent and all nine
classes as likely, so that no classifier can be better than this, `best_accuracy`:

    video 1/3   audio 1/3   video+audio 1
"""

from collections.abc import Collection

from mmjax.data.record import Record
from mmjax.data.sources.moving import MOTIONS, WALLS, Moving

CLASS_NAMES = [f"two objects move {motion} between walls of {material}" for motion in MOTIONS for material in WALLS]


class Actions:
    """Scenes of two moving objects with a class; example i is a pure function of (split, i).

    Records are those of `moving`, with `label`.

    Args:
      split: "train" or "test", as of `moving`.
      frames, size, sample_rate, length: see `Moving`.

    Attributes:
      class_names: the nine classes in words.
      modality_shapes: of `video` and `audio`.

    Raises:
      UserError: as `Moving`.
    """

    splits = Moving.splits
    templates = ("{c}",)
    answer_names = Moving.answer_names

    def __init__(
        self,
        split: str = "train",
        frames: int = 8,
        size: int = 32,
        sample_rate: int = 8000,
        length: int | None = None,
    ):
        self._scenes = Moving(split, frames, size, sample_rate, length)
        self.split = split
        self.name = "actions" if split == "test" else "actions/train"
        self.class_names = list(CLASS_NAMES)
        self.modality_shapes = self._scenes.modality_shapes

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Record:
        record = self._scenes[index]
        annotation = record.get("annotation", {})
        label = MOTIONS.index(annotation["motion"]) * len(WALLS) + tuple(WALLS).index(annotation["walls"])
        return {**record, "label": label}


def best_accuracy(names: Collection[str]) -> float:
    """The accuracy that no classifier of these modalities can exceed."""
    return (1 if "video" in names else 1 / len(MOTIONS)) * (1 if "audio" in names else 1 / len(WALLS))
