"""Bicubic resampling of positions against PyTorch; tables of sines and cosines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn.positions import bicubic_matrix, interleaved_sinusoids, resample_positions, side_by_side_sinusoids

# torch.nn.functional.interpolate(mode="bicubic", align_corners=False) of unit vectors, PyTorch 2.13 in float64.
GOLDEN = {
    (4, 6, True): [
        [1.0657894736842106, -0.0657894736842106, 0.0, 0.0],
        [0.5294117647058824, 0.5294117647058824, -0.058823529411764705, 0.0],
        [-0.05787037037037031, 0.9375, 0.13194444444444423, -0.011574074074074011],
    ],
    (6, 4, True): [
        [0.6553398058252425, 0.3932038834951455, -0.0404530744336569, -0.008090614886731174, 0.0, 0.0],
        [-0.03828483920367529, 0.37212863705972427, 0.6202143950995405, 0.0872894333843799, -0.041347626339969364, 0.0],
    ],
    (4, 6, False): [
        [1.0868055555555556, -0.08680555555555536, 0.0, 0.0],
        [0.5, 0.59375, -0.09375, 0.0],
        [-0.0868055555555558, 0.9432870370370371, 0.16087962962962954, -0.017361111111110716],
    ],
    (6, 4, False): [
        [0.7734375, 0.26171875, -0.03515625, 0.0, 0.0, 0.0],
        [-0.03515625, 0.26171875, 0.87890625, -0.10546875, 0.0, 0.0],
    ],
}


@pytest.mark.parametrize("old, new, antialias", GOLDEN)
def test_bicubic_golden(old, new, antialias):
    matrix = bicubic_matrix(old, new, antialias=antialias)
    top = np.array(GOLDEN[old, new, antialias])
    np.testing.assert_allclose(matrix, np.concatenate([top, top[::-1, ::-1]]), atol=1e-12)


@pytest.mark.full
@pytest.mark.parametrize("antialias", [True, False])
def test_bicubic_against_torch(antialias):
    torch = pytest.importorskip("torch")
    for old in (1, 2, 3, 7, 14, 16, 24):
        line = torch.eye(old, dtype=torch.float64).reshape(old, 1, 1, old).expand(old, 1, 4, old).contiguous()
        for new in (1, 2, 5, 7, 8, 14, 24, 37):
            resampled = torch.nn.functional.interpolate(
                line, size=(4, new), mode="bicubic", align_corners=False, antialias=antialias
            )
            expected = resampled[:, 0, 0].T.numpy()
            np.testing.assert_allclose(bicubic_matrix(old, new, antialias=antialias), expected, atol=1e-12)


def test_bicubic_of_the_same_size_is_the_identity():
    for antialias in (True, False):
        np.testing.assert_allclose(bicubic_matrix(5, 5, antialias=antialias), np.eye(5), atol=1e-15)


def test_resample_keeps_the_prefix_and_knows_rows_from_columns():
    table = np.random.default_rng(0).standard_normal((1 + 4 * 6, 3)).astype(np.float32)
    out = jax.jit(lambda x: resample_positions(x, (4, 6), (6, 4), prefix=1))(table)
    assert out.shape == (25, 3)
    np.testing.assert_array_equal(out[0], table[0])
    rows, columns = bicubic_matrix(4, 6, antialias=True), bicubic_matrix(6, 4, antialias=True)
    expected = np.einsum("Rr,Cc,rcD->RCD", rows, columns, table[1:].reshape(4, 6, 3))
    np.testing.assert_allclose(out[1:], expected.reshape(24, 3), atol=1e-5)
    # Values that change along rows only must change along rows only, and the same way.
    ramp = np.repeat(np.arange(4, dtype=np.float32), 6)[:, None]
    out = resample_positions(jnp.asarray(ramp), (4, 6), (6, 4))
    expected = bicubic_matrix(4, 6, antialias=True) @ np.arange(4)
    np.testing.assert_allclose(np.asarray(out).reshape(6, 4), np.tile(expected[:, None], 4), atol=1e-6)


def test_resample_to_the_same_grid_is_the_identity():
    table = jnp.ones((10, 3))
    assert resample_positions(table, (3, 3), (3, 3), prefix=1) is table


@pytest.mark.full
def test_resample_against_torch():
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).standard_normal((1 + 49, 8)).astype(np.float32)
    grid = torch.from_numpy(table[1:]).reshape(1, 7, 7, 8).permute(0, 3, 1, 2)
    for new in ((12, 12), (5, 9)):
        expected = torch.nn.functional.interpolate(grid, size=new, mode="bicubic", antialias=True, align_corners=False)
        out = resample_positions(jnp.asarray(table), (7, 7), new, prefix=1)
        np.testing.assert_allclose(out[1:], expected[0].permute(1, 2, 0).reshape(-1, 8).numpy(), atol=1e-5)


def test_resample_along_one_and_three_axes():
    table = np.random.default_rng(0).standard_normal((2 * 3 * 4, 5)).astype(np.float32)
    out = resample_positions(jnp.asarray(table), (2, 3, 4), (3, 3, 2))
    first, last = bicubic_matrix(2, 3, antialias=True), bicubic_matrix(4, 2, antialias=True)
    expected = np.einsum("Tt,Ww,thwD->ThWD", first, last, table.reshape(2, 3, 4, 5))
    np.testing.assert_allclose(out, expected.reshape(18, 5), atol=1e-5)
    line = resample_positions(jnp.asarray(table), (24,), (30,))
    np.testing.assert_allclose(line, bicubic_matrix(24, 30, antialias=True) @ table, atol=1e-5)


def test_sinusoids():
    """Column by column from the formula."""
    table = interleaved_sinusoids(7, 6)
    for column in range(6):
        rate = 10_000 ** (-(column - column % 2) / 6)
        wave = np.cos if column % 2 else np.sin
        np.testing.assert_allclose(table[:, column], wave(np.arange(7) * rate), atol=1e-7)
    table = side_by_side_sinusoids(7, 6)
    for column in range(3):
        rate = 10_000 ** (-column / 2)
        np.testing.assert_allclose(table[:, column], np.sin(np.arange(7) * rate), atol=1e-7)
        np.testing.assert_allclose(table[:, 3 + column], np.cos(np.arange(7) * rate), atol=1e-7)
    assert table.dtype == np.float32
    for width in (2, 5):
        with pytest.raises(ValueError, match=f"and not {width}"):
            side_by_side_sinusoids(3, width)
