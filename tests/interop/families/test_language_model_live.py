"""LLaVA, PaliGemma and BLIP-2 with OPT of transformers: read, compared, written back, loaded there."""

import pytest

from campaigns import hf_families
from campaigns.hf_language_models import CASES

pytestmark = pytest.mark.full


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", CASES)
def test_random_models(name, seed, tmp_path):
    hf_families.check(CASES[name], seed, tmp_path)
