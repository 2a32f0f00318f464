"""Where the tokens of an encoder of images, videos or sounds lie: in time, in rows and columns."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from mmjax.models.fusion.config import (
    AudioEncoderConfig,
    FramesEncoderConfig,
    ImageEncoderConfig,
    VideoEncoderConfig,
    WhisperEncoderConfig,
)


@dataclasses.dataclass(frozen=True)
class TokenGrid:
    """The order of tokens, behind learned ones that have no place.

    Attributes:
      times: groups of tokens, one after the other in time; of a spectrogram 1.
      rows: of a group: of a frame's patches; of a spectrogram in time.
      columns: of a frame's patches; of a spectrogram in frequency.
      skipped: tokens of each group before its rows.
    """

    times: int
    rows: int
    columns: int
    skipped: int = 0

    def cells(self, values: Float[np.ndarray, " N"]) -> Float[np.ndarray, "times rows columns"]:
        """Values of tokens at their places; those of tokens that have none are left out."""
        of_group = self.skipped + self.rows * self.columns
        groups = values[len(values) - self.times * of_group :].reshape(self.times, of_group)
        return groups[:, self.skipped :].reshape(self.times, self.rows, self.columns)


def input_grid(encoder: Any) -> TokenGrid | None:
    """The tokens that an encoder makes of its input; None for an encoder that is not known here."""
    if isinstance(encoder, ImageEncoderConfig):
        side = encoder.image_size // encoder.patch_size
        return TokenGrid(1, side, side)
    if isinstance(encoder, VideoEncoderConfig):
        side = encoder.image_size // encoder.patch_size
        return TokenGrid(encoder.frames // encoder.tubelet_frames, side, side)
    if isinstance(encoder, FramesEncoderConfig):
        side = encoder.image_size // encoder.patch_size
        return TokenGrid(encoder.frames, side, side, skipped=int(encoder.class_token) + encoder.registers)
    if isinstance(encoder, AudioEncoderConfig):
        sizes = zip(
            (encoder.frames, encoder.mel_bins), encoder.patch_size, encoder.stride or encoder.patch_size, strict=True
        )
        rows, columns = ((size - length) // step + 1 for size, length, step in sizes)
        return TokenGrid(1, rows, columns)
    if isinstance(encoder, WhisperEncoderConfig):
        return TokenGrid(1, -(-encoder.frames // 2), 1)
    return None


def covered_size(encoder: Any) -> tuple[int, int] | None:
    """Frames and mel bins of a spectrogram that an encoder's patches cover; None where that is all."""
    grid = input_grid(encoder)
    if not isinstance(encoder, AudioEncoderConfig) or grid is None:
        return None
    stride = encoder.stride or encoder.patch_size
    rows, columns = (
        (count - 1) * step + length
        for count, step, length in zip((grid.rows, grid.columns), stride, encoder.patch_size, strict=True)
    )
    return rows, columns


def output_grid(encoder: Any) -> TokenGrid | None:
    """The tokens that an encoder gives; None for an encoder that is not known here."""
    grid = input_grid(encoder)
    if not isinstance(encoder, FramesEncoderConfig) or grid is None:
        return grid
    times = 1 if encoder.temporal == "mean" else grid.times
    return dataclasses.replace(grid, times=times) if encoder.frame_pool == "none" else TokenGrid(times, 1, 1)
