import numpy as np
import pytest

from mmjax.data.loading.equal_captions import EqualCaptionsNote, count_equal


def batch_of(texts, ids):
    tokens = np.array([[ord(letter), 0, 0] for letter in texts], np.int32)
    return {"text": tokens, "id": np.array([[number, 1] for number in ids], np.uint32)}


@pytest.mark.parametrize(
    ("texts", "ids", "count"),
    [("abcd", [0, 1, 2, 3], 0), ("aabc", [0, 1, 2, 3], 2), ("aabb", [0, 0, 1, 1], 0), ("aaab", [0, 0, 1, 1], 3)],
)
def test_equal_texts_of_other_ids_are_counted(texts, ids, count):
    batch = batch_of(texts, ids)
    assert count_equal(batch["text"], batch["id"]) == count


def test_many_are_noted_once_and_batches_are_finished(caplog):
    note = EqualCaptionsNote(lambda batch: batch | {"finished": True})
    unlike, alike = batch_of("abcdefghijklmnopqrst", range(20)), batch_of("aacdefghijklmnopqaaa", range(20))
    assert note(unlike)["finished"] and not caplog.records
    assert note(alike)["finished"]
    (record,) = caplog.records
    assert all(word in record.getMessage() for word in ("5 of a batch's 20", "data.positives=text", "data.train"))
    note(alike)
    assert len(caplog.records) == 1
    few = EqualCaptionsNote()
    for _ in range(3):
        assert "finished" not in few(batch_of("aaaa", range(4)))
    assert len(caplog.records) == 1


def test_the_first_batches_alone_are_looked_at(caplog):
    note = EqualCaptionsNote()
    for _ in range(20):
        note(batch_of("ab", [0, 1]))
    note(batch_of("aaaaa", range(5)))
    assert not caplog.records
