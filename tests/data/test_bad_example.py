import os

import pytest

from campaigns import hostile_files, media_files, mutate_inputs
from mmjax.data.bad_example import REASONS, BadExample, UnforeseenError, common_fault, one_example


def failure(raise_it):
    with pytest.raises(BadExample) as caught, one_example():
        raise_it()
    return caught.value


def test_reasons_are_appended_since_positions_in_the_list_are_exchanged():
    assert REASONS[:11] == (
        *(
            "ok",
            "empty",
            "not_image",
            "corrupt",
            "too_large",
            "no_image",
            "no_caption",
            "missing",
            "cut",
            "read",
            "other",
        ),
    )


def test_a_fault_of_code_comes_from_one_line():
    def from_here():
        return {}["key"]

    def from_there():
        return 1 / 0

    faults = [failure(from_here) for _ in range(3)]
    assert all(type(fault) is UnforeseenError for fault in faults)
    assert common_fault(faults) is faults[0].__cause__
    assert common_fault([*faults, failure(from_there)]) is faults[0].__cause__
    bad = [BadExample("corrupt")] * 4
    assert common_fault([*faults, *bad]) is None
    assert common_fault([failure(lambda: os.stat("/is/not/there"))] * 3) is None
    assert common_fault([]) is None


def test_an_error_whose_message_cannot_be_made_is_described():
    class Odd(Exception):
        def __str__(self):
            raise ValueError

    def raise_it():
        raise Odd

    assert "Odd: its message cannot be made (ValueError)" in str(failure(raise_it))


def test_messages_are_one_printable_line():
    error = BadExample("corrupt", "caf\udce9\n\x1b[31m")
    assert str(error) == r"corrupt: caf\udce9 \x1b[31m"


@pytest.mark.full
def test_files_of_every_kind_are_read(tmp_path):
    for number, kind in enumerate(hostile_files.kinds().values()):
        (tmp_path / str(number)).mkdir()
        kind.make(tmp_path / str(number))
        kind.read(tmp_path / str(number))


@pytest.mark.full
def test_mutated_files_are_read_or_refused_in_one_line():
    result = mutate_inputs.run(200, seed=7)
    assert result.keys() == set(mutate_inputs.FINE) and result.total() == 200


@pytest.mark.full
def test_video_and_audio_files_of_every_kind_are_decoded():
    for data, read in media_files.kinds().values():
        read(data)


@pytest.mark.full
def test_mutated_video_and_audio_files_are_decoded_or_bad_examples():
    result = media_files.run(100, seed=7)
    assert result.keys() == set(media_files.FINE) and result.total() == 100
