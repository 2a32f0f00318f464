"""What a user can ask of separation that is refused in one line, before anything is separated."""

import sys

import numpy as np
import pytest

from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.inputs import InputSpecs, ModalitySpec
from mmjax.data.video.transform import VideoSpec
from mmjax.errors import UserError
from mmjax.inference import separation

VIDEO = VideoSpec(image=ImageSpec(size=8, train_resize="squash"), frames=2)
SPECS = InputSpecs(None, (ModalitySpec.decoded("video", VIDEO),))


@pytest.mark.parametrize("region", [(0, 0, 1), "left", 0.5, (0, 0, "1", 1), (0.5, 0, 0.2, 1), (0, 0, np.nan, 1)])
def test_a_region_that_is_none_is_one_line(region):
    with pytest.raises(UserError, match=r"region=.*give \(left, top, right, bottom\)") as caught:
        separation.separate([], lambda *columns: None, SPECS, None, region=region)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("region", [[0, 0, 0.5, 1], np.array([0, 0, 0.5, 1], np.float32)])
def test_a_region_may_be_any_four_numbers(region):
    assert separation.separate([], lambda *columns: None, SPECS, None, region=region) == []


@pytest.mark.parametrize(
    ("videos", "present", "message"),
    [
        (["a/same.mp4", "b/same.mp4"], None, "two videos are called 'same'"),
        (["video1.mp4", b"file"], None, "two videos are called 'video1'"),
        (["one.mp4", "duet.mp4"], "duet-rest.wav", "duet-rest.wav is there already"),
        (["duet.mp4"], "", "cannot be made"),
    ],
)
def test_files_that_cannot_be_written_are_one_line(videos, present, message, tmp_path):
    folder = tmp_path / "out"
    if present is None:
        pass
    elif present:
        folder.mkdir()
        (folder / present).write_bytes(b"mine")
    else:
        folder.write_bytes(b"a file")
    with pytest.raises(UserError, match=message) as caught:
        separation.sound_files(videos, folder)
    assert "\n" not in str(caught.value)
    if present:
        assert (folder / present).read_bytes() == b"mine"


def test_files_are_checked_before_anything_is_separated(monkeypatch, tmp_path):
    def fails(*arguments, **options):
        raise AssertionError("something was separated")

    monkeypatch.setattr(separation, "separate", fails)
    monkeypatch.setattr(separation.separation_data, "mixture_spec", lambda config: None)
    model = object.__new__(separation.SeparatingModel)
    monkeypatch.setattr(separation.SeparatingModel, "_check", lambda self, *abilities: None)
    model.config = None
    with pytest.raises(UserError, match="two videos are called 'same'"):
        model.separate(["a/same.mp4", "b/same.mp4"], folder=tmp_path)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UserError, match="needs soundfile"):
        model.separate(["a/one.mp4"], folder=tmp_path)
