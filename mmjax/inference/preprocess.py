"""Callables that prepare one image, or tokenize texts, for a loaded model: for data loaders of one's own."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32

from mmjax.data.bad_example import BadExample
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.errors import UserError
from mmjax.inference import inputs


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """A callable from an image to normalised numbers, as `encode_image` takes them.

    Attributes:
      spec: of the model.
    """

    spec: ImageSpec

    def __call__(self, image: Any) -> Float32[np.ndarray, "S S 3"]:
        """Resizes, cuts and normalises an image: a path, a file's bytes, a PIL image or a uint8 array [H, W, 3].

        Raises:
          UserError: of another kind, or it cannot be decoded.
        """
        pixels = inputs.prepare(image, self.spec)
        mean, std = (np.asarray(value, np.float32) for value in (self.spec.mean, self.spec.std))
        return (pixels.astype(np.float32) / np.float32(255) - mean) / std


@dataclasses.dataclass(frozen=True)
class Tokenize:
    """A callable from texts to token ids, as `encode_text` takes them.

    Attributes:
      tokenizer: of the model.
    """

    tokenizer: Tokenizer

    def __call__(self, texts: Any) -> Int32[np.ndarray, "B L"]:
        """Ids of texts, padded to the model's context; one text alone is a list of one.

        Raises:
          UserError: no strings, or one that is not Unicode.
        """
        return self.with_mask(inputs.to_strings("texts", texts))[0]

    def with_mask(self, texts: list[str]) -> tuple[Int32[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
        """Ids, and which of them are real. Errors as of a call."""
        try:
            return self.tokenizer(texts)
        except BadExample as error:
            raise UserError(f"{error}; give text that is Unicode") from error
