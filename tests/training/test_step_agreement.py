"""Sums over processes, and counts of examples, as far as one process goes; `test_loop_resume.py` has several."""

import numpy as np
import pytest

from mmjax.data.bad_example import REASONS
from mmjax.errors import GlobalUserError
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from mmjax.training import step_agreement
from mmjax.training.signals import StopSignal
from mmjax.training.step_agreement import BadExamples, StepAgreement

BATCH = 8


def test_one_process_sums_its_numbers():
    votes = step_agreement.AsyncAllReduce(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    np.testing.assert_array_equal(votes.sum([1, 0, 5]), [1, 0, 5])


@pytest.fixture
def counts():
    return BadExamples({"missing": 2}, BATCH, "pairs:t.tsv", 0.5, history=3)


@pytest.fixture
def agreement(counts):
    return StepAgreement(make_mesh(MeshConfig(data=8)), BATCH, StopSignal(), iter(()), counts)


def batch(reasons=(), full=0):
    numbers = [REASONS.index(reason) for reason in reasons]
    return {
        "text": np.zeros((BATCH, 4), np.int32),
        "substitution_reason": np.array(numbers + [0] * (BATCH - len(numbers)), np.int8),
        "text_is_full": np.arange(BATCH) < full,
    }


def test_counts_of_steps(counts, agreement, capsys):
    for step, (reasons, full) in enumerate([([], 0), (["missing", "corrupt"], 2), ([], 1), ([], 0)], 1):
        rows = batch(reasons, full)
        agreement.post(rows, step)
        assert rows.keys() == {"text"}
    assert counts.metrics(2) == {"bad_corrupt": 1, "bad_missing": 3, "full_texts": 2 / BATCH}
    assert counts.metrics(3) == {"bad_corrupt": 1, "bad_missing": 3, "full_texts": 1 / BATCH}
    assert counts.metrics(4) == {"bad_corrupt": 1, "bad_missing": 3}
    notes = [line for line in capsys.readouterr().out.splitlines() if "full_texts" in line]
    assert len(notes) == 1 and notes[0].startswith("note: 2 of the 8 texts of step 2 ")


def test_too_many_bad_examples(agreement):
    with pytest.raises(GlobalUserError, match="data.max_bad_fraction=0.5"):
        for step in range(1, 1000):
            agreement.post(batch(["empty"] * 6), step)
