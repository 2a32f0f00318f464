"""What a model sees of a video: an encoded file or its frames -> uint8 [T, S, S, 3].

A frame is treated as an image is, and all frames of a clip alike: a video of one frame gives what its image gives.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmjax.data.bad_example import BadExample
from mmjax.data.image.crops import train_frames
from mmjax.data.image.image_file import apply_orientation, from_array
from mmjax.data.image.transforms import ImageSpec, convert_mode, eval_crops
from mmjax.data.video import clips
from mmjax.data.video.frame_reader import open_video
from mmjax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoSpec:
    """How a video becomes a [frames, size, size, 3] array.

    Attributes:
      image: how its frames are treated, all alike: size, crops, mirroring, augmentation. Normalised on the device, as
        images are.
      frames: T.
      stride: in training and in the clips of testing, from one frame to the next; 0 for frames that are spread over the
        video.
      rate: frames a second before any are chosen, 0 for the file's. With a rate, files of different rates and of a
        varying one show equal spans of time.
      clips: of testing, see `views`.
      crops: of testing, from one end of the longer side to the other: 1 or 3.
      region: outside training, the part of a frame that is seen: (left, top, right, bottom) in shares of its sides;
        None for all of it.
    """

    image: ImageSpec
    frames: int = 8
    stride: int = 0
    rate: float = 0.0
    clips: int = 1
    crops: int = 1
    region: tuple[float, float, float, float] | None = None

    def __post_init__(self):
        if self.region is not None:
            left, top, right, bottom = self.region
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise UserError(
                    f"region={self.region}: give (left, top, right, bottom), shares of the picture's sides from 0 to 1"
                )
        for name, least in (("frames", 1), ("stride", 0), ("clips", 1)):
            if getattr(self, name) < least:
                group = "eval.video" if name == "clips" else "data.video"
                raise UserError(f"{group}.{name}={getattr(self, name)}: give {least} or more")
        if not 0 <= self.rate < math.inf:
            raise UserError(f"data.video.rate={self.rate}: give frames a second, or 0 for the file's")
        if self.crops not in (1, 3):
            raise UserError(f"eval.video.crops={self.crops}: give 1 (the middle) or 3 (both ends, too)")
        if self.crops > 1 and self.image.resize == "squash":
            raise UserError(
                f"eval.video.crops={self.crops} goes with data.resize='crop': 'squash' shows all of a frame"
            )
        if self.image.frame:
            raise UserError("frames of videos are resized on the host; set data.resize_on='host'")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of what `prepare` gives."""
        return self.frames, self.image.size, self.image.size, 3

    @property
    def dtype(self) -> str:
        """Of what `prepare` gives."""
        return "uint8"

    def prepare(
        self,
        entry: bytes | np.ndarray,
        rng: np.random.Generator | None,
        *,
        rate: float | None = None,
        span: tuple[float, float] | None = None,
        position: float | None = None,
    ) -> UInt8[np.ndarray, "T S S 3"]:
        """Decodes and crops a clip.

        Args:
          entry: an encoded file, or frames as uint8 [N, H, W, 3].
          rng: of training: first frame, crop, mirroring and augmentation are drawn from it. In evaluation it is None:
            the frames are spread evenly, and their middle is shown.
          rate: of frames that are an array, a second; where it is not known, `span` and the spec's rate cannot be kept.
          span: the part of the video that counts, from second to second.
          position: of training: where in it the clip begins, see `training_frames`.

        Raises:
          BadExample: as `open_video` does; `empty` where no frame lies in the span.
          UserError: PyAV is not installed.
        """
        if rng is None:
            frames = self._frames(entry, rate, span, lambda count: clips.even_frames(count, self.frames))
            return np.stack([self._crops(*frame, count=1)[0] for frame in frames])
        choose = lambda count: clips.training_frames(count, self.frames, self.stride, rng, position)
        return np.stack(train_frames(self._frames(entry, rate, span, choose), self.image, rng))

    def views(
        self, entry: bytes | np.ndarray, *, rate: float | None = None, span: tuple[float, float] | None = None
    ) -> UInt8[np.ndarray, "V T S S 3"]:
        """The clips of testing, each in all its crops: of `clips` clips the first crops come first.

        Args:
          entry: see `prepare`; so are the others.

        Raises:
          BadExample: as `prepare` does.
          UserError: as `prepare` does.
        """
        chosen: list[np.ndarray] = []

        def choose(count: int) -> np.ndarray:
            frames, positions = np.unique(
                clips.view_frames(count, self.frames, self.stride, self.clips), return_inverse=True
            )
            chosen.append(positions.reshape(self.clips, self.frames))
            return frames

        crops = np.stack([self._crops(*frame, count=self.crops) for frame in self._frames(entry, rate, span, choose)])
        return np.moveaxis(crops[chosen[0]], 2, 1).reshape(-1, *self.shape)

    def shown(
        self, entry: bytes | np.ndarray, rate: float | None = None, span: tuple[float, float] | None = None
    ) -> tuple[float, float]:
        """From when to when, in seconds, a video shows anything within a span; arguments and errors as of `prepare`."""
        if isinstance(entry, bytes):
            with open_video(entry) as video:
                start, stop = float(video.times[0]), video.end
        else:
            start, stop = 0.0, len(_check_frames(entry, rate, needs_rate=True)) / (rate or 1.0)
        return (start, stop) if span is None else (max(start, span[0]), min(stop, span[1]))

    def _frames(
        self,
        entry: bytes | np.ndarray,
        rate: float | None,
        span: tuple[float, float] | None,
        choose: Callable[[int], np.ndarray],
    ) -> Iterator[tuple[Image.Image, int]]:
        """The frames that are chosen of a number of them, each with the EXIF orientation that makes it upright."""
        if isinstance(entry, bytes):
            with open_video(entry) as video:
                shown = clips.timeline(video.times, video.end, rate=self.rate, span=span)
                for frame in video.read(shown[choose(len(shown))].tolist()):
                    yield Image.fromarray(frame.pixels), frame.orientation
            return
        _check_frames(entry, rate, needs_rate=bool(self.rate or span))
        times = np.arange(len(entry)) / (rate or 1.0)
        shown = clips.timeline(times, len(entry) / (rate or 1.0), rate=self.rate, span=span)
        for index in shown[choose(len(shown))]:
            yield from_array(entry[index]), 1

    def _crops(self, image: Image.Image, orientation: int, *, count: int) -> list[np.ndarray]:
        """Crops of a frame as evaluation has them of images."""
        upright = apply_orientation(convert_mode(image, self.image), orientation)
        if self.region is not None:
            left, top, right, bottom = self.region
            width, height = upright.size
            edges = (math.floor(left * width), math.floor(top * height))
            upright = upright.crop((*edges, math.ceil(right * width), math.ceil(bottom * height)))
        return eval_crops(upright, self.image, count)


def _check_frames(entry: np.ndarray, rate: float | None, *, needs_rate: bool) -> np.ndarray:
    """Frames that are an array, as they are.

    Raises:
      BadExample: `corrupt` for another type or shape; `empty` for none.
      UserError: their rate is needed and not known.
    """
    if entry.ndim != 4 or entry.dtype != np.uint8 or entry.shape[-1] != 3:
        raise BadExample("corrupt", f"a video of {entry.dtype} {list(entry.shape)}; expected uint8 [T, H, W, 3]")
    if not entry.size:
        raise BadExample("empty", f"a video of shape {list(entry.shape)}")
    if needs_rate and not rate:
        raise UserError(
            "frames that are an array come without rates={'video': frames a second} in their record, which spans"
            " and data.video.rate need"
        )
    return entry
