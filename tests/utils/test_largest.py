"""The largest of numbers, and where its derivative goes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.utils.largest import largest


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_it_is_the_maximum_and_its_derivative_goes_to_one_number(axis):
    x = jax.random.normal(jax.random.key(0), (3, 4, 5))
    np.testing.assert_array_equal(largest(x, axis), x.max(axis))
    derivative = jax.jit(jax.grad(lambda x: largest(x, axis).sum()))(x)
    np.testing.assert_array_equal(derivative, (x == x.max(axis, keepdims=True)).astype(np.float32))


def test_of_equal_numbers_the_first_has_the_derivative():
    np.testing.assert_array_equal(jax.grad(lambda x: largest(x, 0))(jnp.array([1.0, 2.0, 2.0])), [0.0, 1.0, 0.0])
