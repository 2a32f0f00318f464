"""Mistakes in a tower's `block`, each with its one line."""

import pytest
from ml_collections import ConfigDict

from mmjax.config.schema import base_config, parse
from mmjax.errors import UserError
from mmjax.tasks.validate_model import check_model

ROPE = dict(rope="half")


def config_of(tower, **block):
    config = base_config("tiny")
    with config.unlocked():
        config.model[tower].block = ConfigDict(block)
    return parse(config)


@pytest.mark.parametrize(
    ("tower", "block", "message"),
    [
        ("image", dict(kv_heads=3), "model.image.block.kv_heads=3 does not divide model.image.heads="),
        ("image", dict(layer_scale=-1.0), "model.image.block.layer_scale=-1.0 must be finite and must not be negative"),
        ("text", dict(rope_theta=0.0), "model.text.block.rope_theta=0.0 must be finite and at least 1"),
        ("image", ROPE | dict(head_dim=6), "turns pairs of numbers along 2 axes, and heads of 6 are no multiple of 4"),
        ("text", ROPE | dict(head_dim=5), "model.text.block.rope='half' turns pairs of numbers along 1 axes"),
        ("image", dict(head_dim=-1), "model.image.block.head_dim=-1 must not be negative"),
        ("image", dict(norm_type="batch"), "norm_type='batch'"),
    ],
)
def test_a_mistake_names_field_and_value(tower, block, message):
    with pytest.raises(UserError) as caught:
        check_model(config_of(tower, **block))
    assert message in str(caught.value)
