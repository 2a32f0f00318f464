"""What loaded models are given beside images and texts: mistakes, each in one line."""

import numpy as np
import pytest

from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.inputs import ModalitySpec
from mmjax.data.loading.question_transforms import AnswerTransform
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.data.video.transform import VideoSpec
from mmjax.errors import UserError
from mmjax.inference import modality_inputs, prompts, windows

VIDEO = ModalitySpec.decoded("video", VideoSpec(image=ImageSpec(size=8), frames=2))
FRAMES = np.zeros((4, 8, 8, 3), np.uint8)


@pytest.mark.parametrize("rate", ["10", [10], {"video": 10}, float("nan"), float("inf"), -3, 0, True])
def test_a_rate_is_one_number_above_0(rate):
    for call in (
        lambda: modality_inputs.to_arrays([FRAMES], VIDEO, rate),
        lambda: windows.in_windows([FRAMES], VIDEO, 1.0, rate),
        lambda: modality_inputs.check_rates({"video": rate}, ("video", "audio")),
    ):
        with pytest.raises(UserError, match="give frames or samples a second, one number above 0"):
            call()


def test_rates_are_of_the_modalities_that_a_model_takes():
    assert modality_inputs.check_rates(None, ("video",)) == {}
    assert modality_inputs.check_rates({"video": 8}, ("video",)) == {"video": 8}
    with pytest.raises(UserError, match=r"rates=10.0: give a dictionary by modality, such as {'video': 10.0}"):
        modality_inputs.check_rates(10.0, ("video", "audio"))
    with pytest.raises(UserError, match="rates has 'sound'; the model takes 'video', 'audio'"):
        modality_inputs.check_rates({"sound": 10}, ("video", "audio"))


def test_a_dictionary_is_no_video():
    for values in ([{"video": FRAMES}], {"video": FRAMES}):
        with pytest.raises(UserError, match="video: a dictionary; give a"):
            modality_inputs.to_arrays(values, VIDEO, 8)


@pytest.mark.parametrize(
    ("entry", "seconds", "message"),
    [
        (None, 1, "neither a file nor an array"),
        (5, 1, "neither a file nor an array"),
        (FRAMES, 5e-324, "more than .* windows, which is the limit"),
        (FRAMES, "1", "windows='1': give seconds, more than 0"),
    ],
)
def test_windows(entry, seconds, message):
    with pytest.raises(UserError, match=message):
        windows.in_windows([entry], VIDEO, seconds, 8)


def test_numbers_of_numpy_are_seconds():
    arrays, _ = windows.in_windows([FRAMES], VIDEO, np.float32(0.25), 8)
    assert len(arrays) == 2


def test_a_question_that_would_be_cut_is_refused():
    tokenizer = make_tokenizer("bytes", 16)
    transform = AnswerTransform(ImageSpec(size=8), tokenizer)
    room = next(count for count in range(16, 0, -1) if transform.fits("x" * count))
    ids, mask = transform.prompt("x" * room)
    assert int(mask.sum()) >= room and list(ids[mask]).count(tokenizer.words("x")[0]) == room
    prompts.check_questions(["x" * room], transform)
    with pytest.raises(UserError, match=r"questions\[1\]='xx.*data.context_length=16 with an answer behind it"):
        prompts.check_questions(["x", "x" * (room + 1)], transform)


@pytest.mark.parametrize("seed", ["x", 1.5, -1, 2**32, True])
def test_a_seed_is_an_integer_of_32_bits(seed):
    with pytest.raises(UserError, match="give an integer from 0 to 4294967295"):
        prompts.check_seed(seed)
