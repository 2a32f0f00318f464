"""Arrays of .npy files, and files that would run code, fill the memory or are none."""

import io

import numpy as np
import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.npy_file import read_npy


def written(array, **settings):
    file = io.BytesIO()
    np.save(file, array, **settings)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["float32", ">f8", "int16", "uint8", "bool", "float16"])
@pytest.mark.parametrize("shape", [(3, 4), (5,), (), (0, 2)])
def test_arrays_come_back(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    for order in "CF":
        read = read_npy(written(np.asarray(array, order=order)))
        np.testing.assert_array_equal(read, array)
        assert read.dtype == np.dtype(dtype).newbyteorder("=") and read.flags.writeable


def with_header(text):
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16)


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (b"", "empty", "zero bytes"),
        (b"PK\3\4", "not_media", "no .npy file"),
        (written(np.array([{}, None]), allow_pickle=True), "corrupt", "object, which is not read"),
        (written(np.array(["text"])), "corrupt", "<U4, which is not read"),
        (written(np.zeros(3, [("a", "f4")])), "corrupt", "which is not read"),
        (written(np.zeros(9))[:-1], "corrupt", "holds 71 bytes, not 72"),
        (written(np.zeros(9)) + b"x", "corrupt", "holds 73 bytes, not 72"),
        (with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,)}")[:40], "corrupt", "header"),
        (
            with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}"),
            "corrupt",
            "not 399999999996",
        ),
        (with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -1)}"), "corrupt", "-4, -1"),
        (with_header("__import__('os').system('true')"), "corrupt", "header"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "corrupt", "header"),
    ],
)
def test_files_that_cannot_be_used(data, reason, message):
    with pytest.raises(BadExample, match=message) as caught:
        read_npy(data)
    assert caught.value.reason == reason and "\n" not in str(caught.value)


def test_a_header_of_four_numbers_is_read():
    read = read_npy(with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,)}"))
    np.testing.assert_array_equal(read, np.zeros(4, np.float32))
