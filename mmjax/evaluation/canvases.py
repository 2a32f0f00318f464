"""Pictures of what a model saw, over which maps of its tokens are drawn: an image, frames in a row, a spectrogram."""

import abc

import numpy as np
from jaxtyping import Float, UInt8

from mmjax.evaluation import heatmaps
from mmjax.evaluation.pictures import picture
from mmjax.models.fusion.config import FramesEncoderConfig, ImageEncoderConfig, VideoEncoderConfig
from mmjax.models.slot_config import EncoderConfig
from mmjax.tasks.token_grids import covered_size

_MOST_FRAMES = 8  # in a row
_GAP = 2  # pixels between frames
_WHITE = 255

Picture = UInt8[np.ndarray, "h w 3"]
Cells = Float[np.ndarray, "times rows columns"]


class Canvas(abc.ABC):
    """What a model saw.

    Args:
      array: as the model was given it, not normalised.
    """

    def __init__(self, array: np.ndarray):
        self.array = array

    @abc.abstractmethod
    def draw(self, longest: int) -> Picture:
        """The picture itself, whose longest side (of one frame half of it) has so many pixels."""

    @abc.abstractmethod
    def overlay(self, cells: Cells, low: float, high: float, longest: int) -> Picture:
        """A map over the picture; `low` and `high` are the values of the first and the last colour."""


class ImageCanvas(Canvas):
    """An image, uint8 [H, W, 3]."""

    def draw(self, longest: int) -> Picture:
        return heatmaps.resize_longest(self.array, longest)

    def overlay(self, cells: Cells, low: float, high: float, longest: int) -> Picture:
        return _over(self.draw(longest), cells[0], low, high)


class FramesCanvas(Canvas):
    """Frames [T, H, W, 3] in a row, at most eight; tokens of several frames are drawn over the middle one of them."""

    def draw(self, longest: int) -> Picture:
        return _row([heatmaps.resize_longest(frame, longest // 2) for frame, _ in self._shown(len(self.array))])

    def overlay(self, cells: Cells, low: float, high: float, longest: int) -> Picture:
        drawn = []
        for frame, time in self._shown(len(cells)):
            drawn.append(_over(heatmaps.resize_longest(frame, longest // 2), cells[time], low, high))
        return _row(drawn)

    def _shown(self, times: int) -> list[tuple[Picture, int]]:
        """Frames with the numbers of their groups of tokens, of which there are `times`; of one group all frames."""
        frames = len(self.array)
        groups = times if times > 1 else frames
        chosen = np.unique(np.linspace(0, groups - 1, min(groups, _MOST_FRAMES)).round().astype(int)).tolist()
        middle = lambda group: (2 * group + 1) * frames // (2 * groups)
        return [(picture("image", self.array[middle(group)]), group if times > 1 else 0) for group in chosen]


class SpectrogramCanvas(Canvas):
    """A spectrogram [frames, mel bins], with time from left to right and low frequencies at the bottom.

    Args:
      array: it.
      covered: the frames and mel bins that tokens cover; None for all.
    """

    def __init__(self, array: np.ndarray, covered: tuple[int, int] | None = None):
        frames, bins = covered or array.shape[:2]
        super().__init__(array.reshape(array.shape[:2])[:frames, :bins])

    def draw(self, longest: int) -> Picture:
        size = (longest // 2, longest)
        values = picture("audio", self.array)[:, :, 0].astype(np.float32)
        grey = heatmaps.patch_map(values.ravel(), values.shape, size)
        return np.repeat(np.rint(grey).astype(np.uint8)[:, :, None], 3, axis=2)

    def overlay(self, cells: Cells, low: float, high: float, longest: int) -> Picture:
        return _over(self.draw(longest), cells[0].T[::-1], low, high)


def make_canvas(array: np.ndarray, encoder: EncoderConfig) -> Canvas:
    """The canvas of a video, a sound, or an image among several modalities."""
    if isinstance(encoder, ImageEncoderConfig):
        return ImageCanvas(picture("image", array))
    is_video = isinstance(encoder, (VideoEncoderConfig, FramesEncoderConfig))
    return FramesCanvas(array) if is_video else SpectrogramCanvas(array, covered_size(encoder))


def _over(base: Picture, cells: Float[np.ndarray, "rows columns"], low: float, high: float) -> Picture:
    grid = (cells.shape[0], cells.shape[1])
    return heatmaps.overlay(base, heatmaps.patch_map(cells.ravel(), grid, base.shape[:2]), low, high)


def _row(frames: list[Picture]) -> UInt8[np.ndarray, "h total 3"]:
    """Pictures of one size side by side."""
    gap = np.full((len(frames[0]), _GAP, 3), _WHITE, np.uint8)
    return np.concatenate([part for frame in frames for part in (gap, frame)][1:], axis=1)
