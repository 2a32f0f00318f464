import gc
import os
import pickle

from mmjax.utils.once import Once


def test_the_first_of_all_copies_is_the_first():
    once = Once()
    copies = [pickle.loads(pickle.dumps(once)) for _ in range(3)]
    assert [copy.is_first("a") for copy in (*copies, once)] == [True, False, False, False]
    assert once.is_first("b") and not copies[2].is_first("b")


def test_nothing_is_left():
    once = Once()
    once.is_first("/\ud83d")
    folder = once._folder
    assert os.listdir(folder)
    del once
    gc.collect()
    assert not os.path.exists(folder)


def test_where_nothing_can_be_written_each_copy_is_the_first(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "file"))
    once = Once()
    assert once.is_first("a") and not once.is_first("a")
