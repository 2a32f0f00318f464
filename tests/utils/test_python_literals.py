"""Literals that threads parse at the same time, while garbage of theirs is collected."""

import gc
import io
import threading
import time

import numpy as np
import pytest

from mmjax.data.formats.class_records import read_labels
from mmjax.data.formats.npy_file import read_npy
from mmjax.data.formats.written_list import parse_list
from mmjax.utils.python_literals import parse_literal


class Garbage:
    """A circle that lets other threads run when it is collected."""

    def __init__(self):
        self.circle = self

    def __del__(self):
        time.sleep(1e-4)


@pytest.fixture
def frequent_collections():
    thresholds = gc.get_threshold()
    gc.set_threshold(20, 2, 2)
    yield
    gc.set_threshold(*thresholds)


def written(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


ARRAY, MARKS = written(np.zeros((6, 2), np.float32)), written(np.array([0, 1, 1]))
READERS = {
    "literals": lambda: parse_literal("{'descr': '<f4', 'shape': (6, 2)}"),
    ".npy files": lambda: read_npy(ARRAY).tolist(),
    "lists of captions": lambda: parse_list("['a dog', 'a \"big\" dog', 'dogs']"),
    "marks of classes": lambda: read_labels(MARKS, 3, "here"),
}


@pytest.mark.usefixtures("frequent_collections")
def test_threads_do_not_disturb_one_another():
    """Of CPython 3.11; see the module's docstring."""
    expected = {name: read() for name, read in READERS.items()}
    failures = []

    def read_all():
        for _ in range(60):
            Garbage()
            for name, read in READERS.items():
                try:
                    assert read() == expected[name]
                except Exception as error:
                    failures.append((name, repr(error)))

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
