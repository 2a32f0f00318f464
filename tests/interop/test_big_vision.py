"""big_vision's files are written as they are read: against the golden file, which is not of our making."""

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.interop import big_vision, export
from mmjax.interop.tensor_files import open_tensors
from tests.interop.test_foreign_checkpoint import GOLDEN, opened

PREPARED = dict(size=32, resize="squash", interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)


def written(checkpoint, folder, **changes):
    settings = checkpoint.settings | changes
    params = checkpoint.read(lambda _, array: array)
    (file,) = export.write(folder, "big_vision", settings=settings, preprocessing=PREPARED, params=params)
    return file


def opened_file(name):
    (file,) = (file for file in (GOLDEN / name).glob("*.npz") if file.stem != "expected")
    return open_tensors(file)


@pytest.mark.parametrize("name", ["big_vision", "big_vision-scanned"])
def test_a_file_written_again_holds_the_same_arrays(name, tmp_path):
    file = written(opened(name), tmp_path / "out")
    theirs = big_vision.normalize_names(opened_file(name))
    ours = np.load(file)
    assert set(ours.files) == {f"params/{key}" for key in theirs}
    for key in theirs:
        result, wanted = ours[f"params/{key}"], theirs.read(key)
        assert result.shape == wanted.shape and np.array_equal(result, wanted), key


def test_a_model_that_it_does_not_have_is_refused(tmp_path):
    checkpoint = opened("big_vision")
    image = checkpoint.settings["image"] | {"activation": "gelu"}
    with pytest.raises(UserError, match=r"model.image.activation='gelu': big_vision's two towers have 'gelu_tanh'"):
        written(checkpoint, tmp_path / "out", image=image)
    with pytest.raises(UserError, match="big_vision"):
        written(opened("hf-clip"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
