"""Embeddings of windows of a signal, tubelets of a video and columns of a table."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn.layers import add_parameter, multiply
from mmjax.parallel.mesh import embedding_lookup, replicate_param

INFLATIONS = ("central_frame", "average")


class WindowEmbed(nn.Module):
    """Windows of a signal along any number of axes through one linear map: a convolution without padding.

    What lies beyond the last whole window is left out. Parameters: kernel [*window, C, D], bias [D].

    Attributes:
      width: D.
      window: length along each axis.
      stride: step from window to window along each axis; None for windows side by side.
    """

    width: int
    window: Sequence[int]
    stride: Sequence[int] | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B *S C"]) -> Float[Array, "B *G D"]:
        window = tuple(self.window)
        stride = tuple(self.stride or window)
        for axis, (size, length) in enumerate(zip(x.shape[1:-1], window, strict=True)):
            if size < length:
                raise ValueError(f"axis {axis} has {size} samples, fewer than one window of {length}")
        init = nn.initializers.normal((math.prod(window) * x.shape[-1]) ** -0.5)
        kernel = self.param("kernel", init, (*window, x.shape[-1], self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        return add_parameter(map_windows(x.astype(self.dtype), replicate_param(kernel), stride), bias)


def map_windows(
    x: Float[Array, "B *S C"], kernel: Float[Array, "*W C D"], stride: Sequence[int]
) -> Float[Array, "B *G D"]:
    """Maps every whole window of a signal linearly; what lies beyond the last one is left out.

    Args:
      x: the signal along any number of axes.
      kernel: a window's map, float32.
      stride: step from window to window along each axis.
    """
    axes = len(stride)
    if tuple(stride) == kernel.shape[:axes]:
        return _map_side_by_side(x, kernel)
    # Windows that overlap are cut out first: the gradient of a convolution's kernel would be in the compute type.
    for axis, (length, step) in enumerate(zip(kernel.shape, stride, strict=False)):
        starts = np.arange((x.shape[1 + axis] - length) // step + 1) * step
        x = jnp.take(x, starts[:, None] + np.arange(length), axis=1 + axis)
        x = jnp.moveaxis(x, 2 + axis, -1)
    return multiply(jnp.moveaxis(x, axes + 1, -1), kernel, axes + 1)


def _map_side_by_side(x, kernel):
    """One matrix product of all windows: no convolution is quicker."""
    window = kernel.shape[:-2]
    axes = len(window)
    grid = [size // step for size, step in zip(x.shape[1:-1], window, strict=True)]
    x = x[(slice(None), *(slice(count * step) for count, step in zip(grid, window, strict=True)))]
    split = [length for pair in zip(grid, window, strict=True) for length in pair]
    x = x.reshape(x.shape[0], *split, x.shape[-1])
    order = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1]
    return multiply(x.transpose(order), kernel, axes + 1)


class TubeletEmbed(nn.Module):
    """Non-overlapping tubelets of a video (some frames of a square patch) through one linear map (ViViT, 2103.15691).

    Parameters: `kernel` [frames, P, P, C, D], `bias` [D].

    Attributes:
      width: D.
      frames: of a tubelet.
      patch_size: P, in pixels.
      init: `normal`, or one of `INFLATIONS`: the initial map is that of one image patch, made longer.
    """

    width: int
    frames: int
    patch_size: int
    init: str = "normal"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, video: Float[Array, "B T H W C"]) -> Float[Array, "B t h w D"]:
        window = (self.frames, self.patch_size, self.patch_size)
        if any(size % length for size, length in zip(video.shape[1:4], window, strict=True)):
            raise ValueError(
                "a video of {}x{}x{} (frames, height, width) does not divide into tubelets of {}x{}x{}".format(
                    *video.shape[1:4], *window
                )
            )
        shape = (*window, video.shape[-1], self.width)
        init = nn.initializers.normal(math.prod(shape[:-1]) ** -0.5)
        kernel = self.param("kernel", init if self.init == "normal" else inflated(self.init), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        return add_parameter(map_windows(video.astype(self.dtype), replicate_param(kernel), window), bias)


def inflate_patches(
    kernel: Float[Array, "P P C D"], frames: int, how: str = "central_frame"
) -> Float[Array, "t P P C D"]:
    """Makes a tubelet's map from an image patch's, so that a video that stands still gives the image's tokens.

    Args:
      kernel: of `PatchEmbed`.
      frames: of the tubelet.
      how: `central_frame` puts it at frame `frames // 2`, with zeros around it (ViViT, eq. 9); `average` repeats it,
        divided by the number of frames (I3D's inflation, ViViT, eq. 8).
    """
    if how == "average":
        return jnp.repeat(kernel[None] / frames, frames, axis=0)
    if how == "central_frame":
        return jnp.zeros((frames, *kernel.shape), kernel.dtype).at[frames // 2].set(kernel)
    raise ValueError(f"inflation {how!r} is not known; choose one of: normal, {', '.join(INFLATIONS)}")


def inflated(how: str) -> nn.initializers.Initializer:
    """An initialiser of tubelet kernels: the patch embedding's own, inflated."""

    def init(key, shape, dtype=jnp.float32):
        patch = nn.initializers.normal(math.prod(shape[1:-1]) ** -0.5)(key, shape[1:], dtype)
        return inflate_patches(patch, shape[0], how)

    return init


class FeatureTokenizer(nn.Module):
    """One token for each column of a table (FT-Transformer, arXiv:2106.11959).

    A numeric value x of column j becomes `x * weight[j] + bias[j]`, a category its row of an embedding table, plus the
    column's bias. A value that is not finite and a category outside its column's range are missing: the token is
    invalid and holds the bias alone. Parameters: `weight` [numeric, D], `bias` [numeric + categorical, D] and
    `category_embedding` [sum of categories, D], all columns' tables one below the other; none of them decays.

    Attributes:
      width: D.
      categories: how many categories each categorical column has.
    """

    width: int
    categories: Sequence[int] = ()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, numeric: Float[Array, "B N"], categorical: Int[Array, "B M"]
    ) -> tuple[Float[Array, "B N+M D"], Bool[Array, "B N+M"]]:
        """Returns the columns' tokens, numeric ones first, and which of them are known."""
        if categorical.shape[1] != len(self.categories):
            raise ValueError(f"{categorical.shape[1]} categorical columns for {len(self.categories)} numbers of them")
        columns = numeric.shape[1] + categorical.shape[1]
        init = nn.initializers.uniform(2 * self.width**-0.5)
        around_zero = lambda *args: init(*args) - self.width**-0.5  # as the paper's code: U(-1 / sqrt(D), 1 / sqrt(D))
        bias = self.param("bias", around_zero, (columns, self.width), jnp.float32)
        tokens, valid = [], []
        if numeric.shape[1]:
            weight = self.param("weight", around_zero, (numeric.shape[1], self.width), jnp.float32)
            known = jnp.isfinite(numeric)
            tokens.append(jnp.where(known, numeric, 0)[..., None] * weight)
            valid.append(known)
        if self.categories:
            sizes = np.array(self.categories)
            table = self.param("category_embedding", around_zero, (int(sizes.sum()), self.width), jnp.float32)
            known = (categorical >= 0) & (categorical < sizes)
            rows = embedding_lookup(table, jnp.where(known, categorical, 0) + (np.cumsum(sizes) - sizes))
            tokens.append(jnp.where(known[..., None], rows, 0))
            valid.append(known)
        x = jnp.concatenate(tokens, axis=1) + bias
        return x.astype(self.dtype), jnp.concatenate(valid, axis=1)
