"""Token ids of a text that is one modality among several."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float32

from mmjax.data.bad_example import BadExample
from mmjax.data.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class TextIds:
    """What makes ids of a record's `text` (a `Decoder`), as a classifier's text encoder reads them.

    Attributes:
      tokenizer: None where only the shape of the arrays is asked for.
      length: of a text, in tokens.
    """

    tokenizer: Tokenizer | None
    length: int

    @property
    def shape(self) -> tuple[int]:
        """Of what `prepare` gives."""
        return (self.length,)

    @property
    def dtype(self) -> str:
        """Of what `prepare` gives."""
        return "float32"

    def prepare(
        self,
        entry: Any,
        rng: np.random.Generator | None,
        *,
        rate: float | None = None,
        span: tuple[float, float] | None = None,
    ) -> Float32[np.ndarray, " L"]:
        """A text's ids, NaN after its end.

        Raises:
          BadExample: `no_input` for a blank text, `other` for what is none.
          ValueError: there is no tokenizer.
        """
        del rng, rate, span
        if not isinstance(entry, str):
            raise BadExample("other", f"a text of {type(entry).__name__}; give a string")
        if not entry.strip():
            raise BadExample("no_input", "a blank text")
        if self.tokenizer is None:
            raise ValueError("without a tokenizer there are no ids")
        ids, mask = self.tokenizer([entry])
        return np.where(mask[0], ids[0], np.nan).astype(np.float32)
