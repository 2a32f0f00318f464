"""Frames by index against PyAV's own decoding from start to end, times of frames, and damaged files."""

import io
import struct

import av
import numpy as np
import pytest
from PIL import Image

from mmjax.data.bad_example import BadExample
from mmjax.data.video import container, frame_reader
from mmjax.data.video.frame_reader import open_video
from tests.helpers.media import CODECS, frames, make_sound, make_video, pyav_frames, turned


def read(data, indices):
    with open_video(data) as video:
        return [frame.pixels for frame in video.read(indices)]


@pytest.fixture(scope="module", params=CODECS)
def video(request):
    data = make_video(request.param)
    return data, pyav_frames(data)


def test_frames_by_index_are_those_of_pyav(video):
    data, expected = video
    last = len(expected) - 1
    with open_video(data) as opened:
        assert len(opened) == len(expected) == 24
        for indices in (range(24), [0], [last], [7, 8, 9], [3, 3, 17], [5, 13, 21], [15], [16], [8], [8, 9, 16, 23]):
            pixels = [frame.pixels for frame in opened.read(indices)]
            np.testing.assert_array_equal(pixels, expected[list(indices)])


def test_only_what_is_needed_is_decoded(monkeypatch):
    """From the key frame before a frame on; files without marks of key frames are decoded from their start."""
    original, decoded = frame_reader.FrameReader._decode, []
    counting = lambda self, start, stop: (decoded.append(1) or frame for frame in original(self, start, stop))
    for kind, least, most in (("h264.mp4", 1, 8), ("mpeg4.mp4", 21, 21)):
        with open_video(make_video(kind)) as opened:
            monkeypatch.setattr(frame_reader.FrameReader, "_decode", counting)
            list(opened.read([20]))
            monkeypatch.undo()
        assert least <= len(decoded) <= most
        decoded.clear()


def test_times_are_those_of_the_file(video):
    data, expected = video
    with open_video(data) as opened:
        # AVI begins to count with the first frame that is decoded, which is not the first that is shown.
        np.testing.assert_allclose(opened.times - opened.times[0], np.arange(24) / 25, atol=1e-3)
        assert opened.end == pytest.approx(opened.times[-1] + 1 / 25, abs=1e-3)


@pytest.mark.parametrize("kind", ["h264.mp4", "vp9.webm", "mpeg4.mp4"])
def test_frame_rate_that_varies(kind):
    milliseconds = np.cumsum([0, 40, 40, 200, 13, 40, 500, 40, 40, 7, 100, 40])
    data = make_video(kind, frames(12), milliseconds=[int(x) for x in milliseconds])
    with open_video(data) as opened:
        np.testing.assert_allclose(opened.times, milliseconds / 1000, atol=2e-3)
        np.testing.assert_array_equal(
            [frame.pixels for frame in opened.read([2, 6, 11])], pyav_frames(data)[[2, 6, 11]]
        )


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_orientation(degrees):
    from mmjax.data.image.image_file import apply_orientation, from_array

    data = turned(make_video(), degrees)
    with open_video(data) as opened:
        (frame,) = opened.read([5])
    upright = np.asarray(apply_orientation(from_array(frame.pixels), frame.orientation))
    np.testing.assert_array_equal(upright, np.rot90(pyav_frames(data)[5], -degrees // 90))


def test_headers_are_not_believed():
    """What an MP4 and an AVI say of their duration and their number of frames."""
    mp4 = bytearray(make_video())
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        position = mp4.index(box) + offset
        mp4[position : position + 4] = struct.pack(">I", 7)
    avi = bytearray(make_video("mpeg4.avi"))
    position = avi.index(b"avih") + 8 + 16
    assert struct.unpack("<I", avi[position : position + 4]) == (24,)
    avi[position : position + 4] = struct.pack("<I", 1000)
    for data in (mp4, avi):
        with open_video(bytes(data)) as opened:
            assert len(opened) == len(pyav_frames(bytes(data))) == 24


def sound_alone():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 48000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def with_cover(mp4):
    """An MP4 without video, with a cover picture as music players write it."""
    picture = io.BytesIO()
    Image.fromarray(frames(1)[0]).save(picture, "JPEG")
    box = lambda kind, content: struct.pack(">I", 8 + len(content)) + kind + content
    data = box(b"data", struct.pack(">II", 13, 0) + picture.getvalue())
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(10))
    udta = box(b"udta", box(b"meta", bytes(4) + handler + box(b"ilst", box(b"covr", data))))
    position = mp4.index(b"moov") - 4
    (size,) = struct.unpack(">I", mp4[position : position + 4])
    assert position + size == len(mp4)
    return mp4[:position] + struct.pack(">I", size + len(udta)) + mp4[position + 4 :] + udta


def test_a_cover_picture_is_no_video():
    data = with_cover(sound_alone())
    with av.open(io.BytesIO(data)) as opened:
        assert [stream.type for stream in opened.streams] == ["audio", "video"]
    with pytest.raises(BadExample, match="no_track: the file has no video track"):
        read(data, [0])


MP4 = make_video()


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (b"", "empty", "zero bytes"),
        (b"<html>404 not found</html>", "not_media", "no video format"),
        (make_sound("flac"), "not_media", "no video format"),
        (b"#EXTM3U\n#EXTINF:9,\nfile:///etc/hosts\n", "not_media", "no video format"),
        (b"ffconcat version 1.0\nfile '/etc/hosts'\n", "not_media", "no video format"),
        (sound_alone(), "no_track", "no video track"),
        (MP4[: len(MP4) // 2], "corrupt", "breaks off"),
        (make_video("vp9.webm")[:-100], "corrupt", "breaks off"),
        (make_video("a.gif")[:5000], "corrupt", "breaks off"),
        (MP4[:40], "corrupt", "breaks off|Invalid|No such|index"),
        (MP4[: MP4.index(b"moov") - 4], "corrupt", "InvalidDataError"),
        (MP4.replace(b"avc1", b"svq3"), "not_media", "codec svq3"),
        (b"GIF89a" + struct.pack("<HH", 40_000, 50_000) + bytes(60), "too_large|corrupt", "pixels|Invalid|Error"),
    ],
)
def test_files_that_cannot_be_used(data, reason, message):
    with pytest.raises(BadExample, match=message) as caught:
        read(data, [0])
    assert caught.value.reason in reason.split("|") and "\n" not in str(caught.value)


def test_limits(monkeypatch):
    with pytest.raises(BadExample, match="64 x 48 pixels, the limit is 3000"), open_video(MP4, max_pixels=3000):
        pass
    monkeypatch.setattr(frame_reader, "MAX_FRAMES", 20)
    with pytest.raises(BadExample, match="more than 20 frames; cut the video"):
        read(MP4, [0])
    monkeypatch.undo()
    monkeypatch.setattr(frame_reader, "MAX_DECODED", 64 * 48 * 10)
    assert len(read(MP4, [20])) == 1
    with pytest.raises(BadExample, match="24 frames of 64 x 48 to decode"):
        read(MP4, range(24))
    monkeypatch.setattr(container, "MAX_BYTES", 1000)
    with pytest.raises(BadExample, match="the limit is 1000") as caught:
        read(MP4, [0])
    assert caught.value.reason == "too_large"


def test_damage_is_noticed_or_changes_nothing_else():
    """Bytes changed anywhere: frames come, or the example is bad; nothing else is raised."""
    rng = np.random.default_rng(0)
    outcomes = []
    for data in (MP4, make_video("vp9.webm"), make_video("mpeg4.avi"), make_video("a.gif")):
        for _ in range(25):
            damaged = bytearray(data)
            for _ in range(3):
                damaged[rng.integers(len(data))] = rng.integers(256)
            try:
                with open_video(bytes(damaged)) as opened:
                    list(opened.read([0, len(opened) - 1]))
                outcomes.append("read")
            except BadExample as error:
                outcomes.append(error.reason)
    assert set(outcomes) <= {"read", "corrupt", "not_media", "no_track", "too_large", "empty"}
    assert outcomes.count("corrupt") > 10 and outcomes.count("read") > 10
