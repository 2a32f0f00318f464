"""Campaigns: grids of cases too large for every change, of which the tests run a tenth."""

import os
import random
from collections.abc import Sequence
from typing import Any


def tenth(cases: Sequence[Any], seed: int = 0) -> list[Any]:
    """A tenth of the cases, drawn by a seed and in their order; all of them under `make campaign`."""
    if os.environ.get("MMJAX_CAMPAIGN"):
        return list(cases)
    chosen = random.Random(seed).sample(range(len(cases)), -(-len(cases) // 10))
    return [cases[number] for number in sorted(chosen)]
