"""Encoders beyond images and text: video, audio, time series, tables and precomputed features.

All are called as `encoder(x, valid, keys)` and return `Encoded`. `valid` says which frames, steps, columns or features
are real; a token is valid when any of what it covers is. What is not valid counts as zeros, whatever it holds, NaN too,
and changes neither values nor gradients.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key

from mmjax.errors import validate_choice
from mmjax.models.encoders import Encoded, TransformerTower
from mmjax.nn import attention, modality_embed
from mmjax.nn import positions as positions_lib
from mmjax.nn.layers import Dense, add_parameter, broadcast_parameter, fold_keys
from mmjax.nn.mlp import ACTIVATIONS
from mmjax.nn.norms import layer_norm
from mmjax.utils.random_streams import EncoderStream

POSITIONS = ("factorised", "joint", "sincos")


class ModalityTower(TransformerTower, kw_only=True):
    """An encoder of a further modality.

    What is not listed is as in `TransformerTower`.

    Attributes:
      class_token: prepend a learned token, which is always valid.
    """

    norm_eps: float = 1e-6
    class_token: bool = True

    def learned(self, name: str, *shape: int) -> Float[Array, "..."]:
        """A learned array of positions or of a token: [*shape, D]."""
        return self.param(name, nn.initializers.normal(self.width**-0.5), (*shape, self.width), jnp.float32)

    def learned_tokens(self) -> tuple[str, ...]:
        """Names of the tokens that stand before those of the input."""
        return ("class_token",) if self.class_token else ()

    def encode(
        self,
        x: Float[Array, "B N D"],
        valid: Bool[Array, "B N"] | None,
        keys: Key[Array, " B"] | None,
        positions: Float[Array, "M D"] | None = None,
        *,
        intermediates: bool = False,
        final_norm: bool = True,
        key_bias: bool = True,
    ) -> Encoded:
        """Learned tokens in front, then the transformer (none at depth 0) and the final norm.

        Args:
          x: embedded tokens.
          valid: which of them are real; None when all are.
          keys: per-example keys, or None.
          positions: the position table, whose first rows belong to the learned tokens; None for none.
          intermediates: whether to return each layer's output.
          final_norm: whether there is one.
          key_bias: see `Transformer`.
        """
        names = self.learned_tokens()
        if names:
            first = jnp.stack([self.learned(name) for name in names])
            if positions is not None:
                first = first + positions[: len(names)]
            first = broadcast_parameter(first, (len(x), *first.shape), self.dtype)
            x = jnp.concatenate([first, x], axis=1)
            valid = None if valid is None else jnp.pad(valid, ((0, 0), (len(names), 0)), constant_values=True)
        layers = None
        if self.depth:
            spec = attention.AttentionSpec(valid=valid)
            run = self.make_transformer(key_bias=key_bias)
            out = run(x, spec, fold_keys(keys, EncoderStream.LAYERS), intermediates=intermediates)
            x, layers = out.tokens, out.layers
        if final_norm:
            x = layer_norm(self.norm_eps, self.dtype, "norm")(x)
        return Encoded(x, valid, layers=layers)


def zero_invalid(x: Float[Array, "B T ..."], valid: Bool[Array, "B T"] | None) -> Float[Array, "B T ..."]:
    """Zeros where not valid: in front of everything else, so that no NaN meets a product."""
    return x if valid is None else jnp.where(valid.reshape(valid.shape + (1,) * (x.ndim - 2)), x, 0)


def windows_with_valid(valid: Bool[Array, "B T"], length: int, stride: int) -> Bool[Array, "B N"]:
    """Which windows hold anything valid."""
    starts = jnp.arange((valid.shape[1] - length) // stride + 1) * stride
    return valid[:, starts[:, None] + jnp.arange(length)].any(axis=-1)


def resample_time_positions(
    table: Float[Array, "N D"], grid: tuple[int, ...], new: tuple[int, ...], prefix: int
) -> Float[Array, "M D"]:
    """Positions for another grid whose first axis is time: its first rows when shorter, stretched when longer."""
    if new[0] < grid[0]:
        rest = len(table[prefix:]) // grid[0]
        table, grid = table[: prefix + new[0] * rest], (new[0], *grid[1:])
    return positions_lib.resample_positions(table, grid, new, prefix=prefix)


class VideoTransformer(ModalityTower, kw_only=True):
    """ViViT with joint space-time attention (arXiv:2103.15691, model 1), and VideoMAE (arXiv:2203.12602).

    VideoMAE's encoder has `positions="sincos"`, `class_token=False` and `key_bias=False`; one that was made to be
    averaged over its tokens has `final_norm=False`.

    Other resolutions and numbers of frames resample the positions bicubically, along each axis by itself.

    Attributes:
      frames, image_size: of the videos that the position tables are made for.
      tubelet_frames, patch_size: frames and pixels of a tubelet.
      tubelet_init: of the tubelets' map: `normal`, `central_frame` or `average`, see `modality_embed.TubeletEmbed`.
      positions: `factorised` (a spatial and a temporal table, added), `joint` (one row for each tubelet, as ViViT
        has it) or `sincos` (the same of sines and cosines, which is no parameter).
      final_norm: a layer norm after the last layer.
      key_bias: see `Transformer`.
    """

    frames: int
    image_size: int
    patch_size: int
    tubelet_frames: int = 2
    tubelet_init: str = "normal"
    positions: str = "factorised"
    final_norm: bool = True
    key_bias: bool = True

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "B T H W C"],
        valid: Bool[Array, "B T"] | None = None,
        keys: Key[Array, " B"] | None = None,
        *,
        intermediates: bool = False,
    ) -> Encoded:
        """Encodes normalised frames, of which `valid` are real; tubelets stand in the order of time, row, column."""
        video = zero_invalid(video, valid)
        x = modality_embed.TubeletEmbed(
            self.width, self.tubelet_frames, self.patch_size, self.tubelet_init, self.dtype, name="tubelet_embed"
        )(video)
        batch, frames, rows, columns, _ = x.shape
        table = self._positions((frames, rows, columns))
        prefix = len(self.learned_tokens())
        x = add_parameter(x.reshape(batch, -1, self.width), table[prefix:])
        if valid is not None:
            seen = windows_with_valid(valid, self.tubelet_frames, self.tubelet_frames)
            valid = jnp.repeat(seen, rows * columns, axis=1)
        settings = dict(final_norm=self.final_norm, key_bias=self.key_bias)
        return self.encode(x, valid, keys, table, intermediates=intermediates, **settings)

    def _positions(self, new: tuple[int, int, int]) -> Float[Array, "N D"]:
        side = self.image_size // self.patch_size
        grid = (self.frames // self.tubelet_frames, side, side)
        prefix = len(self.learned_tokens())
        kind, rows = validate_choice("positions", self.positions, POSITIONS), prefix + grid[0] * side * side
        if kind != "factorised":
            sincos = kind == "sincos"
            table = self._sincos(rows, prefix) if sincos else self.learned("position_embedding", rows)
            return positions_lib.resample_positions(table, grid, new, prefix=prefix)
        space = self.learned("position_embedding", prefix + side * side)
        space = positions_lib.resample_positions(space, grid[1:], new[1:], prefix=prefix)
        time = positions_lib.resample_positions(self.learned("time_embedding", grid[0]), grid[:1], new[:1])
        both = (time[:, None] + space[prefix:]).reshape(-1, self.width)
        return jnp.concatenate([space[:prefix], both])

    def _sincos(self, rows: int, prefix: int) -> Float[Array, "N D"]:
        """Zeros for learned tokens, then sines and cosines by number of the tubelet."""
        table = positions_lib.interleaved_sinusoids(rows - prefix, self.width)
        return jnp.asarray(np.pad(table, ((prefix, 0), (0, 0))))


class AudioTransformer(ModalityTower, kw_only=True):
    """A transformer over patches of log-mel spectrograms, as in AST (arXiv:2104.01778).

    A patch keeps its time: a shorter spectrogram uses the first rows of the position table. A longer one stretches the
    table bicubically, and so does any other number of mel bins.

    Attributes:
      frames, mel_bins: of the spectrograms that the position table is made for.
      patch_size: (frames, mel bins) of a patch.
      stride: step from patch to patch along both; None for patches side by side. AST's is (10, 10).
      distillation_token: a second learned token, as AST has it from DeiT; AST pools the mean of the two.
    """

    frames: int
    mel_bins: int
    patch_size: Sequence[int] = (16, 16)
    stride: Sequence[int] | None = None
    distillation_token: bool = False

    def learned_tokens(self) -> tuple[str, ...]:
        """Names of the tokens that stand before those of the input."""
        return super().learned_tokens() + (("distillation_token",) if self.distillation_token else ())

    @nn.compact
    def __call__(
        self,
        spectrogram: Float[Array, "B T F"] | Float[Array, "B T F 1"],
        valid: Bool[Array, "B T"] | None = None,
        keys: Key[Array, " B"] | None = None,
        *,
        intermediates: bool = False,
    ) -> Encoded:
        """Encodes normalised log-mel frames, of which `valid` are real; patches stand in the order of time, frequency.

        Frames and bins beyond the last whole patch are left out.
        """
        spectrogram = zero_invalid(spectrogram if spectrogram.ndim == 4 else spectrogram[..., None], valid)
        window, stride = tuple(self.patch_size), tuple(self.stride or self.patch_size)
        x = modality_embed.WindowEmbed(self.width, window, stride, self.dtype, name="patch_embed")(spectrogram)
        batch, *new, _ = x.shape
        sizes = zip((self.frames, self.mel_bins), window, stride, strict=True)
        grid = tuple((size - length) // step + 1 for size, length, step in sizes)
        prefix = len(self.learned_tokens())
        table = self.learned("position_embedding", prefix + grid[0] * grid[1])
        table = resample_time_positions(table, grid, tuple(new), prefix)
        x = add_parameter(x.reshape(batch, -1, self.width), table[prefix:])
        if valid is not None:
            valid = jnp.repeat(windows_with_valid(valid, window[0], stride[0]), new[1], axis=1)
        return self.encode(x, valid, keys, table, intermediates=intermediates)


class SeriesTransformer(ModalityTower, kw_only=True):
    """A transformer over patches of a time series (sensors, markets): all channels of a few steps make a token.

    A step keeps its place: a shorter series uses the first positions; a longer one stretches the table bicubically.

    Attributes:
      steps: of the series that the position table is made for.
      patch_length: steps of a patch; the last patch of a series is filled up with zeros.
    """

    steps: int
    patch_length: int = 1

    @nn.compact
    def __call__(
        self,
        series: Float[Array, "B T C"],
        valid: Bool[Array, "B T"] | None = None,
        keys: Key[Array, " B"] | None = None,
        *,
        intermediates: bool = False,
    ) -> Encoded:
        """Encodes a series, of whose steps `valid` are real; they may lie anywhere."""
        length = self.patch_length
        fill = -series.shape[1] % length
        series = jnp.pad(zero_invalid(series, valid), ((0, 0), (0, fill), (0, 0)))
        x = modality_embed.WindowEmbed(self.width, (length,), None, self.dtype, name="patch_embed")(series)
        prefix, rows = len(self.learned_tokens()), -(-self.steps // length)
        table = self.learned("position_embedding", prefix + rows)
        table = resample_time_positions(table, (rows,), x.shape[1:2], prefix)
        if valid is not None:
            valid = windows_with_valid(jnp.pad(valid, ((0, 0), (0, fill))), length, length)
        return self.encode(add_parameter(x, table[prefix:]), valid, keys, table, intermediates=intermediates)


class TableTransformer(ModalityTower, kw_only=True):
    """A transformer over the columns of a table, with FT-Transformer's feature tokenizer (arXiv:2106.11959).

    The columns come as one array: the numeric ones, then the categorical ones as whole numbers. A numeric value that is
    not finite, and a category that is none of its column's (-1, NaN, one never seen), is missing: its token is invalid.

    Attributes:
      numeric: number of numeric columns, which should be standardised.
      categories: how many categories each categorical column has.
    """

    numeric: int
    categories: Sequence[int] = ()

    @nn.compact
    def __call__(
        self,
        columns: Float[Array, "B J"],
        valid: Bool[Array, "B J"] | None = None,
        keys: Key[Array, " B"] | None = None,
        *,
        intermediates: bool = False,
    ) -> Encoded:
        """Encodes rows of a table, one token a column; what `valid` leaves out is missing too."""
        expected = self.numeric + len(self.categories)
        if columns.shape[1] != expected or not expected:
            raise ValueError(
                f"a table of {columns.shape[1]} columns for numeric={self.numeric} and"
                f" {len(self.categories)} numbers of categories"
            )
        if valid is not None:
            columns = jnp.where(valid, columns, jnp.nan)
        numeric, category = columns[:, : self.numeric], columns[:, self.numeric :]
        # A float that is no whole number within reach of int32 is no category.
        is_integer = (category == jnp.round(category)) & (jnp.abs(category) < 2**24)
        category = jnp.where(is_integer, category, -1).astype(jnp.int32)
        tokenizer = modality_embed.FeatureTokenizer(self.width, tuple(self.categories), self.dtype, name="tokenizer")
        x, valid = tokenizer(numeric, category)
        return self.encode(x, valid, keys, intermediates=intermediates)


class FeatureEncoder(ModalityTower, kw_only=True):
    """Precomputed features (of a CNN, of a speech model): a layer norm, a map to width D, and a transformer if wanted.

    Attributes:
      hidden: units of a hidden layer in the map; 0 for one linear layer.
      context_length: rows of a learned position table; 0 when the features are a set without order.
      depth: layers of the transformer; 0 for none.
    """

    hidden: int = 0
    context_length: int = 0
    depth: int = 0
    heads: int = 1
    mlp_dim: int = 0
    class_token: bool = False

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "B N F"] | Float[Array, "B F"],
        valid: Bool[Array, "B N"] | None = None,
        keys: Key[Array, " B"] | None = None,
        *,
        intermediates: bool = False,
    ) -> Encoded:
        """Encodes features, of which `valid` are real; one vector an example becomes one token."""
        x = zero_invalid(features if features.ndim == 3 else features[:, None], valid)
        x = layer_norm(self.norm_eps, self.dtype, "norm_features")(x)
        if self.hidden:
            x = Dense(self.hidden, std=x.shape[-1] ** -0.5, dtype=self.dtype, name="hidden_layer")(x)
            x = ACTIVATIONS[self.activation](x)
        x = Dense(self.width, std=x.shape[-1] ** -0.5, dtype=self.dtype, name="projection")(x)
        prefix, table = len(self.learned_tokens()), None
        if self.context_length:
            if x.shape[1] > self.context_length:
                raise ValueError(f"{x.shape[1]} features are more than context_length={self.context_length}")
            table = self.learned("position_embedding", prefix + self.context_length)
            x = add_parameter(x, table[prefix : prefix + x.shape[1]])
        return self.encode(x, valid, keys, table, intermediates=intermediates)
