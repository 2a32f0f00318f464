"""Mutated video, audio and array files: each is decoded, or is one bad example.

No crash of the process, no case of more than 5 seconds or a gigabyte, nothing raised but `BadExample`. The files are
made here, with PyAV and soundfile; each case runs in a process that a hang or a crash does not outlive.

python -m campaigns.media_files --count=1000 --seed=0
"""

import collections
import functools
import io
import random
import sys
from collections.abc import Callable, Iterator

import numpy as np

from campaigns import cases, hostile_files
from mmjax.data.audio.transform import AudioSpec
from mmjax.data.bad_example import BadExample
from mmjax.data.formats.npy_file import read_npy
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.video.transform import VideoSpec
from tests.helpers import media

FINE = cases.FINE
_VIDEO = VideoSpec(image=ImageSpec(size=32, flip=True), frames=4, stride=2, clips=2, crops=3)
_AUDIO = AudioSpec(preset="ast", frames=100, time_masks=(1, 10))


def run(count: int, seed: int) -> collections.Counter[str]:
    """Decodes `count` files; counts those that were `read` or refused in `one line`, and others by what happened."""
    return cases.run(__file__, count, seed)


def kinds() -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    """Good files by name, each with what decodes it."""
    large = media.frames(12, (320, 240))
    videos = {kind: media.make_video(kind) for kind in media.CODECS}
    videos |= {
        "sound.mp4": media.make_video(sound="aac"),
        "sound.webm": media.make_video("vp9.webm", sound="libopus"),
        "sound.avi": media.make_video("mpeg4.avi", sound="mp3"),
        "large.mp4": media.make_video(pixels=large),
        "large.gif": media.make_video("a.gif", large),
    }
    sounds = {kind: media.make_sound(kind) for kind in ("wav", "flac", "mp3", "ogg", "aiff")}
    sounds |= {"float.wav": media.make_sound(subtype="FLOAT"), "opus.ogg": media.make_sound("ogg", rate=48000)}
    array = io.BytesIO()
    np.save(array, np.arange(600, dtype=np.float32).reshape(30, 20))
    return {
        **{name: (data, _read_video) for name, data in videos.items()},
        **{name: (data, _read_audio) for name, data in sounds.items()},
        "array.npy": (array.getvalue(), read_npy),
    }


def _read_video(data: bytes) -> None:
    """Clips of training, evaluation and testing, and the sound; what is bad for one is tried for the others, too."""
    errors = []
    for decode in (
        lambda: _VIDEO.prepare(data, np.random.default_rng(0)),
        lambda: _VIDEO.prepare(data, None, span=(0.2, 0.8)),
        lambda: _VIDEO.views(data),
        lambda: _read_audio(data),
    ):
        try:
            decode()
        except BadExample as error:
            if error.reason != "no_track":
                errors.append(error)
    if errors:
        raise errors[0]


def _read_audio(data: bytes) -> None:
    """Spectrograms of training, and of a time span in evaluation."""
    _AUDIO.prepare(data, np.random.default_rng(0))
    _AUDIO.prepare(data, None, span=(0.1, 0.6))


def _cases(first: int, count: int, seed: int) -> Iterator[cases.Case]:
    """Cases of each kind in turn; in every second round the length stays, so that more comes to the decoders."""
    files = list(kinds().items())
    for number in range(first, count):
        name, (data, read) = files[number % len(files)]
        rng = random.Random(f"{seed}/{number}")
        mutate = _change_bytes if number // len(files) % 2 else hostile_files.mutate
        yield number, name, functools.partial(read, mutate(data, rng))


def _change_bytes(content: bytes, rng: random.Random) -> bytes:
    """A file with a few bytes changed: anywhere, or in its first kilobyte."""
    data = bytearray(content)
    end = len(data) if rng.random() < 0.6 else min(len(data), 1024)
    for _ in range(rng.choice((1, 3, 10, 40))):
        data[rng.randrange(end)] = rng.choice((0, 0x7F, 0xFF, rng.randrange(256)))
    return bytes(data)


def main() -> int:
    return cases.main(__file__, __doc__, 1000, _cases, BadExample)


if __name__ == "__main__":
    sys.exit(main())
