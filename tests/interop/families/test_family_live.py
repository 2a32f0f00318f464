"""Families of transformers' models of random configurations: read, computed, written back, loaded strictly there."""

import pytest

from campaigns import hf_families

pytestmark = pytest.mark.full


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", hf_families.CASES)
def test_a_random_model_is_read_and_written_back(name, seed, tmp_path):
    hf_families.check(hf_families.CASES[name], seed, tmp_path)
