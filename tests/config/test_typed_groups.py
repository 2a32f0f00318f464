"""Configs as typed trees: what a field may be, and what is said where it is something else."""

import dataclasses
import types
import typing

import pytest

from mmjax.config import recipe, schema, serialize, typed_groups
from mmjax.errors import UserError
from mmjax.models.config import CoCaConfig, LSTMCaptionerConfig, TwoTowerConfig
from mmjax.models.fusion.config import FusedConfig, HybridConfig, JointConfig, TableEncoderConfig
from mmjax.models.text_config import LSTMTextConfig

VARIANTS = ("B/32", "tiny-siglip", "tiny-captioner", "tiny-captioner-lstm", "tiny-coca", "tiny-prefix_lm")
VARIANTS = (*VARIANTS, "tiny-albef", "tiny-vilt", "tiny-qformer")


def trees():
    """The config of every kind of model as dictionaries, by name."""
    made = {name: schema.base_config(name) for name in VARIANTS}
    return {
        name: config.to_dict() for name, config in (made | {"fused": recipe.load_recipe("fusion:kind=hybrid")}).items()
    }


TREES = trees()


def groups(tree, path=""):
    """Paths of all groups of a config; "" is the whole."""
    yield path
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from groups(value, typed_groups.join(path, name))


def groups_by_name():
    """Paths of the groups of a config that no config before it has with the same type and fields; by name."""
    seen, result = set(), {}
    for name, tree in TREES.items():
        run, result[name] = schema.parse(tree), []
        for path in groups(tree):
            key = path, type(parsed_group(run, path)), tuple(group(tree, path))
            if key not in seen and path != "model.encoders":  # named by the data
                seen.add(key)
                result[name].append(path)
    return result


def changed(tree, path, name, value):
    """A copy of a config in which one field of the group `path` has a value; the group is made new on the way."""
    result = dict(tree)
    if not path:
        result[name] = value
        return result
    head, _, rest = path.partition(".")
    result[head] = changed(tree[head], rest, name, value)
    return result


def group(tree, path):
    for name in filter(None, path.split(".")):
        tree = tree[name]
    return tree


def parsed_group(run, path):
    """The group of a typed tree."""
    for name in filter(None, path.split(".")):
        run = run[name] if isinstance(run, dict) else getattr(run, name)
    return run


GROUPS = groups_by_name()
WITH_NEW_GROUPS = [name for name, paths in GROUPS.items() if paths]


def one_line(tree):
    with pytest.raises(UserError) as caught:
        schema.parse(tree)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", TREES)
def test_every_value_is_in_the_tree(name):
    run = schema.parse(TREES[name])
    for path, value in serialize.flatten(TREES[name]).items():
        result = parsed_group(run, path)
        assert result == value and (type(result) is type(value) or isinstance(value, int)), path


@pytest.mark.parametrize("name", WITH_NEW_GROUPS)
def test_every_field_refuses_what_has_another_type(name):
    tree, run, count = TREES[name], schema.parse(TREES[name]), 0
    for path in GROUPS[name]:
        typed = parsed_group(run, path)
        for field, expected in typed_groups.field_types(type(typed)).items():
            if typing.get_origin(expected) is typing.ClassVar or field not in group(tree, path):
                continue
            # Of each of them some type is none that the field may have.
            for wrong in (object(), None, True, 3, 3.5, "?", ("?",), (3, 3, 3, 3, 3), {"name": 1}, float("nan")):
                if _fits(expected, wrong):
                    continue
                message = one_line(changed(tree, path, field, wrong))
                assert message.startswith(typed_groups.join(path, field)), message
                assert any(word in message for word in (" wants ", "choose one of", " is no field", " is missing"))
                count += 1
    assert count > (500 if name == "B/32" else 0)


def _fits(expected, value):
    """Whether a value has a type, by other means than the code's: for the wrong values above alone."""
    origin = typing.get_origin(expected)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(option, value) for option in typing.get_args(expected))
    if origin is typing.Literal:
        return value in typing.get_args(expected)
    if origin is tuple:
        items = typing.get_args(expected)
        if not isinstance(value, tuple) or (items[-1:] != (...,) and len(items) != len(value)):
            return False
        return all(_fits(items[0], item) for item in value)
    if expected is float:
        return type(value) in (int, float) and value == value
    return isinstance(expected, type) and type(value) is expected


@pytest.mark.parametrize("name", WITH_NEW_GROUPS)
def test_every_group_refuses_an_unknown_field_and_names_the_nearest(name):
    tree = TREES[name]
    for path in GROUPS[name]:
        for field in group(tree, path):
            message = one_line(changed(tree, path, f"{field}x", 1))
            assert message.startswith(f"{typed_groups.join(path, f'{field}x')} is no field (did you mean"), message


@pytest.mark.parametrize("name", WITH_NEW_GROUPS)
def test_every_group_refuses_to_be_no_group(name):
    for path in GROUPS[name]:
        if path:
            parent, _, field = path.rpartition(".")
            may_be_none = [None] * (path != "model.image")  # another slot may be filled in its place
            for wrong in (*may_be_none, 3, "adamw", ("a",)):
                message = one_line(changed(TREES[name], parent, field, wrong))
                assert message.startswith(f"{path}={wrong!r} wants "), message


def test_every_field_outside_the_model_must_be_there():
    tree = TREES["B/32"]
    for path in serialize.flatten(tree):
        if not path.startswith("model."):
            parent, _, field = path.rpartition(".")
            node = {key: value for key, value in group(tree, parent).items() if key != field}
            above, _, name = parent.rpartition(".")
            message = one_line(changed(tree, above, name, node) if parent else node)
            assert message.startswith(f"{path} is missing; ")


@pytest.mark.parametrize("field", ["embed_dim", "image.width", "image.activation", "text.pool", "image"])
def test_a_field_of_the_model_without_a_default_must_be_there(field):
    parent, _, name = f"model.{field}".rpartition(".")
    node = {key: value for key, value in group(TREES["B/32"], parent).items() if key != name}
    above, _, last = parent.rpartition(".")
    assert one_line(changed(TREES["B/32"], above, last, node)).startswith(f"model.{field} is missing")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("steps", 1.5, "steps=1.5 wants an integer"),
        ("steps", True, "steps=True wants an integer"),
        ("data.flip", 1, "data.flip=1 wants true or false"),
        ("deterministic", "maybe", "deterministic='maybe' wants true, false or auto"),
        ("optimizer.b1", None, "optimizer.b1=None wants a number"),
        ("optimizer.b1", "0.9", "optimizer.b1='0.9' wants a number"),
        ("model.max_logit_scale", "none", "model.max_logit_scale='none' wants a number or none"),
        ("model.image.scan", "on", "model.image.scan='on' wants true, false or auto"),
        ("loss.impl", "rng", "loss.impl='rng' is not known (did you mean 'ring'?); choose one of: dense, gather, ring"),
        ("data.crop_scale", (0.5,), "data.crop_scale=(0.5,) wants a tuple of 2 numbers"),
        ("init_paths", ".*", "init_paths='.*' wants a tuple of texts, such as ('a', 'b')"),
        ("optimizer.multipliers", (("a",),), "optimizer.multipliers=(('a',),) wants pairs in a tuple, "),
        ("log.profile", (1, 2, 3), "log.profile=(1, 2, 3) wants a tuple of 2 integers or ()"),
        ("model.kind", "cocoa", "model.kind='cocoa' is not known (did you mean 'coca'?)"),
        ("model.kind", 3, "model.kind=3 is not known; choose one of: two_tower, "),
        ("data", {"train": "x"}, "data.eval is missing"),
    ],
)
def test_what_is_said(path, value, message):
    parent, _, name = path.rpartition(".")
    assert one_line(changed(TREES["B/32"], parent, name, value)).startswith(message)


def test_whole_numbers_are_numbers_and_lists_are_tuples():
    tree = changed(TREES["B/32"], "optimizer", "learning_rate", 1)
    tree = changed(tree, "optimizer", "multipliers", [["image/.*", 0]])
    optimizer = schema.parse(tree).optimizer
    assert type(optimizer.learning_rate) is float and optimizer.multipliers == (("image/.*", 0.0),)


def test_kinds_are_types():
    assert type(schema.parse(TREES["B/32"]).model) is TwoTowerConfig
    assert type(schema.parse(changed(TREES["B/32"], "model", "kind", "two_tower")).model) is TwoTowerConfig
    assert type(schema.parse(TREES["tiny-coca"]).model) is CoCaConfig
    lstm = schema.parse(TREES["tiny-captioner-lstm"]).model
    assert type(lstm) is LSTMCaptionerConfig and type(lstm.text) is LSTMTextConfig
    fused = schema.parse(TREES["fused"]).model
    assert type(fused) is FusedConfig and type(fused.encoders["table"]) is TableEncoderConfig
    assert type(fused.fusion) is HybridConfig and type(fused.fusion.fusion) is JointConfig


def test_the_tree_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        schema.parse(TREES["B/32"]).optimizer.b1 = 0.5


def test_messages_begin_with_where_the_config_comes_from():
    with pytest.raises(UserError, match=r"^--config=mine: steps=1\.5 wants an integer$"):
        schema.parse(changed(TREES["B/32"], "", "steps", 1.5), "--config=mine")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optimizer.learning_rate", 10**400, "wants a number"),
        ("mesh.rules", "x", "a text and a tuple of items, each a text or a tuple of texts, such as"),
    ],
)
def test_what_a_value_should_be_is_said(path, value, message):
    parent, _, field = path.rpartition(".")
    assert message in one_line(changed(TREES["B/32"], parent, field, value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "the config=.* wants a group of fields"),
        ("null", "the config=None wants a group of fields"),
        ('{"model": [1]}', "model=.* wants a group of fields"),
        ('{"model": null}', "model=None wants a group of fields"),
        ('{"optimizer": 3}', "optimizer=3 wants a group of fields"),
        (f'{{"optimizer": {{"learning_rate": {10**400}}}}}', "optimizer.learning_rate=10* wants a number"),
    ],
)
def test_a_stored_config_of_another_shape_is_a_mistake(text, message):
    with pytest.raises(UserError, match=f"stored: {message}"):
        serialize.from_json(text, "stored")
