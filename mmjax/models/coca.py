"""CoCa: contrast and captions from one pass over the text (arXiv:2205.01917), in OpenCLIP's layout."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from mmjax.errors import UserError, validate_choice
from mmjax.models import image_text, sown_attention, submodules
from mmjax.models.encoders import Encoded, build
from mmjax.models.writing_model import WritingModel
from mmjax.nn import attention, layers, pool, transformer
from mmjax.nn.kv_cache import Cache
from mmjax.nn.layers import broadcast_parameter, dense_float32
from mmjax.nn.norms import layer_norm
from mmjax.utils.random_streams import ExampleStream

CLASS_TOKEN_MASKS = ("exact", "shifted")


class Carry(NamedTuple):
    """What CoCa remembers between two tokens: the caches of the text tower and of the multimodal decoder."""

    text: Cache
    decoder: Cache

    def take(self, rows: Int[Array, " R"], examples: int | None = None) -> "Carry":
        """That of these rows, which may repeat; `examples` as in `parallel.gather_rows.take_rows`."""
        return Carry(self.text.take(rows, examples), self.decoder.take(rows, examples))


class CoCa(image_text.SlotsModel, image_text.ContrastiveModel, WritingModel, kw_only=True):
    """An image tower, an attentional pooler, a causal text tower, and a decoder on top of it that looks at the image.

    Of the pooler's queries the first is the image's embedding, the others are what the decoder looks at. The text tower
    has a class token behind each text, at the last position; it is the text's embedding, and no other token sees it.
    OpenCLIP masks padding one place off (its `correct_cls_mask` is off); `class_token_mask` has that for its weights.

    Parameters: `image`, `image_pool`, `image_norm`, `image_projection`, `text`, `text_class_token` [D], `text_norm`,
    `text_projection`, `decoder`, `decoder_norm`, `decoder_head`, and those of `ContrastiveModel`.

    What is not listed is as in `ContrastiveModel`.

    Attributes:
      embed_dim: E, width of the shared space and of the pooler's outputs.
      image: settings of `VisionTransformer`, without a final norm.
      text: settings of `TextStack`, `eos_id` and `pad_id`; the class token has a position beyond `context_length`.
      decoder: settings of `Transformer`; it is as wide as the text tower.
      queries: of the pooler, at least 2; 0 for no pooler: the image's class token is then its embedding, after the
        tower's final norm, and the decoder looks at the patches (OpenCLIP's coca_base).
      pool_heads: attention heads of the pooler.
      class_token_mask: whom the class token of a text sees: `exact` (the text's tokens and itself), or `shifted`
        (OpenCLIP's weights): padding, told by `text.pad_id`, is masked one place late for all tokens, so that the class
        token sees the first one of the padding, and itself behind a full text alone.
    """

    decoder: Mapping[str, Any]
    queries: int = 256
    pool_heads: int = 8
    class_token_mask: str = "exact"

    serves: ClassVar[tuple[str, ...]] = ("embeddings", "captions")
    attention_maps: ClassVar[tuple[str, ...]] = ("image", "similarity", "written")

    def setup(self):
        check_settings(self.seen, self.seen_settings, self.text, self.queries, self.class_token_mask)
        if self.queries and self.embed_dim % self.pool_heads:
            raise UserError(
                f"model.pool_heads={self.pool_heads} does not divide model.embed_dim={self.embed_dim}; choose one that"
                " does"
            )
        norm = lambda name: layer_norm(self.text["norm_eps"], self.dtype, name)
        dense = lambda size, std, name: dense_float32(size, std=std, dtype=self.dtype, name=name, use_bias=False)
        eps, width = self.seen_settings.get("norm_eps", self.text["norm_eps"]), self.text["width"]

        self.image_encoder = self.make_image_tower(final_norm=self.queries == 0)
        image_width = self.embed_dim if self.queries else self.seen_settings["width"]
        if self.queries:
            self.image_pool = pool.Pool(
                "map",
                self.pool_heads,
                queries=self.queries,
                width=self.embed_dim,
                norm_inputs=True,
                norm_eps=eps,
                dtype=self.dtype,
                name=f"{self.seen}_pool",
            )
            self.image_norm = layer_norm(eps, self.dtype, f"{self.seen}_norm")
        self.image_projection = dense(self.embed_dim, image_width**-0.5, f"{self.seen}_projection")

        self.text_encoder = self.make_text_stack(
            ignored=("context_length", "pad_id"),
            causal=True,
            head="none",
            final_norm=False,
            context_length=self.text["context_length"] + 1,
        )
        self.text_class_token = self.param("text_class_token", nn.initializers.normal(0.01), (width,), jnp.float32)
        self.text_norm = norm("text_norm")
        self.text_projection = dense(self.embed_dim, width**-0.5, "text_projection")

        self.writer = build(
            transformer.Transformer,
            "decoder",
            self.decoder,
            cross_every=1,
            cross_from=0,
            cross_mlp=True,
            norm="pre",
            dtype=self.dtype,
            attention_impl=self.text_attention,
        )
        self.decoder_norm = norm("decoder_norm")
        head = dict(std=width**-0.5, dtype=self.dtype, name="decoder_head", use_bias=False)
        self.decoder_head = dense_float32(self.text["vocab_size"], **head)

        super().setup()

    def run_text(self, text, text_mask, keys):
        """Encodes token ids: L tokens without a final norm, and behind them the class token.

        Raises:
          ValueError: more tokens than positions.
        """
        if text.shape[1] > self.text["context_length"]:
            raise ValueError(
                f"text of {text.shape[1]} tokens is longer than the model's"
                f" context_length={self.text['context_length']}"
            )
        x = self.text_encoder.embed(text, keys=keys)
        # The last position whatever the length, so that more padding changes nothing.
        token = self.text_class_token + self.text_encoder.position_embedding[-1]
        x = jnp.concatenate([x, broadcast_parameter(token, (x.shape[0], 1, x.shape[2]), x.dtype)], axis=1)
        valid = None if text_mask is None else jnp.pad(text_mask, ((0, 0), (0, 1)), constant_values=True)
        seen = valid
        if self.class_token_mask == "shifted":
            seen = jnp.pad(text != self.text["pad_id"], ((0, 0), (1, 0)), constant_values=True)
        out = self.text_encoder.run(x, attention.AttentionSpec(causal=True, valid=seen), keys)
        return Encoded(out.tokens, valid, jnp.full(x.shape[:1], text.shape[1], jnp.int32))

    def project_image(self, image):
        return self.image_projection(self._pooled(image)[:, 0])

    def project_text(self, text):
        return self.text_projection(self.text_norm(text.tokens[:, -1]))

    def decode(self, image: Encoded, text: Encoded, keys: Key[Array, " B"] | None = None) -> Float[Array, "B T V"]:
        """Caption logits from a text that is encoded already: of L tokens, [:, t] score token t + 1."""
        valid = None if text.valid is None else text.valid[:, :-1]
        spec = attention.AttentionSpec(causal=True, valid=valid)
        out = self.writer(
            text.tokens[:, :-1], spec, layers.fold_keys(keys, ExampleStream.DECODER), memory=self._memory(image)
        )
        return self._logits(out.tokens)

    def caption_logits(self, image, text, text_mask=None, keys=None) -> Float[Array, "B T V"]:
        """Teacher forcing: logits [:, t] score token t + 1. Padding is not attended to."""
        return self.decode(image, self.encode_text(text, text_mask, keys), keys)

    def start(self, image, text, text_mask, slots):
        spec = attention.AttentionSpec(causal=True, valid=text_mask)
        read = self.text_encoder.run(self.text_encoder.embed(text), spec, slots=slots)
        out = self.writer(read.tokens, spec, memory=self._memory(image), slots=slots)
        last = submodules.last_valid(out.tokens, text_mask)
        return self._logits(last[:, None])[:, 0], Carry(read.kept_cache, out.kept_cache)

    def step(self, carry: Carry, tokens: Int[Array, " B"]) -> tuple[Float[Array, "B V"], Carry]:
        """Reads one more token of each example and scores the next one."""
        x = self.text_encoder.embed(tokens[:, None], carry.text.counts[:, None])
        read = self.text_encoder.run(x, attention.AttentionSpec(), cache=carry.text)
        out = self.writer(read.tokens, attention.AttentionSpec(), cache=carry.decoder)
        return self._logits(out.tokens)[:, 0], Carry(read.kept_cache, out.kept_cache)

    def image_readout(self, sown: sown_attention.Sown) -> str | Float[Array, "B N"]:
        """Weights of the pooler's first query; without a pooler the kind of pool."""
        if not self.queries:
            return "cls"
        return sown_attention.attention_weights(sown, f"{self.seen}_pool", "attention")[:, 0]

    def word_attention(self, sown: sown_attention.Sown, words: int, patches: int) -> Float[Array, "B T N"]:
        """The decoder looks at the pooler's queries, and these at the image's tokens; or at the patches themselves."""
        del patches
        looks = sown_attention.last_cross_attention(sown, "decoder")[:, :words]
        if not self.queries:
            return jnp.pad(looks, ((0, 0), (0, 0), (1, 0)))  # nobody looks at the class token
        pooled = sown_attention.attention_weights(sown, f"{self.seen}_pool", "attention")[:, 1:]
        return jnp.einsum("BTQ,BQN->BTN", looks, pooled)

    def __call__(self, images, text, text_mask=None):
        """Embeds both and scores the token after each text's last position; used to initialise every parameter."""
        image, text = self.encode_image(images), self.encode_text(text, text_mask)
        return self.embed_image(image), self.embed_text(text), self.decode(image, text)[:, -1]

    def _pooled(self, image: Encoded) -> Float[Array, "B Q E"]:
        if not self.queries:
            return image.tokens
        image = submodules.without_invalid(image)
        return self.image_norm(self.image_pool(image.tokens, image.valid))

    def _memory(self, image: Encoded) -> transformer.Memory:
        return transformer.Memory(self._pooled(image)[:, 1:])

    def _logits(self, tokens: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        return self.decoder_head(self.decoder_norm(tokens))


def check_settings(seen: str, image: Mapping[str, Any], text: Mapping[str, Any], queries: int, mask: str) -> None:
    """Checks what CoCa's parts need of each other.

    Args:
      seen: the slot that is filled.
      image: settings of what fills it.
      text: settings of the text tower.
      queries, mask: the model's `queries` and `class_token_mask`.

    Raises:
      UserError: naming the field.
    """
    if queries < 0 or queries == 1:
        raise UserError(f"model.queries={queries} leaves no image for captions; choose 2 or more")
    if not queries and not (seen == "image" and image.get("class_token", True)):
        raise UserError(
            f"model.queries=0 embeds images by their class token, which model.{seen} has not; choose 2 or more queries"
        )
    if validate_choice("model.class_token_mask", mask, CLASS_TOKEN_MASKS) == "shifted" and text.get("pad_id") is None:
        raise UserError("model.class_token_mask='shifted' goes by the id of padding; set model.text.pad_id")
