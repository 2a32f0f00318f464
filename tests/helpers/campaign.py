"""Campaigns: grids of cases too large for every change, of which the tests run a part."""

import os
import random
from collections.abc import Sequence
from typing import Any


def tenth(cases: Sequence[Any], seed: int = 0) -> list[Any]:
    """A tenth of the cases, drawn by a seed and in their order; all of them under `make campaign`."""
    if _is_running():
        return list(cases)
    chosen = random.Random(seed).sample(range(len(cases)), -(-len(cases) // 10))
    return [cases[number] for number in sorted(chosen)]


def some(cases: Sequence[Any], chosen: Sequence[Any]) -> list[Any]:
    """The chosen ones of the cases; all of them under `make campaign`."""
    missing = [case for case in chosen if case not in cases]
    assert not missing, f"no such cases: {missing}"
    return [case for case in cases if _is_running() or case in chosen]


def _is_running() -> bool:
    return bool(os.environ.get("MMJAX_CAMPAIGN"))
