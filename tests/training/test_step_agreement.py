"""Sums over processes, as far as one process goes; `tests/training/test_loop_resume.py` has several."""

import numpy as np

from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from mmjax.training import step_agreement


def test_one_process_sums_its_numbers():
    votes = step_agreement.AsyncAllReduce(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    np.testing.assert_array_equal(votes.sum([1, 0, 5]), [1, 0, 5])
