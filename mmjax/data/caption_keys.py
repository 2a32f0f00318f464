"""Fields that hold captions, and how likely training draws from each."""

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from mmjax.data.bad_example import BadExample
from mmjax.errors import UserError

_WEIGHT = re.compile(r"(.+)@(\d+\.?\d*|\.\d+)")


@dataclasses.dataclass(frozen=True)
class CaptionKeys:
    """Fields that hold captions.

    Attributes:
      keys: names of fields: a column, the ending of a tar's member, or `MEMBER:FIELD` for a field of a JSON member
        (`json:caption`).
      weights: how likely training draws from each; they need not sum to 1. None: the first field that is there counts.
    """

    keys: tuple[str, ...]
    weights: tuple[float, ...] | None = None

    @classmethod
    def parse(cls, text: str, *, default: Sequence[str], field: str = "data.caption_keys") -> "CaptionKeys":
        """Reads "txt", or a mixture such as "json:caption@0.7+txt@0.3".

        Args:
          text: the config's field; empty for `default`, of which the first that an example has is taken.
          default: usual names.
          field: to name in errors.

        Raises:
          UserError: on an empty part, a weight that is not positive, or a key named twice.
        """
        if not text:
            return cls(tuple(default))
        keys, weights = [], []
        for part in text.split("+"):
            match = _WEIGHT.fullmatch(part.strip())
            key, weight = (match[1], float(match[2])) if match else (part.strip(), 1.0)
            if not key or "@" in key or not (weight > 0 and math.isfinite(weight)):
                raise UserError(f"{field}={text!r}: {part!r} is not KEY or KEY@WEIGHT with a weight above 0")
            if key in keys:
                raise UserError(f"{field}={text!r} names {key!r} twice; name it once")
            keys.append(key)
            weights.append(weight)
        return cls(tuple(keys), tuple(weights))

    def gather(self, lookup: Callable[[str], Any]) -> dict[str, Any]:
        """Collects an example's captions.

        Args:
          lookup: returns a field's value: a text, a sequence of texts, or None where the example has no such field.

        Returns:
          `captions` and, where keys have weights, `caption_weights`: the two fields of a Record. A key's weight is
          shared evenly by its captions; keys without any leave theirs to the others.

        Raises:
          BadExample: `no_caption`, when no field has a text that is not blank.
        """
        captions, weights = [], []
        for position, key in enumerate(self.keys):
            texts = texts_of(lookup(key))
            captions += texts
            if self.weights is not None:
                weights += [self.weights[position] / len(texts) for _ in texts]
            elif texts:
                break
        if not captions:
            raise BadExample("no_caption", f"no text under {', '.join(map(repr, self.keys))}")
        return {"captions": captions} | ({"caption_weights": weights} if weights else {})


def texts_of(value: Any) -> list[str]:
    """The texts of a field that are not blank, stripped; bytes are read as UTF-8 with what is invalid replaced."""
    if value is None:
        return []
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return [value.strip()] if value.strip() else []
    if isinstance(value, Sequence) or hasattr(value, "tolist"):
        return [text for item in value for text in texts_of(item)]
    return []  # a number or an object is no caption
