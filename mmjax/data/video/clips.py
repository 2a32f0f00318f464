"""Which frames of a video a model sees: at random in training, evenly spread in evaluation, several clips in testing.

Pure functions of a number of frames, or of the times at which frames are shown.
"""

import numpy as np
from jaxtyping import Float64, Int64

from mmjax.data.bad_example import BadExample

_SLACK = 1e-6  # seconds, by which times of frames are rounded


def timeline(
    times: Float64[np.ndarray, " N"],
    end: float,
    *,
    rate: float = 0.0,
    span: tuple[float, float] | None = None,
) -> Int64[np.ndarray, " M"]:
    """The frames that are shown within a time span: all of them, or those at a steady rate.

    Args:
      times: when each frame is shown, in seconds, ascending.
      end: when the last one ends.
      rate: frames a second; whatever is shown at each of these moments counts, so that a frame may be left out, or come
        more than once. 0 for all frames as they are, however far apart.
      span: from when to when, in seconds; None for all. A span that goes beyond the video ends with it.

    Raises:
      BadExample: `empty` where no frame is shown in the span.
    """
    start, stop = (times[0], end) if span is None else (max(span[0], times[0]), min(span[1], end))
    if not start < stop:
        raise BadExample("empty", f"nothing is shown from {start:g} to {stop:g} s, of a video of {end:g} s")
    if rate:
        moments = start + np.arange(max(1, round((stop - start) * rate))) / rate
        return np.searchsorted(times, moments + _SLACK, side="right") - 1
    first = int(np.searchsorted(times, start + _SLACK, side="right")) - 1
    return np.arange(first, max(first + 1, int(np.searchsorted(times, stop - _SLACK, side="left"))))


def training_frames(
    count: int, frames: int, stride: int, rng: np.random.Generator, position: float | None = None
) -> Int64[np.ndarray, " T"]:
    """Draws frames for training, in ascending order.

    Args:
      count: of frames that there are.
      frames: T. Where the video is too short for them its last frame is repeated.
      stride: frames from one to the next, beginning at a random one; 0 for one at random of each T-th part.
      rng: what is drawn from; where there is no choice, nothing is.
      position: which of the possible beginnings, as a share from 0 up to 1; None draws one.
    """
    if not stride:
        draws = rng.random(frames) if count > 1 else np.zeros(frames)
        return np.minimum(count - 1, np.floor((np.arange(frames) + draws) * count / frames).astype(np.int64))
    starts = count - (frames - 1) * stride
    if position is not None:
        first = int(position * max(1, starts))
    else:
        first = int(rng.integers(starts)) if starts > 1 else 0
    return _clip(first, count, frames, stride)


def even_frames(count: int, frames: int) -> Int64[np.ndarray, " T"]:
    """The middle frame of each T-th part of a video."""
    return (np.arange(frames) * 2 + 1) * count // (2 * frames)


def view_frames(count: int, frames: int, stride: int, clips: int) -> Int64[np.ndarray, "C T"]:
    """Clips whose beginnings are evenly spaced from the first frame to the last possible one; the middle one of one.

    Args:
      count: of frames that there are.
      frames: T.
      stride: frames from one to the next; 0 for clips that are each spread over the video, one beside the other.
      clips: C.
    """
    if not stride:
        return even_frames(count, frames * clips).reshape(frames, clips).T
    last = max(0, count - 1 - (frames - 1) * stride)
    starts = [last // 2] if clips == 1 else [last * i // (clips - 1) for i in range(clips)]
    return np.stack([_clip(start, count, frames, stride) for start in starts])


def _clip(first: int, count: int, frames: int, stride: int) -> Int64[np.ndarray, " T"]:
    return np.minimum(first + stride * np.arange(frames), count - 1)
