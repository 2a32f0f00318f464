import os
import pickle

import numpy as np
import pytest

from mmjax.io import file_pool
from mmjax.io.stored_arrays import store_arrays

ARRAYS = [np.arange(1000, dtype=np.int64), np.zeros(0, np.uint8), np.arange(7, dtype=np.uint8) ** 2]


def test_arrays_are_read_from_their_file(tmp_path):
    stored = pickle.loads(pickle.dumps(store_arrays(ARRAYS, str(tmp_path / "new"))))
    for array, other in zip(ARRAYS, stored, strict=True):
        assert len(other) == len(array) and other[:].dtype == array.dtype
        for part in (slice(None), slice(3, 5), slice(-2, None), slice(5, 3), slice(900, 2000)):
            assert np.array_equal(other[part], array[part])
    assert stored[0][np.int64(999)] == 999 and stored[2][-1] == 36
    with pytest.raises(IndexError):
        stored[1][0]
    assert len(pickle.dumps(stored)) < 1000


def test_equal_arrays_share_a_file_and_a_file_that_was_cut_is_written_again(tmp_path):
    first, *_ = store_arrays(ARRAYS, str(tmp_path))
    (file,) = os.listdir(tmp_path)
    store_arrays(ARRAYS, str(tmp_path))
    assert os.listdir(tmp_path) == [file]
    os.truncate(tmp_path / file, 100)
    file_pool.evict(str(tmp_path / file))
    with pytest.raises(OSError, match="cut off"):
        first[500:600]
    store_arrays(ARRAYS, str(tmp_path))
    file_pool.evict(str(tmp_path / file))
    assert first[999] == 999 and os.listdir(tmp_path) == [file]


def test_a_file_with_other_bytes_is_written_again(tmp_path):
    store_arrays(ARRAYS, str(tmp_path))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    store_arrays(ARRAYS, str(tmp_path))
    assert path.read_bytes() == content


def test_files_that_are_not_used_are_removed(tmp_path):
    store_arrays([np.arange(3)], str(tmp_path))
    (old,) = tmp_path.iterdir()
    other = tmp_path / "other"
    other.touch()
    for path in (old, other):
        os.utime(path, (1e9, 1e9))
    store_arrays([np.arange(3)], str(tmp_path))  # used
    store_arrays([np.arange(4)], str(tmp_path))
    assert old.exists()
    os.utime(old, (1e9, 1e9))
    store_arrays([np.arange(5)], str(tmp_path))
    assert not old.exists() and len(list(tmp_path.iterdir())) == 3


def test_where_nothing_can_be_written_nothing_is_left(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        store_arrays(ARRAYS, str(tmp_path / "file"))
