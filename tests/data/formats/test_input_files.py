"""Files of an example by their endings, their first bytes, and arrays by their shapes."""

import io

import numpy as np
import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.input_files import (
    inputs_of_bytes,
    inputs_of_file,
    inputs_of_members,
    kind_of,
    record_fields,
    suffix_of,
)
from tests.helpers.media import make_sound, make_video
from tests.helpers.source_checks import png

PNG, MP4, GIF, WAV = png(0), make_video(), make_video("a.gif"), make_sound("wav")


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_endings():
    assert suffix_of("a/b.c/clip.MP4") == ".mp4" and suffix_of("a.b/clip") == "" and suffix_of(".mp4") == ".mp4"
    kinds = [kind_of(suffix) for suffix in (".jpg", ".gif", ".mp4", ".wav", ".npy", ".txt", "")]
    assert kinds == ["image", "image", "video", "audio", "array", "", ""]


def test_files_by_their_endings():
    assert inputs_of_file(PNG, ".png") == {"image": PNG} == inputs_of_file(PNG, "") == inputs_of_file(PNG, ".jfif")
    assert inputs_of_file(GIF, ".gif") == {"image": GIF, "video": GIF}
    assert inputs_of_file(MP4, ".mp4") == {"video": MP4, "audio": MP4}
    assert inputs_of_file(WAV, ".wav") == {"audio": WAV}


def test_files_by_their_bytes():
    for content, suffix in ((PNG, ".png"), (GIF, ".gif"), (MP4, ".mp4"), (make_sound("mp3"), ".mp3"), (b"text", "")):
        assert inputs_of_bytes(content) == inputs_of_file(content, suffix)
    assert inputs_of_bytes(npy(np.zeros((3, 2)))).keys() == {"series"}


@pytest.mark.parametrize(
    ("shape", "dtype", "name"),
    [
        ((4, 5, 3), "uint8", "image"),
        ((2, 4, 5, 3), "uint8", "video"),
        ((9, 4), "float64", "series"),
        ((9,), "int32", "table"),
        ((9, 3), "uint8", "series"),
    ],
)
def test_arrays_by_their_shapes(shape, dtype, name):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    ((key, value),) = inputs_of_file(npy(array), ".npy").items()
    assert key == name and value.dtype == (np.uint8 if name in ("image", "video") else np.float32)
    np.testing.assert_array_equal(value, array)


@pytest.mark.parametrize("array", [np.zeros((2, 3, 4)), np.zeros(()), np.zeros((3, 3), complex), np.array([None])])
def test_arrays_that_are_none_of_these(array):
    with pytest.raises(BadExample, match="corrupt: an .npy file of"):
        inputs_of_file(npy(array), ".npy")


def test_members():
    array = npy(np.zeros((3, 2)))
    members = {"mp4": MP4, "flac": WAV, "wav": MP4, "jpg": PNG, "npy": array, "txt": b"a"}
    endings = ("jpg", "mp4", "wav", "flac", "npy")
    assert inputs_of_members(members, endings, arrays=False) == {"image": PNG, "video": MP4, "audio": MP4}
    assert inputs_of_members(members, ("flac", "mp4"), arrays=False) == {"video": MP4, "audio": WAV}
    assert inputs_of_members(members, ("mp4", "flac"), arrays=False) == {"video": MP4, "audio": WAV}
    assert inputs_of_members(members, endings, arrays=True).keys() == {"image", "video", "audio", "series"}
    assert inputs_of_members({"npy": array}, endings, arrays=False).keys() == {"series"}
    assert inputs_of_members({"txt": b"a"}, endings, arrays=False) == {}


def test_fields_of_records():
    assert record_fields({"image": PNG}) == {"image": PNG}
    span = (1.0, 2.5)
    fields = record_fields({"image": GIF, "video": GIF, "table": np.zeros(2)}, span)
    assert fields["image"] == GIF and fields["modalities"].keys() == {"video", "table"}
    assert fields["spans"] == {"video": span}
