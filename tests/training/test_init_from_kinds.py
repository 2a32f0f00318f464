"""Other kinds of model that start from the image tower of two towers, at another resolution."""

import jax
import numpy as np
import pytest

from mmjax.config import parse
from mmjax.data.image.transforms import MEAN_STD
from mmjax.errors import UserError
from mmjax.interop import export
from mmjax.nn.positions import bicubic_matrix
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import partition
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from mmjax.training import init_from
from tests.helpers import model_kinds

TOWER = ("image/.*",)
# What a two-tower model's image tower is, and a captioner's by default is not.
AS_CLIP = dict(model__image__pre_norm=True, model__image__patch_bias=False, model__image__norm_eps=1e-5)


@pytest.fixture(scope="module")
def sources(random_params, tmp_path_factory):
    """A run's workdir and an OpenCLIP folder, with their parameters by path."""
    folder = tmp_path_factory.mktemp("sources")
    text = dict(model__text__vocab_size=259, model__text__eos_id=258, data__tokenizer="bytes")
    config = model_kinds.config("tiny", **text)
    params = model_kinds.save(random_params, config, folder / "run")
    flat = partition.flattened(params)
    mean, std = MEAN_STD["clip"]
    spec = dict(size=16, resize="crop", interpolation="bicubic", mean=mean, std=std)
    export.write(folder / "openclip", "openclip", settings=config.model.to_dict(), preprocessing=spec, params=flat)
    return folder, flat


def read(config, shapes=None):
    """What a run of `config` would start from; its parameters are known, or `shapes`."""
    shapes = shapes or jax.eval_shape(model_kinds.task(config).init, jax.random.key(0))
    complete = mesh_lib.replicated(make_mesh(MeshConfig(data=1, fsdp=1, tensor=1), jax.devices()[:1]))
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=complete), shapes)
    return dict(init_from.read(placed, parse(config)).arrays)


@pytest.mark.parametrize(
    "name, source",
    [
        ("tiny-captioner", "run"),
        ("tiny-prefix_lm", "openclip"),
        pytest.param("tiny-qformer", "openclip", marks=pytest.mark.full),
    ],
)
def test_the_image_tower_of_two_towers(sources, name, source):
    folder, params = sources
    changes = dict(AS_CLIP, init_from=str(folder / source), init_paths=TOWER)
    config = model_kinds.config(name, model__image__image_size=32, data__mean_std="clip", **changes)
    result = read(config)
    assert sorted(result) == sorted(path for path in params if path.startswith("image/"))
    table = result.pop("image/position_embedding")
    for path, x in result.items():
        np.testing.assert_array_equal(x, params[path], err_msg=path)
    old = params["image/position_embedding"]
    matrix = bicubic_matrix(2, 4, antialias=True)
    want = np.einsum("Hh,Ww,hwD->HWD", matrix, matrix, old[1:].reshape(2, 2, -1)).reshape(16, -1)
    np.testing.assert_allclose(table, np.concatenate([old[:1], want]), atol=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({}, r"another setting \(model.image.norm_eps: 1e-05 -> 1e-06; model.image.pre_norm: True -> False\)"),
        (AS_CLIP | dict(model__image__width=16), r"has shape \(8, 8, 3, 32\) there and has shape \(8, 8, 3, 16\) here"),
        (AS_CLIP | dict(model__image__patch_bias=True), "image/patch_embed/bias does not exist there"),
        (AS_CLIP | dict(data__mean_std="siglip"), "data.mean_std: clip -> siglip"),
        (AS_CLIP | dict(init_paths=("text/.*",)), "data.tokenizer: bytes -> words:shapes"),
        (AS_CLIP | dict(init_paths=("decoder/.*",)), "init_paths='decoder/.*' matches no parameter path"),
    ],
)
def test_what_does_not_fit_is_one_line(sources, changes, message):
    changes = dict(init_from=str(sources[0] / "run"), init_paths=TOWER, data__mean_std="clip") | changes
    config = model_kinds.config("tiny-captioner", **changes)
    width = config.model.image.width
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, np.float32)
    patches = {"kernel": shape(8, 8, 3, width)} | ({"bias": shape(width)} if config.model.image.patch_bias else {})
    shapes = {"image": {"patch_embed": patches}, "text": {"token_embedding": shape(64, 32)}}
    with pytest.raises(UserError, match=message) as error:
        read(config, shapes)
    assert "\n" not in str(error.value)


def test_vilt_has_no_norm_before_its_layers(sources):
    changes = dict(init_from=str(sources[0] / "run"), init_paths=("image/transformer/.*",), data__mean_std="clip")
    with pytest.raises(UserError, match="model.image.pre_norm: True -> False.*leave the tower out with init_paths"):
        read(model_kinds.config("tiny-vilt", model__image__norm_eps=1e-5, **changes), model_kinds.shapes("tiny-vilt"))
