"""Q-Former: learned queries that read an image for a text (BLIP-2, arXiv:2301.12597)."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from mmjax.models import encoders, heads, image_text, language, sown_attention, submodules
from mmjax.models.encoders import Encoded
from mmjax.models.fusion_model import FusionModel
from mmjax.models.writing_model import WritingModel
from mmjax.nn import attention, layers, transformer
from mmjax.nn.layers import broadcast_parameter, dense_float32
from mmjax.nn.norms import layer_norm
from mmjax.utils.random_streams import EncoderStream


class QueryReader(encoders.TransformerTower, kw_only=True):
    """The Q-Former behind its first stage, where no text is read beside the queries: what they gather of an image.

    Parameters: `queries` [Q, D], `norm_embed` and `transformer`, which are `queries`, `text/norm_embed` and
    `text/transformer` of a `QFormer`.

    What is not listed is as in `TransformerTower`; `dropout` is of the queries, too.

    Attributes:
      queries: Q.
      cross_every: every k-th layer, the first one among them, looks at the image.
    """

    queries: int = 32
    cross_every: int = 2

    @nn.compact
    def __call__(self, image: Encoded, keys: Key[Array, " B"] | None = None) -> Float[Array, "B Q D"]:
        """The queries once they have looked at an image's tokens; `keys` turn dropout on."""
        shape = (self.queries, self.width)
        learned = self.param("queries", nn.initializers.normal(0.02), shape, jnp.float32)
        x = broadcast_parameter(learned, (len(image.tokens), *shape), self.dtype)
        x = layer_norm(self.norm_eps, self.dtype, name="norm_embed")(x)
        x = layers.dropout(x, self.dropout, layers.fold_keys(keys, EncoderStream.QUERIES))
        stack = self.make_transformer(norm="post", cross_every=self.cross_every)
        keys = layers.fold_keys(keys, EncoderStream.LAYERS)
        return stack(x, attention.AttentionSpec(), keys, memory=submodules.as_memory(image)).tokens


class QFormer(image_text.SlotsModel, image_text.ContrastiveModel, FusionModel, WritingModel, kw_only=True):
    """An image tower, usually frozen, and BERT, which reads learned queries and a text; only queries see the image.

    Queries and text share self-attention and have an MLP each. For contrast each is read alone; for matching they see
    each other; for captions the text sees the queries and its own past, and the queries each other alone.

    Parameters: `image`, `queries` [Q, D], `text` (with `caption` also its head), `image_projection`,
    `text_projection`, and those of `ContrastiveModel` and `FusionModel`.

    What is not listed is as in `ContrastiveModel` and `FusionModel`.

    Attributes:
      text: settings of `TextStack`, and `eos_id`; `cross_every` says which layers look at the image (BLIP-2: 2).
      queries: Q.
      caption: a head for captions.
      caption_id: token in place of a text's first one when it is a caption (BLIP-2's [DEC]); None to leave it.
    """

    queries: int = 32
    caption: bool = False
    caption_id: int | None = None

    serves: ClassVar[tuple[str, ...]] = ("embeddings", "matching", "captions", "answers")
    attention_maps: ClassVar[tuple[str, ...]] = ("image",)
    fuse_reads_words: ClassVar[bool] = True  # of encoded text only `valid` is used: the text is read again

    def setup(self):
        submodules.check_cross_attention("text", self.text)
        submodules.check_first_id("caption_id", self.caption_id, self.text["vocab_size"])
        self.image_encoder = self.make_image_tower()
        self.reader = self.make_text_stack(causal=False, cross_mlp=False, head="mlm" if self.caption else "none")
        width = self.text["width"]
        self.learned = self.param("queries", nn.initializers.normal(0.02), (self.queries, width), jnp.float32)
        dense = lambda: dense_float32(self.embed_dim, std=width**-0.5, dtype=self.dtype, name=None)
        self.image_projection, self.text_projection = dense(), dense()
        super().setup()

    def run_text(self, text, text_mask, keys):
        spec = attention.AttentionSpec(valid=text_mask)
        out = self.reader.run(self.reader.embed(text, keys=keys), spec, keys, segments=(0, text.shape[1]))
        return Encoded(out.tokens, text_mask)

    def project_image(self, image):
        """Each query by itself. Here nothing is dropped out."""
        x = self._embedded(image.tokens.shape[0], None)
        memory = submodules.as_memory(image)
        out = self.reader.run(x, attention.AttentionSpec(), memory=memory, segments=(self.queries, 0))
        return self.image_projection(out.tokens)

    def project_text(self, text):
        return self.text_projection(text.tokens[:, 0])

    def run_fusion(self, image, text, words, keys):
        """Queries and text once they have seen each other, the queries first."""
        return self._read(image, words, text.valid, keys, causal=False)

    def match_logits(self, fused: Encoded) -> Float[Array, "B 2"]:
        """Whether image and text belong together, the mean of what the queries say; index 1 says yes."""
        heads.check_head("match", self.match)
        return self.match_head(fused.tokens[:, : self.queries]).mean(axis=1)

    def pool_fused(self, fused):
        return fused.tokens[:, : self.queries].mean(axis=1)

    def run_writer(self, image, text, text_mask, keys):
        heads.check_head("caption", self.caption)
        read = self._read(image, submodules.with_first(text, self.caption_id), text_mask, keys, causal=True)
        return self.reader.logits(read.tokens[:, self.queries :])

    def start(self, image, text, text_mask, slots):
        heads.check_head("caption", self.caption)
        batch, count = text.shape[0], self.queries
        looked = self.reader.run(
            self._embedded(batch, None),
            attention.AttentionSpec(),
            memory=submodules.as_memory(image),
            segments=(count, 0),
            slots=count + slots,
        )
        # No text token looks at the image: its keys and values need not be kept, nor copied when rows are taken.
        carry = language.Carry(looked.kept_cache.without_memory(), jnp.full(batch, count, jnp.int32))
        x = self.reader.embed(submodules.with_first(text, self.caption_id))
        tokens, carry = self._go_on(carry, x, attention.AttentionSpec(valid=text_mask))
        return self.reader.logits(submodules.last_valid(tokens, text_mask)[:, None])[:, 0], carry

    def step(self, carry: language.Carry, tokens: Int[Array, " B"]) -> tuple[Float[Array, "B V"], language.Carry]:
        """Reads one more token of each example and scores the next one."""
        x = self.reader.embed(tokens[:, None], (carry.cache.counts - carry.skipped)[:, None])
        read, carry = self._go_on(carry, x, attention.AttentionSpec())
        return self.reader.logits(read)[:, 0], carry

    def image_readout(self, sown: sown_attention.Sown) -> Float[Array, "B N"]:
        """Cross-attention of the last layer, the mean over the queries."""
        return sown_attention.last_cross_attention(sown, "text", "transformer").mean(axis=1)

    def __call__(self, images, text, text_mask=None):
        """Fuses both, with every head; used to initialise every parameter."""
        # Both segments in one pass, which makes the parameters of every layer.
        fused = self._read(self.encode_image(images), text, text_mask, None, causal=False)
        queries, words = fused.tokens[:, : self.queries], fused.tokens[:, self.queries :]
        logits = (self.reader.logits(words)[:, 0],) if self.caption else ()
        return (self.image_projection(queries), self.text_projection(words[:, 0]), *logits, *self.head_logits(fused))

    def _embedded(self, batch: int, keys: Key[Array, " B"] | None) -> Float[Array, "B Q D"]:
        """The learned queries as the layers are given them."""
        x = broadcast_parameter(self.learned, (batch, *self.learned.shape), self.dtype)
        x = self.reader.norm_embed(x) if self.reader.embedding_norm else x
        return layers.dropout(x, self.reader.dropout, layers.fold_keys(keys, EncoderStream.QUERIES))

    def _read(self, image, words, valid, keys, *, causal: bool) -> Encoded:
        """Queries and text in one pass; with `causal` each word sees the queries and the words before it alone."""
        batch, length = words.shape
        x = jnp.concatenate([self._embedded(batch, keys), self.reader.embed(words, keys=keys)], axis=1)
        real = None if valid is None else jnp.pad(valid, ((0, 0), (self.queries, 0)), constant_values=True)
        autoregressive = (jnp.arange(self.queries + length) >= self.queries).astype(jnp.int32) if causal else None
        spec = attention.AttentionSpec(valid=real, autoregressive=autoregressive)
        options = dict(memory=submodules.as_memory(image), segments=(self.queries, length))
        return Encoded(self.reader.run(x, spec, keys, **options).tokens, real)

    def _go_on(
        self, carry: language.Carry, x: Float[Array, "B P D"], spec: attention.AttentionSpec
    ) -> tuple[Float[Array, "B P D"], language.Carry]:
        """Reads more words."""
        out: transformer.Output = self.reader.run(x, spec, cache=carry.cache, segments=(0, x.shape[1]))
        return out.tokens, carry._replace(cache=out.cache)
