"""Rotary positions: what a rotation is, in both layouts of pairs, along one axis and two."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn import rotary


def turned_by_complex_numbers(x, angles, pairs):
    """Each pair of numbers as a complex one, times e^(i angle)."""
    half = x.shape[-1] // 2
    first, second = (x[..., :half], x[..., half:]) if pairs == "half" else (x[..., 0::2], x[..., 1::2])
    y = (first + 1j * second) * np.exp(1j * angles)[:, :, None]
    if pairs == "half":
        return np.concatenate([y.real, y.imag], axis=-1)
    return np.stack([y.real, y.imag], axis=-1).reshape(x.shape)


@pytest.mark.parametrize("pairs", ["half", "interleaved"])
@pytest.mark.parametrize("axes", [1, 2])
def test_pairs_turn_by_position_times_frequency(pairs, axes):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 3, 8)).astype(np.float32)
    positions = rng.uniform(0, 9, (2, 5, axes))
    count = 4 // axes
    angles = np.concatenate(
        [positions[..., [axis]] * 100.0 ** (-np.arange(count) / count) for axis in range(axes)], axis=-1
    )
    rotation = rotary.rotation_of(jnp.asarray(positions if axes > 1 else positions[..., 0]), 8, 100.0)
    y = rotary.rotate(jnp.asarray(x), rotation, pairs)
    np.testing.assert_allclose(y, turned_by_complex_numbers(x.astype(np.float64), angles, pairs), atol=3e-6)


@pytest.mark.parametrize("pairs", ["half", "interleaved"])
def test_products_depend_on_differences_of_positions_alone(pairs):
    rng = np.random.default_rng(1)
    q, k = (jnp.asarray(rng.standard_normal((1, 6, 2, 8)), jnp.float32) for _ in range(2))

    def products(start):
        rotation = rotary.rotation_of(start + jnp.arange(6)[None], 8, 10_000.0)
        return jnp.einsum("bnhk,bmhk->bhnm", *(rotary.rotate(x, rotation, pairs) for x in (q, k)))

    np.testing.assert_allclose(products(0), products(40), atol=2e-5)


def test_one_token_is_taken_of_one_rotation_for_all_and_of_one_each():
    chosen = jnp.array([3, 0])
    positions = jnp.array([[0.0, 1, 2, 3], [5, 6, 7, 8]])
    for rows, expected in ((positions[:1], [3.0, 0.0]), (positions, [3.0, 5.0])):
        of_one = rotary.rotation_of(rows, 4, 100.0).take(chosen)
        np.testing.assert_array_equal(of_one.cos, rotary.rotation_of(jnp.array(expected)[:, None], 4, 100.0).cos)


def test_a_grid_counts_from_an_offset_stretched_to_its_reference_and_leaves_the_prefix_where_it_is():
    positions = rotary.grid_positions((2, 3), prefix=2, reference=6, offset=1.0, axes="xy")
    rows, columns = np.array([1, 2]) / 2 * 6, np.array([1, 2, 3]) / 3 * 6
    expected = [(0, 0), (0, 0)] + [(column, row) for row in rows for column in columns]
    np.testing.assert_allclose(positions, [expected])
    swapped = rotary.grid_positions((2, 3), prefix=2, reference=6, offset=1.0)
    np.testing.assert_array_equal(swapped, positions[..., ::-1])


def test_heads_that_do_not_divide_into_pairs_are_refused():
    with pytest.raises(ValueError, match="along 2 axes need heads of a multiple of 4, not 6"):
        rotary.rotation_of(jnp.zeros((1, 3, 2)), 6, 100.0)
