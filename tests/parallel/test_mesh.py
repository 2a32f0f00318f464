"""The mesh, which rows belong where, and what a wrong shape or batch is told."""

import jax
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import check_batch, make_mesh
from mmjax.parallel.mesh import batch_devices, batch_sharding, local_rows, replicated


def shape(data, fsdp=1, tensor=1):
    return MeshConfig(data=data, fsdp=fsdp, tensor=tensor)


@pytest.mark.parametrize(
    "sizes, made",
    [
        ((8, 1, 1), (8, 1, 1)),
        ((-1, 1, 1), (8, 1, 1)),
        ((2, -1, 2), (2, 2, 2)),
        ((1, 2, -1), (1, 2, 4)),
        ((8, -1, 1), (8, 1, 1)),
    ],
)
def test_shapes(sizes, made):
    mesh = make_mesh(shape(*sizes))
    assert tuple(mesh.shape.values()) == made
    assert tuple(mesh.shape) == ("data", "fsdp", "tensor")
    assert set(mesh.devices.ravel()) == set(jax.devices())
    assert batch_devices(mesh) == made[0] * made[1]


def test_chosen_devices():
    mesh = make_mesh(shape(-1), devices=jax.devices()[:1])
    assert mesh.devices.ravel().tolist() == jax.devices()[:1]


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((4, 1, 1), "mesh.data=4, mesh.fsdp=1, mesh.tensor=1 makes 4 devices, but there are 8"),
        ((-1, 3, 1), "mesh.data=-1, mesh.fsdp=3, mesh.tensor=1 makes 6 devices, but there are 8"),
        ((-1, 16, 1), "mesh.data=-1, mesh.fsdp=16, mesh.tensor=1 makes 16 devices, but there are 8"),
        ((-1, -1, 1), "mesh.data=-1, mesh.fsdp=-1, mesh.tensor=1: each axis takes a positive number, and one"),
        ((0, 1, 1), "mesh.data=0, .*each axis takes a positive number"),
        ((8, -2, 1), "mesh.fsdp=-2, .*each axis takes a positive number"),
    ],
)
def test_impossible_shapes(sizes, message):
    with pytest.raises(UserError, match=message) as error:
        make_mesh(shape(*sizes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_rows(sizes):
    """Rows are spread over `data` and `fsdp` in order; `tensor` devices hold the same ones."""
    mesh = make_mesh(shape(*sizes))
    index = batch_sharding(mesh).devices_indices_map((16, 3))
    groups = {}
    for position, device in np.ndenumerate(mesh.devices):
        groups.setdefault(position[:2], set()).add(tuple(range(*index[device][0].indices(16))))
    assert all(len(rows) == 1 for rows in groups.values())
    spread = [row for _, rows in sorted(groups.items()) for row in next(iter(rows))]
    assert spread == list(range(16))
    # One process holds all devices here, and so all rows.
    np.testing.assert_array_equal(local_rows(mesh, 16), np.arange(16))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_rows_of_two_processes(sizes, monkeypatch):
    """With the devices split over two imagined processes, their rows split the batch."""
    mesh = make_mesh(shape(*sizes))
    kind = type(batch_sharding(mesh))
    halves = []
    for half in (mesh.devices[: sizes[0] // 2], mesh.devices[sizes[0] // 2 :]):
        mine = set(half.ravel())

        def local_map(self, array_shape, mine=mine):
            return {d: index for d, index in self.devices_indices_map(array_shape).items() if d in mine}

        monkeypatch.setattr(kind, "addressable_devices_indices_map", local_map)
        halves.append(local_rows(mesh, 16))
    np.testing.assert_array_equal(np.concatenate(halves), np.arange(16))
    assert len(halves[0]) == len(halves[1]) == 8


def test_replicated():
    mesh = make_mesh(shape(2, 2, 2))
    assert replicated(mesh).is_fully_replicated


@pytest.mark.parametrize("size, pieces", [(8, 1), (64, 1), (32, 4)])
def test_batch_that_divides(size, pieces):
    check_batch("batch_size", size, make_mesh(shape(4, 2)), pieces)


@pytest.mark.parametrize(
    "size, pieces, message",
    [
        (20, 1, r"batch_size=20 does not divide over mesh.data x mesh.fsdp = 8 devices; choose 16 or 24"),
        (5, 1, r"batch_size=5 .* choose 8"),
        (0, 1, r"batch_size=0 .* choose 8"),
        (-8, 1, r"batch_size=-8 .* choose 8"),
        (40, 2, r"batch_size=40 .* = 8 devices x microbatch = 2; choose 32 or 48"),
    ],
)
def test_batch_that_does_not_divide(size, pieces, message):
    with pytest.raises(UserError, match=message):
        check_batch("batch_size", size, make_mesh(shape(4, 2)), pieces)


def test_a_batch_larger_than_any():
    mesh = make_mesh(shape(4, 2))
    check_batch("batch_size", 8 << 20, mesh)
    with pytest.raises(UserError, match="^batch_size=1,000,000,000,000 is more than 8,388,608, 1,048,576 rows each"):
        check_batch("batch_size", 10**12, mesh)


def test_tensor_devices_do_not_split_the_batch():
    check_batch("batch_size", 4, make_mesh(shape(2, 2, 2)))
