"""A ball between two walls, whose bounces are seen and heard at irregular times: what synchronisation is learned from.

The ball flies from one wall to the other and back, the walls being two opposite edges of the picture; when it arrives
there it is heard as a click, whose pitch says its shape and whose ring what the walls are made of, as in `moving`. From
one bounce to the next it takes a time of its own, so that no shift of the sound fits as well as the true one:

    video  uint8 [30, 32, 32, 3]  three seconds; where the ball is
    audio  float32 [24000]        the clicks

Colour, background, walls, the direction of flight and the loudness of the noise are drawn without the times of the
bounces, which begin before the first frame and go on behind the last: no part of a scene is without any for longer than
`GAPS` says, and nothing but the clicks themselves tells when they are.
"""

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from mmjax.data.loading.order import example_rng
from mmjax.data.record import Record, check_index, stable_id
from mmjax.data.sources.moving import PARTIALS, PITCHES, WALLS
from mmjax.data.sources.shapes import BACKGROUNDS, COLORS, SHAPES, TINTS, background, draw_object, pick
from mmjax.errors import UserError, validate_choice
from mmjax.utils.random_streams import BouncingStream

GAPS = (0.3, 0.8)  # seconds from one bounce to the next
TRAIN_LENGTH = 1_000_000
TEST_LENGTH = 1_000

_COLORS, _WALLS = tuple(COLORS), tuple(WALLS)
_PITCHES: dict[str, float] = {**PITCHES}
_RING = 10  # times in which it decays to 1 / e, after which a click is over: below the least step of 16 bits
_RADIUS = 4.6  # pixels of a 32-pixel frame
_LANES = (12.0, 20.0)  # pixels of a 32-pixel frame, between which the line of flight lies: no other wall is near
_EDGE = 4  # pixels around a frame while it is drawn


class Bouncing:
    """Scenes of a bouncing ball with their sounds; example i is a pure function of (split, i).

    Records have `modalities`: `video` uint8 [frames, size, size, 3] and `audio` float32 [samples] with their `rates`,
    and no captions. The `annotation` has `bounce_times` in seconds, `color`, `shape` and `walls`.

    Args:
      split: "train", a million scenes, or "test", others.
      frames: a second of video, at least 10.
      seconds: of a scene, at least 1.
      size: pixels of a frame's side, at least 32.
      sample_rate: of the sound in Hz, at least 8000.
      length: number of examples.

    Attributes:
      modality_shapes: of `video` and `audio`.

    Raises:
      UserError: on an unknown split, or a number out of range.
    """

    class_names = None
    splits = ("train", "test")
    templates = None

    def __init__(
        self,
        split: str = "train",
        frames: int = 10,
        seconds: float = 3.0,
        size: int = 32,
        sample_rate: int = 8000,
        length: int | None = None,
    ):
        self.split = validate_choice("split", split, self.splits)
        self.name = "bouncing" if split == "test" else "bouncing/train"
        self.rate, self.seconds, self.size, self.sample_rate = frames, seconds, size, sample_rate
        least = {
            "frames": (frames, 10),
            "seconds": (seconds, 1),
            "size": (size, 32),
            "sample_rate": (sample_rate, 8000),
        }
        for field, (value, low) in least.items():
            if value < low:
                raise UserError(f"{field}={value} is too small to see and hear the bounces; choose {low} or more")
        self.length = length if length is not None else TRAIN_LENGTH if split == "train" else TEST_LENGTH
        if self.length < 1:
            raise UserError(f"length={self.length}: give a positive number")
        self.frames = round(seconds * frames)
        self.modality_shapes = {"video": (self.frames, size, size, 3), "audio": (round(sample_rate * seconds),)}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, self.length)
        stream = BouncingStream.TRAIN if self.split == "train" else BouncingStream.TEST
        rng = example_rng(stream, index)
        color, shape, walls = pick(rng, _COLORS), pick(rng, SHAPES), pick(rng, _WALLS)
        times = self._bounce_times(rng)
        return Record(
            id=stable_id("bouncing", self.split, str(index)),
            modalities={
                "video": self._video(rng, color, shape, times),
                "audio": self._sound(rng, shape, walls, times),
            },
            rates={"video": float(self.rate), "audio": float(self.sample_rate)},
            annotation={
                "bounce_times": [time for time in times.tolist() if 0 <= time < self.seconds],
                "color": color,
                "shape": shape,
                "walls": walls,
            },
        )

    def _bounce_times(self, rng: np.random.Generator) -> Float64[np.ndarray, " N"]:
        """Seconds of all bounces, from one a second or so before the first frame to one behind the last."""
        low, high = GAPS
        count = int((self.seconds + 2 * high) / low) + 2  # enough even where all gaps are short
        times = np.cumsum(low + (high - low) * rng.random(count)) - 2 * high + high * rng.random()
        behind = int(np.searchsorted(times, self.seconds, side="right"))
        return times[: behind + 1]

    def _video(
        self, rng: np.random.Generator, color: str, shape: str, times: Float64[np.ndarray, " N"]
    ) -> UInt8[np.ndarray, "frames size size 3"]:
        """Draws the frames: the ball touches one wall at even bounces, the other at odd ones."""
        scale = self.size / 32
        side = self.size + 2 * _EDGE
        plane = background(int(rng.random() * BACKGROUNDS), side)
        shade, sideways, first = int(rng.random() * TINTS), rng.random() < 0.5, int(rng.random() * 2)
        walls = np.array([_RADIUS, 32 - _RADIUS])[(np.arange(len(times)) + first) % 2]
        along = np.interp(np.arange(self.frames) / self.rate, times, walls) * scale
        lane = (_LANES[0] + (_LANES[1] - _LANES[0]) * rng.random()) * scale
        video = np.empty((self.frames, side, 3 * side), np.float32)
        video[:] = plane
        for frame, position in zip(video, along.tolist(), strict=True):
            x, y = (position, lane) if sideways else (lane, position)
            # Quarters of a pixel, for which `shapes` keeps its masks.
            corner = {"x": int(4 * x) / 4 + _EDGE, "y": int(4 * y) / 4 + _EDGE}
            draw_object(frame, {"color": color, "shape": shape, "radius": _RADIUS * scale, **corner}, shade)
        inside = video[:, _EDGE:-_EDGE, 3 * _EDGE : -3 * _EDGE]
        return inside.astype(np.uint8).reshape(self.frames, self.size, self.size, 3)

    def _sound(
        self, rng: np.random.Generator, shape: str, walls: str, times: Float64[np.ndarray, " N"]
    ) -> Float32[np.ndarray, " samples"]:
        """A click at each bounce, in [-1, 1], and some noise; those before the first frame ring on."""
        time: Float[np.ndarray, " samples"] = np.arange(round(self.sample_rate * self.seconds)) / self.sample_rate
        wave = (rng.random(len(time)) - 0.5) * (0.04 * rng.random())
        pitch = _PITCHES[shape] * (0.98 + 0.04 * rng.random())
        for bounce in times.tolist():
            loudness = 0.2 + 0.2 * rng.random()
            begin = max(0, int(np.ceil(bounce * self.sample_rate)))
            end = max(begin, int((bounce + _RING * WALLS[walls]) * self.sample_rate))
            since = time[begin:end] - bounce
            tone = sum(share * np.sin(2 * np.pi * pitch * multiple * since) for multiple, share in PARTIALS[walls])
            wave[begin:end] += loudness * np.exp(since / -WALLS[walls]) * tone
        return np.clip(wave, -1, 1).astype(np.float32)
