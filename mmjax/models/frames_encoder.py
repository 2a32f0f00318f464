"""Video by an image tower: each frame through it, then their mean, their tokens with times, or layers over them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key

from mmjax.errors import UserError, validate_choice
from mmjax.models.encoders import Encoded, PatchTower, VisionTransformer
from mmjax.models.modality_encoders import resample_time_positions, zero_invalid
from mmjax.nn import attention
from mmjax.nn.layers import add_parameter, fold_keys
from mmjax.nn.norms import layer_norm
from mmjax.utils.random_streams import EncoderStream

FRAME_POOLS = ("cls", "mean", "none")
TEMPORAL = ("mean", "embedding", "transformer", "residual", "none")
_OF_IMAGE_TOWER = tuple(field.name for field in dataclasses.fields(PatchTower) if field.name not in ("parent", "name"))


class FramesEncoder(PatchTower, kw_only=True):
    """A vision transformer for each frame, and what makes one sequence of them.

    CLIP4Clip (arXiv:2104.08860) has `frame_pool="cls"` with `temporal="none"` (its meanP) or `residual` (seqTransf),
    and averages frames in the head, `pool="unit_mean"`; GIT (arXiv:2205.14100) gives a decoder all tokens of all
    frames: `frame_pool="none"`, `temporal="embedding"`.

    Parameters: `image`, those of a `VisionTransformer`; but for `temporal="mean"` and `none` `time_embedding`
    [frames, D]; with `temporal="transformer"` `norm`, and with layers (of `residual`, too) `transformer`.

    The fields of `PatchTower` are the image tower's; layers over frames have its heads, `mlp_dim` and the like. A frame
    keeps its time: a shorter video uses the first rows of the table, a longer one stretches it bicubically.

    Attributes:
      frames: of the videos that the table of times is made for.
      frame_pool: of the image tower's tokens: `cls`, `mean`, or `none`, with which all of them stay.
      temporal: `mean` (tokens of one place are averaged over the valid frames); or what gives every frame's: `none` (as
        they are), `embedding` (a learned vector of the frame's time is added), `transformer`, which has layers over
        these, and a norm, or `residual` (what layers over these give, without a norm, is added to the tokens).
      temporal_depth: layers over the frames of `temporal="transformer"` and `residual`; 0 for the times (and the norm)
        alone.
    """

    frames: int
    frame_pool: str = "cls"
    temporal: str = "mean"
    temporal_depth: int = 2

    def learned_tokens(self) -> tuple[str, ...]:
        """Names of the tokens that stand before those of the input: none."""
        return ()

    @nn.compact
    def __call__(
        self,
        video: Float[Array, "B T H W C"],
        valid: Bool[Array, "B T"] | None = None,
        keys: Key[Array, " B"] | None = None,
        *,
        intermediates: bool = False,
        pool_kind: str | None = None,
    ) -> Encoded:
        """Encodes normalised frames, of which `valid` are real; tokens stand in the order of time, then of the image.

        Args:
          video: normalised; frames that are not valid count as absent, whatever they hold.
          valid: which frames are real; None when all are.
          keys: one an example, for dropout.
          intermediates: whether to return each layer's output: of the layers over frames where there are any, else of
            the image tower's.
          pool_kind: of the pool that reads the result; all tokens are returned.

        Raises:
          UserError: `frame_pool="cls"` without a class token.
        """
        del pool_kind
        validate_choice("frame_pool", self.frame_pool, FRAME_POOLS)
        validate_choice("temporal", self.temporal, TEMPORAL)
        if self.frame_pool == "cls" and not self.class_token:
            raise UserError("frame_pool='cls' takes the class token, and class_token=False; choose frame_pool='mean'")
        batch, frames = video.shape[:2]
        settings: dict[str, Any] = {field: getattr(self, field) for field in _OF_IMAGE_TOWER}
        tower = VisionTransformer(**settings, name="image")
        images = zero_invalid(video, valid).reshape(batch * frames, *video.shape[2:])
        of_images = intermediates and not self._has_layers
        encoded = tower(
            images,
            _frame_keys(keys, frames),
            intermediates=of_images,
            pool_kind="cls" if self.frame_pool == "cls" and not of_images else None,
        )
        # [B T, N, D] -> [B, T, n, D]
        by_frame = lambda x: self._frame_tokens(x).reshape(batch, frames, -1, self.width)
        x = by_frame(encoded.tokens)
        layers = None if encoded.layers is None else jax.vmap(by_frame)(encoded.layers)
        if self.temporal == "mean":
            average = lambda x: _mean_of_frames(x, valid)
            seen = None if valid is None else jnp.broadcast_to(valid.any(axis=1)[:, None], (batch, x.shape[2]))
            return Encoded(average(x), seen, layers=None if layers is None else jax.vmap(average)(layers))
        if self.temporal == "none":
            return self._apart(x, valid, layers)
        return self._over_time(x, valid, keys, layers, intermediates)

    def _frame_tokens(self, tokens: Float[Array, "BT N D"]) -> Float[Array, "BT n D"]:
        """What stays of a frame's tokens."""
        if self.frame_pool == "none":
            return tokens
        return tokens[:, :1] if self.frame_pool == "cls" else tokens.mean(axis=1, keepdims=True)

    @property
    def _has_layers(self) -> bool:
        return has_layers_over_frames(self.temporal, self.temporal_depth)

    def _apart(self, x, valid, layers) -> Encoded:
        """All frames' tokens [B, T n, D], as the image tower gives them."""
        batch, frames, per_frame, width = x.shape
        flat = lambda x: x.reshape(*x.shape[:-4], batch, frames * per_frame, width)
        valid = None if valid is None else jnp.repeat(valid, per_frame, axis=1)
        return Encoded(flat(x), valid, layers=None if layers is None else flat(layers))

    def _over_time(self, x, valid, keys, layers, intermediates) -> Encoded:
        """All frames' tokens [B, T n, D] with their times, through the layers over frames."""
        batch, frames, per_frame, width = x.shape
        std = self.width**-0.5
        table = self.param("time_embedding", nn.initializers.normal(std), (self.frames, width), jnp.float32)
        table = resample_time_positions(table, (self.frames,), (frames,), 0)
        of_frames = x.reshape(batch, -1, width)
        x = add_parameter(x.swapaxes(1, 2), table).swapaxes(1, 2).reshape(batch, -1, width)
        valid = None if valid is None else jnp.repeat(valid, per_frame, axis=1)
        if self._has_layers:
            out = self.make_transformer(depth=self.temporal_depth)(
                x,
                attention.AttentionSpec(valid=valid),
                fold_keys(keys, EncoderStream.LAYERS),
                intermediates=intermediates,
            )
            x, layers = out.tokens, out.layers
        elif layers is not None:
            layers = layers.reshape(len(layers), batch, -1, width)
        if self.temporal == "embedding":
            return Encoded(x, valid, layers=layers)
        if self.temporal == "residual":
            return Encoded(of_frames + x, valid, layers=layers)
        return Encoded(layer_norm(self.norm_eps, self.dtype, "norm")(x), valid, layers=layers)


def has_layers_over_frames(temporal: str, depth: int) -> bool:
    """Whether an encoder has layers over frames.

    Args:
      temporal: as `FramesEncoder` has it.
      depth: its `temporal_depth`.
    """
    return temporal in ("transformer", "residual") and depth > 0


def _frame_keys(keys: Key[Array, " B"] | None, frames: int) -> Key[Array, " BT"] | None:
    """A key for each frame of each example."""
    keys = fold_keys(keys, EncoderStream.FRAMES)
    if keys is None:
        return None
    of_example = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    return jax.vmap(of_example, in_axes=(0, None))(keys, jnp.arange(frames)).reshape(-1)


def _mean_of_frames(x: Float[Array, "B T n D"], valid: Bool[Array, "B T"] | None) -> Float[Array, "B n D"]:
    if valid is None:
        return x.mean(axis=1)
    count = jnp.maximum(valid.sum(axis=1), 1).astype(x.dtype)
    return zero_invalid(x, valid).sum(axis=1) / count[:, None, None]
