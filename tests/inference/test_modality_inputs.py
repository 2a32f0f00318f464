"""Files and arrays of other modalities, as loaded models take them."""

import dataclasses

import numpy as np
import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.loading.inputs import ModalitySpec
from mmjax.errors import UserError
from mmjax.inference import modality_inputs

SERIES = ModalitySpec("series", (2, 1), nan_allowed=True)


@dataclasses.dataclass(frozen=True)
class Bytes:
    shape: tuple = (1,)
    dtype: str = "float32"

    def prepare(self, entry, rng, *, rate=None, span=None):
        if isinstance(entry, bytes) and not entry:
            raise BadExample("empty", "no bytes")
        return np.float32([len(entry) * (rate or 1)])


AUDIO = ModalitySpec.decoded("audio", Bytes())


def test_files_bytes_and_arrays_are_taken_alike(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"123")
    values = [tmp_path / "a.wav", str(tmp_path / "a.wav"), b"12", np.zeros(5)]
    assert modality_inputs.to_arrays(values, AUDIO)[:, 0].tolist() == [3, 3, 2, 5]
    assert modality_inputs.to_arrays([np.zeros(5)], AUDIO, rate=10).tolist() == [[50]]
    array = np.arange(6.0).reshape(3, 2, 1)
    np.testing.assert_array_equal(modality_inputs.to_arrays(array, SERIES), array)
    assert modality_inputs.to_arrays([], SERIES).shape == (0, 2, 1)


@pytest.mark.parametrize(
    ("values", "spec", "message"),
    [
        ("a.wav", AUDIO, "audio: one file alone; give a list of them, such as ['a.wav']"),
        (3, AUDIO, "audio: int is no list"),
        (["nowhere.wav"], AUDIO, "audio: 'nowhere.wav' cannot be read"),
        ([b"1", b""], AUDIO, "audio 1: empty: no bytes"),
        ([np.zeros((3, 1))], SERIES, "series 0: other: modality 'series' has shape (3, 1), not (2, 1)"),
    ],
)
def test_what_cannot_be_used_is_one_line(values, spec, message):
    with pytest.raises(UserError) as caught:
        modality_inputs.to_arrays(values, spec)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
