"""Lone towers of transformers of random configurations: read, computed, written back, loaded strictly there."""

import pytest

from campaigns import hf_families
from tests.helpers import lone_towers

pytestmark = pytest.mark.full


@pytest.mark.parametrize("name", lone_towers.CASES)
def test_a_random_tower_is_read_and_written_back(name, tmp_path):
    hf_families.check(lone_towers.CASES[name], 0, tmp_path)
