"""What an example raises: counted and logged, or the end of a run."""

from pathlib import Path

import pytest

from mmjax.data.bad_example import REASONS
from mmjax.errors import UserError
from tests.data.loading.test_train_examples import FakeSource, make


def test_a_fault_of_code_is_not_mistaken_for_bad_data(tmp_path):
    examples = make((FakeSource(2, faults={i: KeyError("caption") for i in range(2)}), 1))
    examples.traceback_folder = str(tmp_path)
    with pytest.raises(UserError, match=r"test_train_examples.py, line \d+: KeyError: 'caption'; ") as caught:
        examples[0]
    assert str(caught.value).endswith(f"{tmp_path}/traceback.txt") and "\n" not in str(caught.value)
    assert "raise fault" in (tmp_path / "traceback.txt").read_text()


def test_a_fault_of_code_beside_bad_data_is_told_too(tmp_path):
    faults = dict.fromkeys(range(9), TypeError("no")) | {9: FileNotFoundError("gone.jpg")}
    examples = make((FakeSource(10, faults=faults), 1))
    examples.traceback_folder = str(tmp_path / "is not there")
    with pytest.raises(UserError, match="TypeError: no; ") as caught:
        examples[0]
    temporary = Path(str(caught.value).rpartition(" ")[2])
    assert "raise fault" in temporary.read_text()
    temporary.unlink()


class Panic(BaseException):
    """What a library in Rust raises."""


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (KeyError("caption"), "error"),
        (RecursionError("too deep"), "error"),
        (StopIteration(), "error"),
        (Panic("index out of range"), "error"),
        ("ab\ud83d".encode, "encoding"),
        (ImportError("No module named 'nowhere'"), "error"),
        (ConnectionResetError("by peer"), "read"),
    ],
)
def test_whatever_one_example_raises_is_counted_and_logged_once(fault, reason, caplog):
    class Source(FakeSource):
        def __getitem__(self, index):
            if index in (2, 3):
                raise fault if isinstance(fault, BaseException) else fault() and None
            return super().__getitem__(index)

    examples = make((Source(100), 1))
    reasons = [REASONS[examples[position]["substitution_reason"]] for position in range(100)]
    assert reasons.count(reason) == 2 and reasons.count("ok") == 98
    (message,) = caplog.messages
    assert f"bad_{reason}" in message and (reason == "read" or "Error: " in message or type(fault).__name__ in message)


@pytest.mark.parametrize(
    "fault", [MemoryError(), KeyboardInterrupt(), SystemExit(3), OSError(28, "no space"), UserError("x")]
)
def test_what_is_no_failure_of_one_example_ends_the_run(fault):
    class Source(FakeSource):
        def __getitem__(self, index):
            raise fault

    with pytest.raises(type(fault)) as caught:
        make((Source(100), 1))[0]
    assert caught.value is fault
