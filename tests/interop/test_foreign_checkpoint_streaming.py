"""Weights are read one parameter at a time: the host never holds a second copy of the model."""

import tracemalloc
import weakref

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.interop import export, foreign_checkpoint, param_translation
from mmjax.interop.param_names import huggingface as hf_names
from mmjax.interop.tensor_files import Tensors
from mmjax.models.variants.two_tower import variant
from mmjax.parallel import partition
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from tests.helpers import runs

GOLDEN = runs.ROOT / "tests/golden/interop"


def settings():
    """12 layers a tower, none of whose parameters is a large part of the model."""
    model = variant("tiny")
    for tower in (model["image"], model["text"]):
        tower |= dict(width=64, mlp_dim=256, depth=12)
    model["text"]["vocab_size"] = 500
    return model


def counting(shapes):
    """A file of zeros that counts the arrays which are alive."""
    alive = {"now": 0, "most": 0}

    def gone():
        alive["now"] -= 1

    def read(name):
        array = np.zeros(shapes[name], np.float32)
        weakref.finalize(array, gone)
        alive["now"] += 1
        alive["most"] = max(alive["most"], alive["now"])
        return array

    return Tensors("counted", shapes, read), alive


def test_reading_holds_one_parameter_at_a_time():
    shapes = param_translation.param_shapes(settings())
    rows = param_translation.select_rows(hf_names.CLIP, shapes, "a format")
    tensors, alive = counting(param_translation.their_shapes(rows, shapes))
    param_translation.check_tensors(tensors, rows, shapes)
    seen = []
    param_translation.read_params(tensors, rows, shapes, lambda path, array: seen.append(path))
    assert sorted(seen) == sorted(shapes)
    assert len(tensors) > 300 and alive["now"] == 0
    assert alive["most"] <= 4  # q, k and v of one layer, and what was read before them

    total = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
    largest = 4 * max(int(np.prod(shape)) for shape in shapes.values())
    tracemalloc.start()
    param_translation.read_params(tensors, rows, shapes, lambda path, array: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < total / 4 and largest < peak < 2 * largest


def test_writing_holds_one_parameter_at_a_time(tmp_path):
    shapes = param_translation.param_shapes(settings())
    rows = param_translation.select_rows(hf_names.CLIP, shapes, "a format")
    params = {path: np.broadcast_to(np.float32(1), shape) for path, shape in shapes.items()}  # without memory
    total = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
    tracemalloc.start()
    export.write_safetensors(
        tmp_path / "a.safetensors",
        param_translation.their_shapes(rows, shapes),
        param_translation.export_params(params, rows),
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "a.safetensors").stat().st_size > total > 4 * peak


def test_arrays_go_straight_to_their_shardings():
    opened = foreign_checkpoint.open_checkpoint(GOLDEN / "openclip-quickgelu")
    mesh = make_mesh(MeshConfig(data=4, fsdp=2, tensor=1))
    full = opened.read(lambda _, array: array)
    abstract = partition.nested({path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in full.items()})
    rules = [(".*qkv/kernel", ("fsdp", None, None, None))]
    shardings = partition.flattened(
        partition.param_shardings(abstract, mesh, MeshConfig(sharding="replicated", rules=tuple(rules)))[0]
    )

    def to_host(path, array):
        return jax.make_array_from_callback(array.shape, shardings[path], lambda index: array[index])

    placed = opened.read(to_host)
    name = "image/transformer/layers/attention/qkv/kernel"
    assert placed[name].sharding == NamedSharding(mesh, PartitionSpec(None, "fsdp", None, None, None))
    assert placed[name].addressable_shards[0].data.shape[1] == full[name].shape[1] // 2
    for path, x in full.items():
        np.testing.assert_array_equal(placed[path], x)


def test_only_what_is_wanted_is_read():
    shapes = param_translation.param_shapes(settings())
    rows = param_translation.select_rows(hf_names.CLIP, shapes, "a format")
    tensors, _ = counting(param_translation.their_shapes(rows, shapes))
    names = []
    read = tensors._read
    tensors._read = lambda name: names.append(name) or read(name)
    result = param_translation.read_params(
        tensors, rows, shapes, lambda path, x: x.shape, lambda path: path.startswith("image/")
    )
    assert result == {path: shape for path, shape in shapes.items() if path.startswith("image/")}
    assert all(name.startswith("vision_model.") for name in names)
