"""Encoders of images and texts, and what every encoder shares: a raw modality in, `Encoded` tokens out.

Pooling belongs to heads; encoders of further modalities are in `modality_encoders`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.data.text.tokenizer import end_of_text_position
from mmjax.errors import UserError, did_you_mean
from mmjax.nn import attention, norms, pool, rotary, transformer
from mmjax.nn import layers as layers_lib
from mmjax.nn import positions as positions_lib
from mmjax.nn.config import BlockConfig, block_config
from mmjax.nn.layers import add_parameter, broadcast_parameter, fold_keys
from mmjax.nn.norms import LayerNorm, RMSNorm
from mmjax.parallel import packing
from mmjax.parallel.mesh import embedding_lookup
from mmjax.utils.random_streams import EncoderStream

M = TypeVar("M", bound=nn.Module)
# Where the positions of a text begin in their table.
POSITIONS = ("first", "after_pad")
# Fields of a tower that `Transformer` has by the same name.
_TRANSFORMER_FIELDS = (
    "depth",
    "heads",
    "mlp_dim",
    "activation",
    "norm_eps",
    "scan",
    "remat",
    "remat_keep",
    "dropout",
    "drop_path",
    "dtype",
    "attention_impl",
    "block",
)


class Encoded(NamedTuple):
    """What every encoder returns.

    Attributes:
      tokens: [B, N, D] after the final norm, where there is one.
      valid: [B, N] bool, True where the token is real; None when all are.
      eos: [B] position of the end-of-text token; None where there is none.
      layers: [depth, B, N, D] each block's output, when intermediates were asked for; else None.
    """

    tokens: Float[Array, "B N D"]
    valid: Bool[Array, "B N"] | None = None
    eos: Int[Array, " B"] | None = None
    layers: Float[Array, "depth B N D"] | None = None

    def tokens_after(self, layer: int) -> Float[Array, "B N D"]:
        """One block's output.

        Raises:
          ValueError: intermediates were not asked for.
        """
        if self.layers is None:
            raise ValueError("the blocks' outputs were not kept; ask for intermediates")
        return self.layers[layer]


class TransformerTower(nn.Module, kw_only=True):
    """The fields of a module that has a transformer.

    Attributes:
      width: D.
      depth, heads, mlp_dim, activation, norm_eps, dropout, drop_path, scan, remat, remat_keep: see `Transformer`.
      dtype, attention_impl, block: see `Transformer`.
    """

    width: int
    depth: int
    heads: int
    mlp_dim: int
    activation: str = "gelu"
    norm_eps: float = 1e-5
    dropout: float = 0.0
    drop_path: float = 0.0
    scan: bool | str = "auto"
    remat: str = "none"
    remat_keep: int = 0
    dtype: DTypeLike = jnp.float32
    attention_impl: attention.Kernel = "xla"
    block: BlockConfig | Mapping[str, Any] | None = None

    def make_transformer(self, name: str = "transformer", **changes) -> transformer.Transformer:
        """A transformer with the tower's fields of the same names, but for `changes`."""
        settings = {field: getattr(self, field) for field in _TRANSFORMER_FIELDS}
        return transformer.Transformer(**(settings | changes), name=name)

    def make_norm(self, name: str) -> LayerNorm | RMSNorm:
        """A norm of the kind that the layers have."""
        return norms.make_norm(block_config(self.block).norm_type, self.norm_eps, self.dtype, name)

    @property
    def is_rotary(self) -> bool:
        """Whether queries and keys are turned by their positions."""
        return block_config(self.block).rope != "none"


def build(
    cls: type[M],
    part: str,
    settings: Mapping[str, Any],
    *,
    name: str | None = None,
    ignored: tuple[str, ...] = (),
    **fixed: Any,
) -> M:
    """Makes a part of a model from its plain settings.

    Args:
      cls: the part's class.
      part: the model's field that holds the settings.
      settings: fields of `cls`.
      name: of the part; None for that of the field.
      ignored: settings that are not for `cls`.
      fixed: fields that the model itself decides.

    Raises:
      UserError: a setting that `cls` does not have, or that is not the user's to decide, or one that it lacks.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    free = set(fields) - {"parent", "name", *fixed}
    chosen = {key: value for key, value in settings.items() if key not in ignored}
    for key in chosen:
        if key not in free:
            hint = did_you_mean(key, free)
            raise UserError(f"model.{part}.{key} is no setting of {cls.__name__} here{hint}; remove it")
    for key in sorted(free - set(chosen)):
        if fields[key].default is dataclasses.MISSING:
            raise UserError(f"model.{part}.{key} is not set, which {cls.__name__} needs")
    return cls(**chosen, **fixed, name=name or part)


class PatchTower(TransformerTower, kw_only=True):
    """The fields of a transformer over the patches of an image.

    What is not listed is as in `TransformerTower`.

    Attributes:
      image_size, patch_size: pixels; the position table is made for `image_size` and resampled for other inputs.
      class_token: prepend a learned token.
      patch_bias: the patch projection has a bias (SigLIP yes, CLIP no).
      pre_norm: a layer norm between embedding and transformer (CLIP).
      final_norm: a layer norm after the last layer; CoCa's pooler has its own instead.
      crop_to_patches: leave out the pixels beyond the last whole patch, as SigLIP So400m/14 does at 384 pixels;
        otherwise a size that does not divide is a mistake.
      patch_dropout: share of patches dropped per example in training; a class token is always kept.
      registers: learned tokens without positions between class token and patches (arXiv:2309.16588).
      position_antialias: whether positions for inputs of another size are resampled with antialiasing.
    """

    image_size: int
    patch_size: int
    class_token: bool = True
    patch_bias: bool = False
    pre_norm: bool = True
    final_norm: bool = True
    crop_to_patches: bool = False
    patch_dropout: float = 0.0
    registers: int = 0
    position_antialias: bool = True


class VisionTransformer(PatchTower, kw_only=True):
    """ViT (arXiv:2010.11929) as CLIP, SigLIP, DINOv2 and EVA use it. Its fields are those of `PatchTower`."""

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
        x = layers_lib.PatchEmbed(self.width, self.patch_size, self.patch_bias, self.dtype, name="patch_embed")(images)
        shape = (side * side + prefix, self.width)
        table = self.param("position_embedding", nn.initializers.normal(std), shape, jnp.float32)
        grid = (images.shape[1] // self.patch_size, images.shape[2] // self.patch_size)
        if grid != (side, side):
            table = positions_lib.resample_positions(
                table, (side, side), grid, prefix=prefix, antialias=self.position_antialias
            )
        x = add_parameter(x, table[prefix:])
        kept = kept_patches(x.shape[1], self.patch_dropout, fold_keys(keys, EncoderStream.EMBEDDING))
        x = x if kept is None else jnp.take_along_axis(x, kept[..., None], axis=1)
        if self.registers:
            shape = (self.registers, self.width)
            registers = self.param("register_tokens", nn.initializers.normal(std), shape, jnp.float32)
            x = jnp.concatenate([broadcast_parameter(registers, (len(x), *shape), self.dtype), x], axis=1)
        if self.class_token:
            token = self.param("class_token", nn.initializers.normal(std), (self.width,), jnp.float32)
            token = broadcast_parameter(token + table[0], (x.shape[0], 1, self.width), self.dtype)
            x = jnp.concatenate([token, x], axis=1)
        if self.pre_norm:
            x = self.make_norm("norm_pre")(x)
        out = self.make_transformer()(
            x,
            attention.AttentionSpec(),
            fold_keys(keys, EncoderStream.LAYERS),
            intermediates=intermediates,
            chosen=pool.pooled_position(pool_kind, x.shape[:2]),
            positions=self._grid_positions(grid, kept),
        )
        x = self.make_norm("norm")(out.tokens) if self.final_norm else out.tokens
        return Encoded(x, layers=out.layers)

    def _grid_positions(self, grid, kept):
        """Positions of the tokens for `block.rope`; what stands before the patches is not turned."""
        if not self.is_rotary:
            return None
        block, prefix = block_config(self.block), int(self.class_token) + self.registers
        positions = jnp.asarray(
            rotary.grid_positions(
                grid, prefix=prefix, reference=block.rope_grid, offset=block.rope_offset, axes=block.rope_axes
            )
        )
        if kept is None:
            return positions
        chosen = positions[0, prefix:][kept]
        return jnp.concatenate([jnp.broadcast_to(positions[:, :prefix], (len(kept), prefix, 2)), chosen], axis=1)


def kept_patches(length: int, rate: float, keys: Key[Array, " B"] | None) -> Int[Array, "B M"] | None:
    """A random subset of `round(N * (1 - rate))` of N patches of each example, in order (FLIP, arXiv:2212.00794).

    None where all are kept.
    """
    if keys is None or rate == 0.0:
        return None
    kept = max(1, round(length * (1.0 - rate)))
    noise = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(keys)
    return jnp.sort(jnp.argsort(noise, axis=1)[:, :kept], axis=1)


def drop_patches(tokens: Float[Array, "B N D"], rate: float, keys: Key[Array, " B"] | None) -> Float[Array, "B M D"]:
    """The tokens of `kept_patches`."""
    kept = kept_patches(tokens.shape[1], rate, keys)
    return tokens if kept is None else jnp.take_along_axis(tokens, kept[..., None], axis=1)


class TextTransformer(TransformerTower, kw_only=True):
    """Text tower: causal (CLIP), bidirectional (SigLIP), or BERT's and RoBERTa's (arXiv:1907.11692).

    Parameters: `token_embedding` [V, D], `position_embedding`, with `token_types` `type_embedding` [types, D], with
    `embedding_norm` `norm_embed`, `transformer`, and with `final_norm` `norm`; their names are those of `TextStack`.

    What is not listed is as in `TransformerTower`.

    Attributes:
      vocab_size, context_length: rows of the token and of the position table; shorter texts use the first rows.
      causal: each token sees itself and those before it.
      mask_padding: padding is not attended to. CLIP and SigLIP leave this off, as the originals do.
      eos_id: id of the end-of-text token, whose first position `Encoded.eos` holds; -1 for the largest id of each text,
        see `mmjax.data.text.tokenizer`.
      pad_id: with `mask_padding`, tokens of this id are the padding, wherever they stand; None: what `text_mask` says.
      positions: `first`, or `after_pad` (RoBERTa): the table has `pad_id` + 1 rows before those of texts, tokens are
        counted without the padding among them, and padding has the row of its id.
      norm, token_types, embedding_norm, final_norm: see `TextStack`.
    """

    vocab_size: int
    context_length: int
    causal: bool = True
    mask_padding: bool = False
    eos_id: int = 49407
    pad_id: int | None = None
    positions: str = "first"
    norm: str = "pre"
    token_types: int = 0
    embedding_norm: bool = False
    final_norm: bool = True

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
          packed: where the texts of a causal tower stand in rows that are computed in place of theirs. Then the only
            token of a text in the result is its end of text.
          intermediates: whether to return each layer's output.
          pool_kind: as in `VisionTransformer`.

        Raises:
          ValueError: a text longer than the position table, or `packed` in a tower that sees what comes later, or whose
            layers or embeddings are BERT's.
        """
        if packed is not None and not self.causal:
            raise ValueError("texts of a tower that is not causal cannot be packed: their padding is attended to")
        if packed is not None and not self._is_plain():
            raise ValueError("texts of a tower of BERT's kind cannot be packed: their embeddings are made otherwise")
        length = text.shape[1]
        if length > self.context_length:
            raise ValueError(f"text of {length} tokens is longer than the model's context_length={self.context_length}")
        init = nn.initializers.normal
        shape = (self.vocab_size, self.width)
        token_embedding = self.param("token_embedding", init(0.02), shape, jnp.float32)
        shape = (self.context_length + self._rows_before(), self.width)
        position_embedding = self.param("position_embedding", init(0.01), shape, jnp.float32)
        eos = end_of_text_position(text, self.eos_id)
        norm = self.make_norm("norm") if self.final_norm else lambda tokens: tokens
        if packed is not None:
            ids, positions, segment = packing.pack(text, eos, packed, nothing=self.vocab_size)
            x = embedding_lookup(token_embedding, ids) + packing.rows_by_number(position_embedding, positions)
            spec = attention.AttentionSpec(causal=True, segment=segment)
            out = self.make_transformer()(x.astype(self.dtype), spec, positions=positions if self.is_rotary else None)
            return Encoded(norm(packing.take_last(out.tokens, eos, packed)[:, None]), eos=jnp.zeros_like(eos))
        real = text_mask if self.pad_id is None else text != self.pad_id
        position_rows = position_embedding[:length]
        if (before := self._rows_before()) and real is not None:
            numbers = jnp.where(real, jnp.cumsum(real, axis=1), 0) + before - 1
            position_rows = packing.rows_by_number(position_embedding[: length + before], numbers)
        x = embedding_lookup(token_embedding, text) + position_rows
        if self.token_types:  # all tokens are of the first type
            x = x + self.param("type_embedding", init(0.02), (self.token_types, self.width), jnp.float32)[0]
        x = x.astype(self.dtype)
        x = self.make_norm("norm_embed")(x) if self.embedding_norm else x
        valid = real if self.mask_padding else None
        spec = attention.AttentionSpec(causal=self.causal, valid=valid)
        chosen = pool.pooled_position(pool_kind, text.shape, eos)
        out = self.make_transformer(norm=self.norm)(
            x, spec, fold_keys(keys, EncoderStream.LAYERS), intermediates=intermediates, chosen=chosen
        )
        if chosen is not None:
            return Encoded(norm(out.tokens), eos=jnp.zeros_like(eos))
        return Encoded(norm(out.tokens), valid, eos, out.layers)

    def _rows_before(self) -> int:
        """Rows of the position table before those of texts.

        Raises:
          ValueError: `positions` is not known, or `after_pad` is without the id of padding.
        """
        if self.positions not in POSITIONS or (self.positions == "after_pad" and self.pad_id is None):
            raise ValueError(f"positions={self.positions!r} with pad_id={self.pad_id}: choose 'first', or give the id")
        return 0 if self.positions == "first" or self.pad_id is None else self.pad_id + 1

    def _is_plain(self) -> bool:
        """Whether layers and embeddings are CLIP's."""
        is_bert = self.norm == "post" or self.token_types or self.embedding_norm or not self.final_norm
        return not is_bert and self.positions == "first"
