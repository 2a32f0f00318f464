"""The base of models that write about an image."""

import abc
from typing import Any

from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.models.encoders import Encoded
from mmjax.models.image_text import ImageTextModel
from mmjax.nn import layers
from mmjax.utils.random_streams import ExampleStream


class WritingModel(ImageTextModel, kw_only=True):
    """A model that writes text about an image, token by token."""

    def caption_logits(
        self,
        image: Encoded,
        text: Int[Array, "B T"],
        text_mask: Bool[Array, "B T"] | None = None,
        keys: Key[Array, " B"] | None = None,
    ) -> Float[Array, "B T V"]:
        """Teacher forcing: logits [:, t] score token t + 1. Padding is on the right."""
        return self.run_writer(image, text, text_mask, layers.fold_keys(keys, ExampleStream.DECODER))

    @abc.abstractmethod
    def run_writer(
        self,
        image: Encoded,
        text: Int[Array, "B T"],
        text_mask: Bool[Array, "B T"] | None,
        keys: Key[Array, " B"] | None,
    ) -> Float[Array, "B T V"]:
        """What `caption_logits` gives; `keys` are for the noise of its layers."""

    @abc.abstractmethod
    def start(
        self, image: Encoded, text: Int[Array, "B P"], text_mask: Bool[Array, "B P"] | None, slots: int
    ) -> tuple[Float[Array, "B V"], Any]:
        """Reads a prompt (the first token, at least), padded on the right.

        Args:
          image: what `encode_image` returned.
          text: the prompt, such as a question.
          text_mask: its real tokens; None when all are.
          slots: text tokens in all that will ever be read, the prompt included.

        Returns:
          Logits of the token after the prompt, and the carry that `step` continues from.
        """

    def step(self, carry: Any, tokens: Int[Array, " B"]) -> tuple[Float[Array, "B V"], Any]:
        """Reads one more token of each example and scores the next one."""
        return self.writer.step(carry, tokens)

    @staticmethod
    def take(carry: Any, rows: Int[Array, " R"], examples: int | None = None) -> Any:
        """The carry of these rows, which may repeat; `examples` as in `parallel.gather_rows.take_rows`."""
        return carry.take(rows, examples)
