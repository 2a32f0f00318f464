"""Fields that nothing would read are refused in one line; what a run began with is let be."""

import jax
import numpy as np
import pytest

from mmjax import registry
from mmjax.config import overrides, parse, recipe, serialize
from mmjax.config.field_origins import FieldOrigins
from mmjax.errors import UserError
from mmjax.plan import plan_recipe
from mmjax.training import checkpoint, train, validate_run
from mmjax.training.optimizer import make_optimizer
from tests.helpers import model_kinds

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
    (dict(schedule__warmup=0, schedule__from_zero=True), "from_zero=True is not read with schedule.warmup=0; set that"),
    (
        dict(optimizer__weight_decay=0.0, optimizer__decay=("big_vision",)),
        r"decay=\('big_vision',\) is not read with optimizer.weight_decay=0; set that, or leave it at \('matrices',\)",
    ),
    (dict(optimizer__weight_decay=0.0, optimizer__decay_scaled_by_lr=False), "scaled_by_lr=False is not read with opt"),
    (
        dict(optimizer__decay=()),
        r"optimizer.decay=\(\) leaves optimizer.weight_decay=0.2 nothing to decay; set optimizer.w",
    ),
    *(
        (
            dict(optimizer__name=name, optimizer__b1=0.0, optimizer__momentum_dtype="bfloat16"),
            f"momentum_dtype='bfloat16' is not read, as {name} has no momentum with optimizer.b1=0",
        )
        for name in registry.optimizers
    ),
]


@pytest.mark.parametrize(("changes", "message"), UNREAD)
def test_a_field_that_is_not_read_is_refused(changes, message):
    config = model_kinds.config("tiny", data__train="shapes", **changes)
    with pytest.raises(UserError, match=message) as error:
        validate_run.check_config(parse(config))
    assert "\n" not in str(error.value)
    stored = {name.replace("__", "."): value for name, value in changes.items()}
    validate_run.check_config(parse(config), FieldOrigins(stored=stored))
    validate_run.check_config(parse(config), FieldOrigins(kept=tuple(stored)))
    field, value = list(stored.items())[-1]
    if isinstance(value, float) and value:
        with pytest.raises(UserError, match=message):
            validate_run.check_config(parse(config), FieldOrigins(stored=stored | {field: value / 2}))


@pytest.mark.parametrize(
    "changes",
    [
        dict(optimizer__name="lion", optimizer__b2=0.99),
        dict(optimizer__name="muon", optimizer__b2=0.99, optimizer__eps=1e-8),
        dict(optimizer__name="adafactor", optimizer__b2_cap=1.0, optimizer__update_clip=1.0),
        dict(optimizer__name="sgd", optimizer__momentum_dtype="bfloat16"),
        dict(optimizer__weight_decay=0.0, optimizer__decay=()),  # says the same twice
        dict(optimizer__decay=("big_vision",), optimizer__decay_scaled_by_lr=False),
        dict(schedule__from_zero=True),
        dict(schedule__final=0.1),
        dict(schedule__name="constant", schedule__final=0.1, schedule__cooldown=100),
        dict(schedule__name="rsqrt", schedule__timescale=5, schedule__cooldown=9, schedule__final_of="rate"),
    ],
)
def test_a_field_that_is_read_is_not(changes):
    validate_run.check_config(parse(model_kinds.config("tiny", data__train="shapes", **changes)))


@pytest.mark.parametrize("name", list(registry.optimizers))
def test_without_momentum_its_type_changes_no_update(name, random_params):
    params = random_params({"layer": {"kernel": np.zeros((8, 8), np.float32), "bias": np.zeros(8, np.float32)}})
    gradients = [random_params(params, seed=seed) for seed in (1, 2)]
    results = []
    for dtype in ("float32", "bfloat16"):
        config = model_kinds.config("tiny", optimizer__name=name, optimizer__b1=0.0, optimizer__momentum_dtype=dtype)
        tx, _ = make_optimizer(parse(config), params)
        state = tx.init(params)
        for gradient in gradients:
            updates, state = tx.update(gradient, state, params)
        results.append(updates)
    jax.tree.map(np.testing.assert_array_equal, *results)


# -- whose choice it was -----------------------------------------------------------------------------------------------


def with_flags(spec, *flags):
    """A recipe with the command line's fields, and their paths."""
    config = recipe.load_recipe(spec)
    config.data.train = "shapes"
    overrides.apply(config, flags)
    return config, [path for path, _ in flags]


@pytest.mark.parametrize(
    ("spec", "flags", "fields"),
    [
        ("siglip:variant=tiny", [("optimizer.name", "adafactor")], ["optimizer.b2=0.95", "optimizer.eps=1e-08"]),
        ("siglip:variant=tiny", [("optimizer.name", "sgd")], ["optimizer.b2=0.95", "optimizer.eps=1e-08"]),
        ("albef:variant=albef-B", [("optimizer.name", "adafactor")], ["optimizer.b2=0.999", "optimizer.eps=1e-08"]),
        ("captioner:variant=captioner-B/16", [("optimizer.name", "lion")], ["optimizer.eps=1e-08"]),
        ("captioner:variant=captioner-B/16", [("schedule.name", "cosine")], ["schedule.decay_every=4861"]),
        ("siglip:variant=tiny", [("schedule.warmup", "0")], ["schedule.from_zero=True"]),
        (
            "siglip:variant=tiny",
            [("optimizer.weight_decay", "0")],
            ["optimizer.decay=('big_vision',)", "optimizer.decay_scaled_by_lr=False"],
        ),
        ("qformer:variant=qformer-B", [("schedule.name", "constant")], ["schedule.final=0.1"]),
        ("qformer:variant=qformer-B", [("data.train_resize", "squash")], ["data.crop_scale=(0.5, 1.0)"]),
    ],
)
def test_what_a_recipe_sets_beside_another_choice_is_told_and_not_refused(spec, flags, fields):
    config, inputs = with_flags(spec, *flags)
    validate_run.check_config(parse(config), FieldOrigins(inputs))
    line = validate_run.note_unread(parse(config), FieldOrigins(inputs))
    (choice,) = inputs
    message = f"{choice}={serialize.flatten(config)[choice]!r}"
    assert line == f"note: what the recipe sets and {message} does not read: {', '.join(fields)}"
    # All the recipe's: it is wrong, and all that is wrong with it stands in one line.
    with pytest.raises(UserError) as error:
        validate_run.check_config(parse(config))
    assert all(f"{field} is not read" in str(error.value) for field in fields) and "\n" not in str(error.value)
    assert validate_run.note_unread(parse(config)) is None


def test_what_the_command_line_itself_gives_is_refused():
    flags = [("optimizer.name", "adafactor"), ("optimizer.eps", "1e-7")]
    config, inputs = with_flags("siglip:variant=tiny", *flags)
    with pytest.raises(
        UserError, match="^optimizer.eps=1e-07 is not read with optimizer.name='adafactor'; leave it at"
    ):
        validate_run.check_config(parse(config), FieldOrigins(inputs))
    assert "b2=0.95" in validate_run.note_unread(
        parse(config), FieldOrigins(inputs)
    ) and "eps" not in validate_run.note_unread(parse(config), FieldOrigins(inputs))
    config, inputs = with_flags("siglip:variant=tiny", ("optimizer.update_clip", "1"))
    with pytest.raises(UserError, match="^optimizer.update_clip=1.0 is not read with optimizer.name='adamw'"):
        validate_run.check_config(parse(config), FieldOrigins(inputs))
    config, inputs = with_flags("siglip:variant=tiny", ("optimizer.decay", "()"))
    with pytest.raises(UserError, match=r"^optimizer.decay=\(\) leaves optimizer.weight_decay=0.0001 nothing to decay"):
        validate_run.check_config(parse(config), FieldOrigins(inputs))


def test_the_line_stands_in_the_log_of_a_run_and_of_a_plan(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checkpoint, "stored_frame", stop)  # which is looked at next
    config, flags = with_flags("siglip:variant=tiny", ("optimizer.name", "adafactor"))
    with pytest.raises(Stopped):
        train.train(config, tmp_path / "run", flags)
    line = validate_run.note_unread(parse(config), FieldOrigins(flags))
    assert capsys.readouterr().out == line + "\n"
    monkeypatch.setattr(plan_recipe.topology, "devices", lambda name: ())
    monkeypatch.setattr(plan_recipe.program, "make_setup", stop)
    with pytest.raises(Stopped):
        plan_recipe.run(parse(config), "v5e:2x2", flags=flags)
    assert capsys.readouterr().out == line + "\n"


class Stopped(Exception):
    pass


def stop(*args, **kwargs):
    raise Stopped
