"""The import hook of conftest.py refuses wrong arguments and results, of arrays and of anything else."""

import beartype.roar
import jaxtyping
import numpy as np
import pytest
from jaxtyping import Float

from mmjax.data.loading import packing
from mmjax.objectives import tiled_logits
from tests.helpers import typecheck

checked = typecheck.jaxtyped(typechecker=typecheck.check)


def test_functions_of_arrays():
    @checked
    def product(x: Float[np.ndarray, "n k"], y: Float[np.ndarray, "k m"]) -> Float[np.ndarray, "n m"]:
        return x @ y if len(x) > 1 else x

    product(np.ones((2, 3)), np.ones((3, 4)))
    for x, y in (((2, 3), (2, 4)), ((1, 3), (3, 4))):  # an argument, the result
        with pytest.raises(jaxtyping.TypeCheckError):
            product(np.ones(x), np.ones(y))
    with pytest.raises(jaxtyping.TypeCheckError):
        packing.rows_for(np.zeros((2, 2), int), 3, 4)


def test_functions_of_anything_else():
    @checked
    def half(x: int) -> str:
        return "even" if x % 2 == 0 else x

    assert half(4) == "even"
    for x in ("4", 3):
        with pytest.raises(beartype.roar.BeartypeCallHintViolation):
            half(x)
    with pytest.raises(beartype.roar.BeartypeCallHintViolation):
        tiled_logits.tile_size("1024", 8)
