"""The base of models in which image and text see each other."""

import abc
from typing import ClassVar

from jaxtyping import Array, Float, Int, Key

from mmjax.models import heads
from mmjax.models.encoders import Encoded
from mmjax.models.image_text import TextEncodingModel
from mmjax.nn import layers
from mmjax.utils.random_streams import ExampleStream


class FusionModel(TextEncodingModel, kw_only=True):
    """A model whose image and text see each other.

    Parameters: with `match` `match_head`, with `answers` `answer_head`.

    Attributes:
      match: a head for image-text matching.
      answers: of the head for questions; 0 for none.
      fuse_reads_words: whether `fuse` reads token ids, not encoded text.
    """

    match: bool = False
    answers: int = 0

    fuse_reads_words: ClassVar[bool] = False

    def setup(self):
        super().setup()
        if self.match:
            self.match_head = heads.MatchHead(self.dtype)
        if self.answers:
            self.answer_head = heads.AnswerHead(self.answers, self.dtype)

    def fuse(
        self, image: Encoded, text: Encoded, words: Int[Array, "B L"], keys: Key[Array, " B"] | None = None
    ) -> Encoded:
        """Tokens that have seen image and text; whose they are is the model's affair.

        Args:
          image: what `encode_image` returned.
          text: what `encode_text` returned.
          words: the text's ids, which are encoded already.
          keys: one an example, for dropout.
        """
        return self.run_fusion(image, text, words, layers.fold_keys(keys, ExampleStream.FUSION))

    @abc.abstractmethod
    def run_fusion(
        self, image: Encoded, text: Encoded, words: Int[Array, "B L"], keys: Key[Array, " B"] | None
    ) -> Encoded:
        """What `fuse` gives; `keys` are for the noise of its layers."""

    @abc.abstractmethod
    def pool_fused(self, fused: Encoded) -> Float[Array, "B D"]:
        """One vector of fused tokens, for the heads `match` and `answers`."""

    def match_logits(self, fused: Encoded) -> Float[Array, "B 2"]:
        """Whether image and text belong together; index 1 says yes."""
        heads.check_head("match", self.match)
        return self.match_head(self.pool_fused(fused))

    def answer_logits(self, fused: Encoded) -> Float[Array, "B A"]:
        """Scores of the answers to a question, each for itself (sigmoid)."""
        heads.check_head("answers", self.answers)
        return self.answer_head(self.pool_fused(fused))

    def head_logits(self, fused: Encoded) -> tuple[Float[Array, "B _"], ...]:
        """Logits of the heads that the model has."""
        match = (self.match_logits(fused),) if self.match else ()
        return match + ((self.answer_logits(fused),) if self.answers else ())
