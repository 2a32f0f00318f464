"""Formats by their first bytes, and files that break off."""

import io

import numpy as np
import pytest
from PIL import Image

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.media_bytes import check_complete, media_format, says_length
from tests.helpers.media import CODECS, frames, make_sound, make_video

MADE = {
    **{kind: (make_video(kind), CODECS[kind][0].replace("mp4", "mov").replace("webm", "matroska")) for kind in CODECS},
    **{kind: (make_sound(kind), kind) for kind in ("wav", "flac", "ogg", "mp3", "aiff")},
    "big-endian wav": (make_sound("wav", subtype="PCM_16"), "wav"),
}


def pillow_gif():
    file = io.BytesIO()
    pictures = [Image.fromarray(picture) for picture in frames(4)]
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], loop=0, comment=b"made here")
    return file.getvalue()


MADE["gif of Pillow"] = (pillow_gif(), "gif")


@pytest.mark.parametrize("kind", MADE)
def test_formats(kind):
    data, expected = MADE[kind]
    assert media_format(data) == expected
    check_complete(data)
    check_complete(data + bytes(3))


@pytest.mark.parametrize("kind", [kind for kind in MADE if kind not in ("flac", "mp3")])  # their decoders notice
def test_files_that_break_off(kind):
    data, _ = MADE[kind]
    for length in np.linspace(80, len(data) - 12, 12).astype(int):
        with pytest.raises(BadExample, match=f"corrupt: the file breaks off after {length} of"):
            check_complete(data[:length])


@pytest.mark.parametrize(
    "data", [b"", b"R", b"RIFF", b"RIFF\0\0\0\0WAVE", b"OggS", b"GIF89a", b"\x1aE\xdf\xa3", b"ID3"]
)
def test_the_first_bytes_alone(data):
    """Whatever is refused, is refused as a bad example."""
    try:
        check_complete(data)
        says_length(data)
    except BadExample as error:
        assert error.reason in ("empty", "corrupt")


@pytest.mark.parametrize(
    "data", [b"\xff\xd8\xff\xe0" + bytes(20), b"\x89PNG\r\n\x1a\n", b"#EXTM3U", b"RIFF\x10\0\0\0WEBPVP8 ", b"text", b""]
)
def test_other_formats(data):
    assert media_format(data) == ""


def test_sizes_of_writers_to_a_pipe():
    """They do not know how much will follow."""
    wav = bytearray(make_sound("wav"))
    for size in (0, 0x7FFFF000, 0xFFFFFFFF):
        wav[4:8] = size.to_bytes(4, "little")
        check_complete(bytes(wav))
    webm = bytearray(make_video("vp9.webm"))
    position = webm.index(b"\x18\x53\x80\x67") + 4
    assert webm[position] == 1
    webm[position : position + 8] = b"\x01" + b"\xff" * 7
    check_complete(bytes(webm[:-50]))


def test_the_size_of_a_wav_may_be_wrong_by_its_head():
    """The byte that pads an odd length may be missing, or the length be that of the file."""
    data = make_sound("wav", np.zeros((5, 1), np.float32), subtype="PCM_U8")
    assert len(data) % 2 == 0
    check_complete(data[:-1])
    check_complete(data[:4] + len(data).to_bytes(4, "little") + data[8:])
    with pytest.raises(BadExample):
        check_complete(data[:-9])


def test_who_says_how_long_it_is():
    assert says_length(make_sound("mp3")) and says_length(make_sound("flac")) and says_length(make_sound("wav"))
    flac = bytearray(make_sound("flac"))
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)
    assert not says_length(bytes(flac))
    assert not says_length(make_sound("mp3").replace(b"Xing", b"none").replace(b"Info", b"none"))
