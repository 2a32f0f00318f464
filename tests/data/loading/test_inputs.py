"""Arrays of a record's modalities: in training, in evaluation, and what stands for those that are missing."""

import dataclasses

import numpy as np
import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.example_transforms import InputTransform
from mmjax.data.loading.inputs import Decoder, InputSpecs, ModalitySpec

SPEC = ImageSpec(size=8)
IMAGE = np.zeros((8, 8, 3), np.uint8)


@dataclasses.dataclass(frozen=True)
class Halves:
    """Decodes bytes: a number each, halved; in training plus one."""

    shape: tuple = (2,)
    dtype: str = "float32"

    def prepare(self, entry, rng, *, rate=None, span=None):
        values = np.frombuffer(entry, np.uint8)[:2] / 2 + (rng is not None)
        return (values + (rate or 0) + (span or (0,))[0]).astype(np.float32)


SPECS = InputSpecs(SPEC, (ModalitySpec.decoded("audio", Halves()), ModalitySpec("series", (3,), nan_allowed=True)))


def record(**changes):
    modalities = {"audio": b"\x02\x04", "series": [1, np.nan, 2]} | changes
    return {"id": 5, "image": IMAGE, "modalities": modalities}


def rng():
    return np.random.default_rng(0)


def test_every_modality_is_an_array_under_its_name():
    assert isinstance(Halves(), Decoder) and SPECS.names == ("image", "audio", "series")
    arrays = InputTransform(SPECS)(record(), rng())
    assert list(arrays) == ["image", "audio", "series", "id"]
    assert arrays["audio"].tolist() == [2, 3] and SPECS.evaluate(record())["audio"].tolist() == [1, 2]
    np.testing.assert_array_equal(arrays["series"], np.float32([1, np.nan, 2]))
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items() if name != "id"}
    assert SPECS.batch_shapes() == shapes == {name: (x.shape, x.dtype) for name, x in SPECS.blank().items()}


def test_rates_and_spans_reach_the_decoder():
    example = record() | {"rates": {"audio": 100}, "spans": {"audio": (20, 30)}}
    assert SPECS.evaluate(example)["audio"].tolist() == [121, 122]


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"audio": None}, "no_input", "no audio"),
        ({"series": [1, 2]}, "other", r"'series' has shape \(2,\), not \(3,\)"),
        ({"series": [1, 2, np.inf]}, "other", "'series' holds a value that is not finite"),
        ({"series": b"abc"}, "other", "'series' is an encoded file"),
    ],
)
def test_what_cannot_be_used_says_why(changes, reason, message):
    with pytest.raises(BadExample, match=message) as caught:
        InputTransform(SPECS)(record(**changes), rng())
    assert caught.value.reason == reason


def test_what_is_missing_is_left_out_where_it_may_be():
    example = record(audio=None)
    del example["image"]
    assert list(SPECS.present(example, rng())) == list(SPECS.evaluate(example)) == ["series"]
    assert InputSpecs().evaluate(record()) == {} and InputSpecs.of(SPEC) == InputSpecs(SPEC)


def test_frames_of_images_have_their_boxes_and_blanks():
    specs = InputSpecs(dataclasses.replace(SPEC, frame=16))
    arrays = specs.train(record(), rng())
    assert arrays.keys() == specs.blank_training().keys() == {"image", "image_box"}
    assert specs.batch_shapes()["image"][0] == (16, 16, 3) and specs.blank()["image"].shape == (8, 8, 3)
