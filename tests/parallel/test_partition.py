"""Which parameter and which optimizer moment lives where."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from mmjax.config import parse
from mmjax.config.schema import base_config
from mmjax.config.typed_groups import parse_group
from mmjax.errors import UserError
from mmjax.models.two_tower import TwoTower
from mmjax.models.variants.two_tower import variant
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from mmjax.parallel.partition import divided_over_data, map_with_path, opt_state_shardings, param_shardings, path_name
from mmjax.training.optimizer import make_optimizer


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


@pytest.fixture(scope="module")
def params():
    """Shapes of a SigLIP large enough to be sharded: it has every kind of parameter."""
    settings = variant("tiny-siglip")
    settings.pop("max_logit_scale")
    for tower in (settings["image"], settings["text"]):
        tower |= dict(width=256, heads=4, mlp_dim=1024)
    settings["embed_dim"] = 256
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    return jax.eval_shape(
        TwoTower(**settings).init, jax.random.key(0), images, jax.ShapeDtypeStruct((1, 32), jnp.int32)
    )["params"]


def specs(params, mesh, **settings):
    """{path: spec without trailing Nones}."""
    shardings, _ = param_shardings(params, mesh, MeshConfig(**{"sharding": "fsdp"} | settings))
    result = {}
    map_with_path(lambda path, s: result.setdefault(path, trimmed(s.spec)), shardings)
    return result


def trimmed(spec):
    axes = list(spec)
    while axes and axes[-1] is None:
        axes.pop()
    return P(*axes)


def test_moments_are_divided_over_data_too(params, mesh):
    kept, _ = param_shardings(params, mesh, MeshConfig(sharding="fsdp+tensor"))
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    divided = jax.tree.leaves(divided_over_data(params, kept, mesh))
    placed = dict(zip(names, [trimmed(sharding.spec) for sharding in divided], strict=True))
    assert placed["image/transformer/layers/mlp/fc1/kernel"] == P(None, "fsdp", ("tensor", "data"))  # [2, 256, 1024]
    assert placed["logit_scale"] == P()
    one = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    kept, _ = param_shardings(params, one, MeshConfig(sharding="fsdp+tensor"))
    assert jax.tree.leaves(divided_over_data(params, kept, one)) == jax.tree.leaves(kept)


def test_path_names(params):
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert "image/transformer/layers/mlp/fc1/kernel" in names
    assert "text/token_embedding" in names
    assert "logit_scale" in names


def test_tensor_preset(params, mesh):
    result = specs(params, mesh, sharding="fsdp+tensor")
    layers = "text/transformer/layers/"
    assert result[layers + "attention/qkv/kernel"] == P(None, "fsdp", None, "tensor")  # [layers, D, 3, H, K]: heads
    assert result[layers + "attention/qkv/bias"] == P(None, None, "tensor")
    assert result[layers + "attention/out/kernel"] == P(None, "tensor", None, "fsdp")
    assert result[layers + "attention/out/bias"] == P()
    assert result[layers + "mlp/fc1/kernel"] == P(None, "fsdp", "tensor")
    assert result[layers + "mlp/fc1/bias"] == P(None, "tensor")
    assert result[layers + "mlp/fc2/kernel"] == P(None, "tensor", "fsdp")
    # The same rules hold for a single, unstacked layer.
    pool = "image_head/pool/"
    assert result[pool + "attention/q/kernel"] == P("fsdp", "tensor")
    assert result[pool + "attention/kv/kernel"] == P("fsdp", None, "tensor")
    assert result[pool + "mlp/fc2/kernel"] == P("tensor", "fsdp")
    # What no rule places: large ones over fsdp on their largest axis, small ones everywhere.
    assert result["text/token_embedding"] == P("fsdp")
    assert result["image/position_embedding"] == P()
    assert result["logit_scale"] == P()


def test_fsdp_preset(params, mesh):
    result = specs(params, mesh, sharding="fsdp")
    assert result["text/transformer/layers/mlp/fc1/kernel"] == P(None, None, "fsdp")  # [2, 256, 1024]
    assert result["text/transformer/layers/mlp/fc2/kernel"] == P(None, "fsdp")
    assert result["text/token_embedding"] == P("fsdp")
    assert result["text/transformer/layers/mlp/fc1/bias"] == P()


def test_replicated_preset(params, mesh):
    assert set(specs(params, mesh, sharding="replicated").values()) == {P()}


def test_preset_leaves_out_axes_that_do_not_divide(params):
    mesh = make_mesh(MeshConfig(data=1, fsdp=1, tensor=8))  # 4 heads cannot be split over 8 devices
    result = specs(params, mesh, sharding="fsdp+tensor")
    assert result["text/transformer/layers/attention/qkv/kernel"] == P(None, "fsdp")
    assert result["text/transformer/layers/mlp/fc1/kernel"] == P(None, "fsdp", "tensor")


def test_large_axis_that_does_not_divide_is_noted(mesh):
    odd = {"large": jax.ShapeDtypeStruct((999, 1001), jnp.float32), "small": jax.ShapeDtypeStruct((3, 3), jnp.float32)}
    shardings, notes = param_shardings(odd, mesh, MeshConfig(sharding="fsdp"))
    assert all(s.spec == P() for s in shardings.values())
    assert notes == ["no axis divides by mesh.fsdp=2, so replicated: large (999, 1001)"]


def test_users_rules_come_first_and_the_first_match_wins(params, mesh):
    rules = [
        ("text/.*fc1/kernel", ("tensor", None)),
        (".*/fc1/kernel", (("data", "fsdp"), "tensor")),
        ("text/token_embedding", ()),
    ]
    result = specs(params, mesh, sharding="fsdp+tensor", rules=tuple(rules))
    assert result["text/transformer/layers/mlp/fc1/kernel"] == P(None, "tensor")
    assert result["image/transformer/layers/mlp/fc1/kernel"] == P(None, ("data", "fsdp"), "tensor")
    assert result["text/token_embedding"] == P()
    assert result["text/transformer/layers/mlp/fc2/kernel"] == P(None, "tensor", "fsdp")
    # A list, as a config file may have it, is as good as a tuple.
    lists = dict(rules=[["image/.*fc1/kernel", [["data", "fsdp"], None]]])
    result = specs(params, mesh, rules=parse_group(MeshConfig, lists, complete=False).rules)
    assert result["image/transformer/layers/mlp/fc1/kernel"] == P(None, ("data", "fsdp"))


@pytest.mark.parametrize(
    "rules, message",
    [
        (
            [("image/.*fc3/kernel", ())],
            r"mesh.rules\[0\]='image/.*fc3/kernel' matches no parameter path, such as 'image",
        ),
        (
            [("logit_scale", ()), ("fc1/kernel", ())],
            r"mesh.rules\[1\]='fc1/kernel' matches no",
        ),  # the whole path must match
        ([(".*/fc1/kernel", ("fspd",))], r"mesh.rules\[0\]=.*axis 'fspd' is not one of \('data', 'fsdp', 'tensor'\)"),
        ([("logit_scale", ("fsdp",))], r"mesh.rules\[0\]='logit_scale' has 1 axes, but logit_scale has 0"),
        (
            [("image/patch_embed/kernel", ("fsdp", None))],
            r"shards an axis of 3 in image/patch_embed/kernel over 'fsdp' of 2",
        ),
        ([("image/(", ())], r"mesh.rules\[0\]='image/\(' is not a regular expression"),
    ],
)
def test_mistakes_in_rules(params, mesh, rules, message):
    with pytest.raises(UserError, match=message):
        param_shardings(params, mesh, MeshConfig(sharding="fsdp", rules=tuple(rules)))


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "adafactor", "sgd"])
def test_moments_follow_their_parameters(params, mesh, name):
    config = base_config("tiny-siglip")
    config.optimizer.name = name
    tx, _ = make_optimizer(parse(config), params)
    state = jax.eval_shape(tx.init, params)
    shardings, _ = param_shardings(params, mesh, MeshConfig())
    placed = opt_state_shardings(state, params, shardings, mesh)
    assert jax.tree.structure(placed) == jax.tree.structure(state)

    expected = {path_name(path): s for path, s in jax.tree_util.tree_leaves_with_path(shardings)}
    shapes = {path_name(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)}
    moments = dict.fromkeys(shapes, 0)
    unsharded = 0
    for (path, x), sharding in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(placed), strict=True):
        endings = [name for name in shapes if path_name(path).endswith("/" + name) and shapes[name] == x.shape]
        longest = max(endings, key=len, default=None)
        if longest:
            assert sharding == expected[longest], path_name(path)
            moments[longest] += 1
        else:
            assert sharding.spec == P(), path_name(path)
            unsharded += x.size
    copies = {"adamw": 2, "lion": 1, "sgd": 1}
    if name in copies:
        assert set(moments.values()) == {copies[name]}
    elif name == "muon":
        assert {moments[path] for path in moments if path.endswith("kernel")} == {1}
        assert moments["text/token_embedding"] == moments["image/position_embedding"] == 2
    else:
        assert min(moments.values()) >= 1  # the momentum; the second moments of kernels are factored
    # What is replicated must be small: counts and factored moments.
    assert unsharded < 0.05 * sum(x.size for x in jax.tree.leaves(params))
