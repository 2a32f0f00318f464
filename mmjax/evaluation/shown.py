"""Examples that a report shows, kept while an evaluation runs: failures first, from all over the set."""

import numpy as np
from PIL import Image

from mmjax.evaluation.artifacts import Artifacts, ImageMatches, Match

_SHOWN, _FAILURES = 12, 8
_THUMBNAIL = 160  # longest side, pixels


class Shown:
    """Collects what is worth showing of a stream of examples.

    Args:
      keep: whether anything will be shown.
      what: what stands under the images, such as "captions written".
    """

    def __init__(self, keep: bool, what: str):
        self.keep, self.what = keep, what
        self.failures: list[ImageMatches] = []
        self.others: list[ImageMatches] = []
        self._seen = [0, 0]
        self._rng = np.random.default_rng(0)

    def add(self, image: np.ndarray | None, told: list[str], given: list[tuple[str, float, bool]]) -> None:
        """Offers an example.

        Args:
          image: uint8 [H, W, 3].
          told: what belongs to it: its captions, or the question.
          given: what the model gave: texts with their scores and whether they are right, best first.
        """
        if not self.keep or image is None:
            return
        right = bool(given and given[0][2])
        room, kept = (_SHOWN, self.others) if right else (_FAILURES, self.failures)
        self._seen[right] += 1
        # Reservoir sampling: each example is as likely to be kept as any other.
        place = len(kept) if len(kept) < room else int(self._rng.integers(self._seen[right]))
        if place >= room:
            return
        example = ImageMatches(thumbnail(image), told, [Match(*each) for each in given])
        if place == len(kept):
            kept.append(example)
        else:
            kept[place] = example

    def artifacts(self) -> Artifacts | None:
        """What there is to show."""
        if not self.keep:
            return None
        return Artifacts((self.failures + self.others)[:_SHOWN], [], what=self.what)


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A small version of an image."""
    if max(image.shape[:2]) <= _THUMBNAIL:
        return image.copy()
    small = Image.fromarray(image)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return np.asarray(small)
