"""Examples that a report shows, chosen while an evaluation runs: failures first, from all over the set.

Only places are kept. The images of the few that are shown are read again at the end.
"""

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmjax.evaluation.example_selection import Artifacts, ImageMatches, Match

_SHOWN, _FAILURES = 12, 8
_THUMBNAIL = 160  # longest side, pixels


class _Offered(NamedTuple):
    place: int
    told: list[str]
    given: list[tuple[str, float, bool]]


class Shown:
    """Collects what is worth showing of a stream of examples.

    Args:
      keep: whether anything will be shown.
      what: what stands under the images, such as "captions written".
    """

    def __init__(self, keep: bool, what: str):
        self.keep, self.what = keep, what
        self.failures: list[_Offered] = []
        self.others: list[_Offered] = []
        self._seen = [0, 0]
        self._rng = np.random.default_rng(0)

    def add(self, place: int, told: list[str], given: list[tuple[str, float, bool]]) -> None:
        """Offers an example.

        Args:
          place: of the example whose image is shown.
          told: what belongs to it: its captions, or the question.
          given: what the model gave: texts with their scores and whether they are right, best first.
        """
        if not self.keep:
            return
        right = bool(given and given[0][2])
        room, kept = (_SHOWN, self.others) if right else (_FAILURES, self.failures)
        self._seen[right] += 1
        # Reservoir sampling: each example is as likely to be kept as any other.
        at = len(kept) if len(kept) < room else int(self._rng.integers(self._seen[right]))
        if at < room:
            kept[at : at + 1] = [_Offered(place, told, given)]

    def artifacts(self, examples: Any) -> Artifacts | None:
        """What there is to show; its images are read here, by this process alone.

        Args:
          examples: that places count in; `read` gives those of some places.

        Raises:
          UserError: an image cannot be read any more.
        """
        if not self.keep:
            return None
        chosen = (self.failures + self.others)[:_SHOWN]
        read = examples.read([each.place for each in chosen])
        images = [
            ImageMatches(thumbnail(example.image), each.told, [Match(*one) for one in each.given])
            for each, example in zip(chosen, read, strict=True)
        ]
        return Artifacts(images, [], what=self.what)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A small version of an image."""
    if max(image.shape[:2]) <= _THUMBNAIL:
        return image.copy()
    small = Image.fromarray(image)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return np.asarray(small)
