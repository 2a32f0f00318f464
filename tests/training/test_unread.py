"""Fields that nothing would read are refused in one line; what a run began with is let be."""

import kinds
import pytest

from mmjax.errors import UserError
from mmjax.training import checks

UNREAD = [
    (
        dict(optimizer__name="adafactor", optimizer__b2=0.99),
        "optimizer.b2=0.99 is not read with optimizer.name='ada",
    ),
    (
        dict(optimizer__name="adafactor", optimizer__eps=1e-8),
        "leave it at 1e-06, or choose one that reads it: adamw",
    ),
    (dict(optimizer__name="sgd", optimizer__b2=0.99), "choose one that reads it: adamw, lion, muon"),
    (dict(optimizer__name="sgd", optimizer__eps=1e-8), "optimizer.eps=1e-08 is not read with optimizer.name='sgd'"),
    (dict(optimizer__name="lion", optimizer__eps=1e-8), "optimizer.eps=1e-08 is not read with optimizer.name='lion'"),
    (dict(optimizer__b2_cap=1.0), "optimizer.b2_cap=1.0 is not read with optimizer.name='adamw'; leave it at 0.999"),
    (
        dict(optimizer__name="muon", optimizer__update_clip=1.0),
        "update_clip=1.0 is not read with optimizer.name='mu",
    ),
    (
        dict(optimizer__name="sgd", optimizer__b1=0.0, optimizer__momentum_dtype="bfloat16"),
        "optimizer.momentum_dtype='bfloat16' is not read, as sgd has no momentum with optimizer.b1=0",
    ),
    (dict(schedule__timescale=5), "schedule.timescale=5 is not read with schedule.name='cosine'; leave it at 10000"),
    (
        dict(schedule__name="constant", schedule__final=0.1),
        "schedule.final=0.1 is not read .* set schedule.cooldown",
    ),
    (
        dict(schedule__name="rsqrt", schedule__final=0.1),
        "schedule.final=0.1 is not read with schedule.name='rsqrt'",
    ),
    (
        dict(schedule__name="rsqrt", schedule__final_of="rate"),
        "schedule.final_of='rate' is not read .* without a",
    ),
    (dict(schedule__final_of="rate"), "schedule.final_of='rate' is not read with schedule.name='cosine'"),
]


@pytest.mark.parametrize(("changes", "message"), UNREAD)
def test_a_field_that_is_not_read_is_refused(changes, message):
    config = kinds.config("tiny", data__train="shapes", **changes)
    with pytest.raises(UserError, match=message) as error:
        checks.check_config(config)
    assert "\n" not in str(error.value)
    stored = {name.replace("__", "."): value for name, value in changes.items()}
    checks.check_config(config, stored=stored)
    checks.check_config(config, kept=tuple(stored))
    field, value = list(stored.items())[-1]
    if not isinstance(value, str):
        with pytest.raises(UserError, match=message):
            checks.check_config(config, stored=stored | {field: value / 2})


@pytest.mark.parametrize(
    "changes",
    [
        dict(optimizer__name="lion", optimizer__b2=0.99),
        dict(optimizer__name="muon", optimizer__b2=0.99, optimizer__eps=1e-8),
        dict(optimizer__name="adafactor", optimizer__b2_cap=1.0, optimizer__update_clip=1.0),
        dict(optimizer__name="sgd", optimizer__momentum_dtype="bfloat16"),
        dict(schedule__final=0.1),
        dict(schedule__name="constant", schedule__final=0.1, schedule__cooldown=100),
        dict(schedule__name="rsqrt", schedule__timescale=5, schedule__cooldown=9, schedule__final_of="rate"),
    ],
)
def test_a_field_that_is_read_is_not(changes):
    checks.check_config(kinds.config("tiny", data__train="shapes", **changes))
