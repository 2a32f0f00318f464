"""Image tokens in front of a language model's text: LLaVA (arXiv:2304.08485), PaliGemma, BLIP-2, GIT."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.errors import UserError, validate_choice
from mmjax.models import slots as slots_lib
from mmjax.models import sown_attention, submodules
from mmjax.models.encoders import Encoded, build
from mmjax.models.image_text import SlotsModel
from mmjax.models.qformer import QueryReader
from mmjax.models.writing_model import WritingModel
from mmjax.nn import attention, layers
from mmjax.nn.layers import Dense
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.norms import layer_norm
from mmjax.utils.random_streams import ExampleStream

CONNECTORS = ("linear", "mlp2x_gelu", "linear_norm")
PREFIXES = ("full", "causal")


class Connector(nn.Module):
    """From the image tower's tokens to the language model's width.

    Parameters: `fc1`; for `mlp2x_gelu` `fc2`, for `linear_norm` `norm`.

    Attributes:
      kind: `linear` (LLaVA, PaliGemma), `mlp2x_gelu` (LLaVA-1.5, arXiv:2310.03744) or `linear_norm`, with a layer norm
        after the map (GIT, arXiv:2205.14100).
      width: of the language model.
      norm_eps: of that layer norm.
    """

    kind: str
    width: int
    norm_eps: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N E"]:
        validate_choice("model.connector", self.kind, CONNECTORS)
        dense = lambda x, name: Dense(self.width, std=x.shape[-1] ** -0.5, dtype=self.dtype, name=name)(x)
        x = dense(x, "fc1")
        if self.kind == "linear_norm":
            return layer_norm(self.norm_eps, self.dtype, "norm")(x)
        return x if self.kind == "linear" else dense(ACTIVATIONS["gelu"](x), "fc2")


class PrefixLM(SlotsModel, WritingModel, kw_only=True):
    """A vision transformer, a connector, and a decoder that reads image tokens and then text.

    The text's positions are counted from its own first token: image tokens have the image tower's. (Rotary positions
    are counted from the first token of all.) Text is padded on the right.

    GIT (arXiv:2205.14100) of videos is `connector="linear_norm"` and BERT's layers, `text.norm="post"`, behind all
    tokens of all frames: `FramesEncoder` with `frame_pool="none"` and `temporal="embedding"`.

    With `qformer` learned queries look at all of the tower's tokens, and stand for the image (BLIP-2,
    arXiv:2301.12597). They have positions of the text's table, as tokens of its own have.

    Parameters: `image`, `connector`, `text`, with `qformer` that, too.

    What is not listed is as in `ImageTextModel`.

    Attributes:
      image: settings of `VisionTransformer`. A class token is left out of the prefix.
      text: settings of `TextStack`, `eos_id`, and `sep_id` (None where there is none).
      qformer: settings of `QueryReader`; None where the tower's tokens are the prefix.
      connector: a name in `CONNECTORS`.
      feature_layer: which block's output is taken, without the final norm: -2 is the last but one (LLaVA), and what
        comes after it gets no gradient. None for the last one's after the final norm.
      prefix: `full`, image tokens see each other (PaliGemma), or `causal`, each sees those before it (LLaVA).
      prefix_text: the text up to its first `sep_id`, a question, belongs to a `full` prefix.
      image_id: token of a text whose place its image takes (LLaVA's `<image>`, once a text); in a text without it the
        image stands first, as it does everywhere for None. Needs a `causal` prefix.
    """

    qformer: Mapping[str, Any] | None = None
    connector: str = "mlp2x_gelu"
    feature_layer: int | None = None
    prefix: str = "full"
    prefix_text: bool = False
    image_id: int | None = None

    serves: ClassVar[tuple[str, ...]] = ("captions",)
    attention_maps: ClassVar[tuple[str, ...]] = ("written",)

    def setup(self):
        validate_choice("model.prefix", self.prefix, PREFIXES)
        if self.prefix_text and self.prefix != "full":
            raise UserError("model.prefix_text=True needs a prefix that sees itself; set model.prefix='full'")
        if self.prefix_text and self.text.get("sep_id") is None:
            raise UserError("model.prefix_text=True needs to know where questions end; set model.text.sep_id")
        if self.image_id is not None and self.prefix != "causal":
            raise UserError(
                f"model.image_id={self.image_id} puts images into texts, which need a causal prefix; set"
                " model.prefix='causal'"
            )
        depth = self.seen_settings.get("depth", 0)
        if self.feature_layer is not None and not -depth <= self.feature_layer < depth:
            raise UserError(
                f"model.feature_layer={self.feature_layer} is none of {depth} layers; choose {-depth} to {depth - 1}"
            )
        self.image_encoder = self.make_image_tower()
        if self.qformer is not None:
            self.reader = build(QueryReader, "qformer", self.qformer, dtype=self.dtype, attention_impl="xla")
        norm_eps = self.seen_settings.get("norm_eps", 1e-5)  # as GIT has it
        self.connect = Connector(self.connector, self.text["width"], norm_eps, self.dtype, name="connector")
        self.writer = self.make_text_stack(causal=True, cross_every=0)

    def encode_image(self, images: Float[Array, "B ..."], keys: Key[Array, " B"] | None = None) -> Encoded:
        """Encodes normalised images: the tower's patch tokens, or the queries, before the connector."""
        layer = self.feature_layer
        out = super().encode_image(images, keys, intermediates=layer is not None)
        tokens = out.tokens if layer is None else out.tokens_after(layer)
        if self.qformer is not None:
            keys = layers.fold_keys(keys, ExampleStream.FUSION)
            return Encoded(self.reader(Encoded(tokens, out.valid), keys))
        learned = slots_lib.learned_tokens(self.image_encoder)
        return Encoded(tokens[:, learned:], None if out.valid is None else out.valid[:, learned:])

    def run_writer(self, image, text, text_mask, keys):
        x, spec = self._prefixed(image, text, text_mask, keys)
        tokens = self.writer.run(x, spec, keys).tokens
        if self.image_id is None:
            return self.writer.logits(tokens[:, image.tokens.shape[1] :])
        return self.writer.logits(jnp.take_along_axis(tokens, self._columns(image, text)[..., None], axis=1))

    def start(self, image, text, text_mask, slots):
        batch, length = image.tokens.shape[:2]
        x, spec = self._prefixed(image, text, text_mask)
        logits, carry = self.writer.start(x, spec, slots=length + slots)
        skipped = jnp.full(batch, length, jnp.int32) if image.valid is None else image.valid.sum(axis=1)
        if self.qformer is not None:
            skipped = jnp.zeros(batch, jnp.int32)
        elif self.image_id is not None:
            skipped = skipped - (text == self.image_id).any(axis=1)
        return logits, carry._replace(skipped=skipped)

    def word_attention(self, sown: sown_attention.Sown, words: int, patches: int) -> Float[Array, "B T N"]:
        """Self-attention of the last layer, where image tokens stand before the text's.

        Where queries stand for them, by way of these: its product with where they looked last.
        """
        weights = sown_attention.self_attention(sown, "text", "transformer")[-1]
        if self.image_id is None:
            weights = weights[:, patches : patches + words, :patches]
        else:
            columns, first = sown["columns"][-1], sown["first"][-1]
            weights = jnp.take_along_axis(weights, columns[:, :words, None], axis=1)
            weights = jnp.take_along_axis(weights, (first[:, None] + jnp.arange(patches))[:, None], axis=2)
        if self.qformer is None:
            return weights
        return weights @ sown_attention.last_cross_attention(sown, "qformer", "transformer")

    def __call__(self, images, text, text_mask=None):
        """Scores the token after each text's last position; used to initialise every parameter."""
        return self.caption_logits(self.encode_image(images), text, text_mask)[:, -1]

    def _prefixed(
        self,
        image: Encoded,
        text: Int[Array, "B T"],
        text_mask: Bool[Array, "B T"] | None,
        keys: Key[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B S D"], attention.AttentionSpec]:
        """Image tokens and embedded text, and who attends to whom."""
        image_tokens, positions = self.connect(submodules.without_invalid(image).tokens), None
        if self.qformer is not None and self.writer.learned_positions:
            self._check_length(image_tokens.shape[1], text.shape[1])
            table, positions = self.writer.position_embedding, self._columns(image, text)
            first, _ = self._first(text)
            image_tokens = (image_tokens + table[first + jnp.arange(image_tokens.shape[1])]).astype(self.dtype)
        x = jnp.concatenate([image_tokens, self.writer.embed(text, positions, keys=keys)], axis=1)
        if self.image_id is not None:
            return self._image_in_text(image_tokens, image.valid, x[:, image.tokens.shape[1] :], text, text_mask)
        shape = image.tokens.shape[:2]
        valid = None
        if image.valid is not None or text_mask is not None:
            real = lambda mask, shape: jnp.ones(shape, bool) if mask is None else mask
            valid = jnp.concatenate([real(image.valid, shape), real(text_mask, text.shape)], axis=1)
        if self.prefix == "causal":
            return x, attention.AttentionSpec(causal=True, valid=valid)
        after = jnp.ones(text.shape, jnp.int32)
        if self.prefix_text:
            separators = text == self.text["sep_id"]
            is_question = separators.any(axis=1, keepdims=True) & (jnp.cumsum(separators, axis=1) - separators == 0)
            after = after - is_question
        hidden = jnp.concatenate([jnp.zeros(shape, jnp.int32), after], axis=1)
        return x, attention.AttentionSpec(valid=valid, autoregressive=hidden)

    def _check_length(self, queries: int, tokens: int) -> None:
        """Checks that queries and text have positions.

        Raises:
          ValueError: they are too many.
        """
        if queries + tokens > self.writer.context_length + int(self.image_id is not None):
            raise ValueError(
                f"{queries} queries and text of {tokens} tokens are longer than the model's context_length="
                f"{self.writer.context_length}"
            )

    def _first(self, text: Int[Array, "B T"]) -> tuple[Int[Array, "B 1"], Int[Array, "B 1"]]:
        """Where the image's first token stands, and 1 where it takes the place of a token, else 0."""
        holds = jnp.zeros(text.shape, bool) if self.image_id is None else text == self.image_id
        return jnp.argmax(holds, axis=1, keepdims=True), holds.any(axis=1, keepdims=True).astype(jnp.int32)

    def _columns(self, image: Encoded, text: Int[Array, "B T"]) -> Int[Array, "B T"]:
        """Where a text's tokens stand among the image's; for the one that the image replaces, the image's last."""
        first, taken = self._first(text)
        count, column = image.tokens.shape[1], jnp.arange(text.shape[1])[None]
        columns = jnp.where((column < first) & (taken == 1), column, column + count - taken)
        if image.valid is not None:
            last = count - 1 - jnp.argmax(image.valid[:, ::-1], axis=1, keepdims=True)
            columns = jnp.where((column == first) & (taken == 1), first + last, columns)
        self.sow("intermediates", "columns", columns)
        self.sow("intermediates", "first", first[:, 0])
        return columns

    def _image_in_text(
        self,
        image: Float[Array, "B N D"],
        image_valid: Bool[Array, "B N"] | None,
        embedded: Float[Array, "B T D"],
        text: Int[Array, "B T"],
        text_mask: Bool[Array, "B T"] | None,
    ) -> tuple[Float[Array, "B S D"], attention.AttentionSpec]:
        """As `_prefixed`, with the image in the place of `image_id`; the row has padding where that leaves room."""
        (batch, length), count = text.shape, image.shape[1]
        first, taken = self._first(text)
        column = jnp.arange(length + count)[None]
        of_text = jnp.where(column < first, column, column - count + taken)  # the token of a column, beside the image
        in_image = (column >= first) & (column < first + count)
        source = jnp.where(in_image, length + column - first, jnp.clip(of_text, 0, length - 1))
        x = jnp.take_along_axis(jnp.concatenate([embedded, image], axis=1), source[..., None], axis=1)
        real = lambda mask, size: jnp.ones((batch, size), bool) if mask is None else mask
        valid = jnp.concatenate([real(text_mask, length), real(image_valid, count)], axis=1)
        valid = jnp.take_along_axis(valid, source, axis=1) & (column < length + count - taken)
        return x, attention.AttentionSpec(causal=True, valid=valid)
