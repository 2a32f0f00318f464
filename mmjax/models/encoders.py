"""Encoders: a raw modality in, `Encoded` tokens out. Pooling belongs to heads."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.models.encoder_base import Encoded, TransformerTower
from mmjax.nn import attention, dropout, embed, pool
from mmjax.nn.dense import add_parameter, broadcast_parameter
from mmjax.nn.norms import layer_norm
from mmjax.parallel import packing
from mmjax.parallel.activation_sharding import embedding_lookup
from mmjax.utils import end_of_text
from mmjax.utils.random_streams import EncoderStream


class VisionTransformer(TransformerTower, kw_only=True):
    """ViT (arXiv:2010.11929) as CLIP and SigLIP use it.

    Attributes:
      image_size, patch_size: pixels; the position table is made for `image_size` and resampled for other inputs.
      class_token: prepend a learned token.
      patch_bias: the patch projection has a bias (SigLIP yes, CLIP no).
      pre_norm: a layer norm between embedding and transformer (CLIP).
      final_norm: a layer norm after the last layer; CoCa's pooler has its own instead.
      crop_to_patches: leave out the pixels beyond the last whole patch, as SigLIP So400m/14 does at 384 pixels;
        otherwise a size that does not divide is a mistake.
      patch_dropout: share of patches dropped per example in training; a class token is always kept.
      Others as in `TransformerTower`.
    """

    image_size: int
    patch_size: int
    class_token: bool = True
    patch_bias: bool = False
    pre_norm: bool = True
    final_norm: bool = True
    crop_to_patches: bool = False
    patch_dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "B H W 3"],
        keys: Key[Array, " B"] | None = None,
        *,
        intermediates: bool = False,
        pool_kind: str | None = None,
    ) -> Encoded:
        """Encodes normalised images of any size that divides into patches; `keys` turn dropout on.

        Args:
          images: normalised.
          keys: one an example, for dropout.
          intermediates: whether to return each block's output.
          pool_kind: of the pool that alone reads the result; for one in `pool.OF_ONE_TOKEN` that token is returned
            alone. None when all tokens are wanted.
        """
        std = self.width**-0.5
        side = self.image_size // self.patch_size
        prefix = int(self.class_token)
        if self.crop_to_patches:
            height, width = (size // self.patch_size * self.patch_size for size in images.shape[1:3])
            images = images[:, :height, :width]
        x = embed.PatchEmbed(self.width, self.patch_size, self.patch_bias, self.dtype, name="patch_embed")(images)
        shape = (side * side + prefix, self.width)
        table = self.param("position_embedding", nn.initializers.normal(std), shape, jnp.float32)
        grid = (images.shape[1] // self.patch_size, images.shape[2] // self.patch_size)
        table = embed.resample_positions(table, (side, side), grid, prefix=prefix)
        x = add_parameter(x, table[prefix:])
        x = dropout.drop_patches(x, self.patch_dropout, dropout.fold_keys(keys, EncoderStream.EMBEDDING))
        if self.class_token:
            token = self.param("class_token", nn.initializers.normal(std), (self.width,), jnp.float32)
            token = broadcast_parameter(token + table[0], (x.shape[0], 1, self.width), self.dtype)
            x = jnp.concatenate([token, x], axis=1)
        if self.pre_norm:
            x = layer_norm(self.norm_eps, self.dtype, "norm_pre")(x)
        out = self.make_transformer()(
            x,
            attention.AttentionSpec(),
            dropout.fold_keys(keys, EncoderStream.LAYERS),
            intermediates=intermediates,
            chosen=pool.pooled_position(pool_kind, x.shape[:2]),
        )
        x = layer_norm(self.norm_eps, self.dtype, "norm")(out.tokens) if self.final_norm else out.tokens
        return Encoded(x, layers=out.layers)


class TextTransformer(TransformerTower, kw_only=True):
    """Text tower: causal (CLIP) or bidirectional (SigLIP).

    Attributes:
      vocab_size, context_length: rows of the token and of the position table; shorter texts use the first rows.
      causal: each token sees itself and those before it.
      mask_padding: padding is not attended to. CLIP and SigLIP leave this off, as the originals do.
      eos_id: id of the end-of-text token, whose first position `Encoded.eos` holds; -1 for the largest id of each text,
        see `mmjax.utils.end_of_text`.
      Others as in `TransformerTower`.
    """

    vocab_size: int
    context_length: int
    causal: bool = True
    mask_padding: bool = False
    eos_id: int = 49407

    @nn.compact
    def __call__(
        self,
        text: Int[Array, "B L"],
        text_mask: Bool[Array, "B L"] | None = None,
        keys: Key[Array, " B"] | None = None,
        *,
        packed: packing.TextPlaces | None = None,
        intermediates: bool = False,
        pool_kind: str | None = None,
    ) -> Encoded:
        """Encodes token ids.

        Args:
          text: padded.
          text_mask: True on real tokens; attended by only with `mask_padding`.
          keys: one an example, for dropout; None turns it off.
          places: where the texts of a causal tower stand in rows that are computed in place of theirs. Then the only
            token of a text in the result is its end of text.
          intermediates: whether to return each layer's output.
          pool_kind: as in `VisionTransformer`.

        Raises:
          ValueError: a text longer than the position table, or `packed` in a tower that sees what comes later.
        """
        if packed is not None and not self.causal:
            raise ValueError("texts of a tower that is not causal cannot be packed: their padding is attended to")
        length = text.shape[1]
        if length > self.context_length:
            raise ValueError(f"text of {length} tokens is longer than the model's context_length={self.context_length}")
        init = nn.initializers.normal
        shape = (self.vocab_size, self.width)
        token_embedding = self.param("token_embedding", init(0.02), shape, jnp.float32)
        shape = (self.context_length, self.width)
        position_embedding = self.param("position_embedding", init(0.01), shape, jnp.float32)
        eos = end_of_text.position(text, self.eos_id)
        norm = layer_norm(self.norm_eps, self.dtype, "norm")
        if packed is not None:
            ids, positions, segment = packing.pack(text, eos, packed, nothing=self.vocab_size)
            x = embedding_lookup(token_embedding, ids) + packing.rows_by_number(position_embedding, positions)
            spec = attention.AttentionSpec(causal=True, segment=segment)
            out = self.make_transformer()(x.astype(self.dtype), spec)
            return Encoded(norm(packing.take_last(out.tokens, eos, packed)[:, None]), eos=jnp.zeros_like(eos))
        x = (embedding_lookup(token_embedding, text) + position_embedding[:length]).astype(self.dtype)
        valid = text_mask if self.mask_padding else None
        spec = attention.AttentionSpec(causal=self.causal, valid=valid)
        chosen = pool.pooled_position(pool_kind, text.shape, eos)
        out = self.make_transformer()(
            x, spec, dropout.fold_keys(keys, EncoderStream.LAYERS), intermediates=intermediates, chosen=chosen
        )
        if chosen is not None:
            return Encoded(norm(out.tokens), eos=jnp.zeros_like(eos))
        return Encoded(norm(out.tokens), valid, eos, out.layers)
