"""A note on batches in which many captions are equal, though their images are not said to be of one kind."""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np

_LOOKED_AT = 20  # batches
_MANY, _FEW = 0.1, 4  # more of the rows than both are noted: of a few rows, some are alike by chance

log = logging.getLogger("mmjax.data")

Batch = dict[str, np.ndarray]


@dataclasses.dataclass
class EqualCaptionsNote:
    """What is applied to a run's batches once they are stacked: looks at the first ones, and logs in one line where
    many captions are equal.

    Attributes:
      finish: what is applied after it; None for nothing.
      looked_at: batches so far.
    """

    finish: Callable[[Batch], Batch] | None = None
    looked_at: int = 0

    def __call__(self, batch: Batch) -> Batch:
        if self.looked_at < _LOOKED_AT and "text" in batch:
            self.looked_at += 1
            count, rows = count_equal(batch["text"], batch["id"]), len(batch["id"])
            if count > max(_MANY * rows, _FEW):
                self.looked_at = _LOOKED_AT
                log.warning(
                    "data.train: %d of a batch's %d captions are equal to that of another image, which contrastive"
                    " losses count as a negative; data.positives=text makes them positives",
                    count,
                    rows,
                )
        return batch if self.finish is None else self.finish(batch)


def count_equal(text: np.ndarray, ids: np.ndarray) -> int:
    """How many rows have the text of a row with another id.

    Args:
      text: tokens [B, L].
      ids: [B, 2].
    """
    of_text = np.unique(text, axis=0, return_inverse=True)[1].reshape(-1)
    of_id = np.unique(ids, axis=0, return_inverse=True)[1].reshape(-1)
    pairs = np.unique(np.stack([of_text, of_id], axis=1), axis=0)
    ids_of_text = np.bincount(pairs[:, 0])
    return int((ids_of_text[of_text] > 1).sum())
