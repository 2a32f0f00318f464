"""Recipes, overrides and stored configs."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from mmjax.config import overrides, recipe, schema, serialize
from mmjax.errors import UserError
from mmjax.models.variants.two_tower import VARIANTS
from mmjax.nn.config import BlockConfig

# As the code of commit da27316 made them: [path, value, type], and of a group whether it is locked.
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "base_config.json").read_text())


def rows(config, path=""):
    """Fields of a config in their order, as the golden file has them."""
    result = []
    for name in config:
        if isinstance(config[name], schema.ConfigDict):
            result.append([path + name, "group", "locked" if config[name].is_locked else "open"])
            result += rows(config[name], f"{path}{name}.")
        else:
            result.append([path + name, repr(config[name]), config.get_type(name).__name__])
    return result


@pytest.mark.parametrize("variant", GOLDEN)
def test_the_base_config_is_what_it_was(variant):
    result = rows(schema.base_config(variant))
    if variant != "B/32":  # the others' models alone are stored
        of_size = lambda path: path == "variant" or path.startswith("model.")
        assert [row for row in result if not of_size(row[0])] == [row for row in GOLDEN["B/32"] if not of_size(row[0])]
        result = [row for row in result if of_size(row[0])]
    assert result == GOLDEN[variant]


def test_the_golden_sizes_are_all():
    assert set(VARIANTS) < set(GOLDEN) and len(GOLDEN) == 43


def test_configs_need_no_jax():
    code = "import sys, mmjax.config as c; c.parse(c.base_config('tiny-coca')); print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


FUSED = dict(
    kind="fused",
    encoders=dict(table=dict(kind="table", numeric=4, width=8, depth=1, heads=2, mlp_dim=8)),
    fusion=dict(kind="late", combine="linear"),
    classes=3,
)


def test_a_group_is_exchanged_and_locked_again():
    config = schema.base_config("tiny")
    schema.set_group(config, "model", FUSED)
    assert config.is_locked and config.model.is_locked and config.model.to_dict() == FUSED
    layers = dict(width=8, depth=1, heads=2, mlp_dim=8, scan=False)
    schema.set_group(config, "model.fusion", dict(kind="joint", **layers))
    config.model.fusion.scan = "auto"  # as in every group
    schema.set_group(config, "model.encoders.image", dict(kind="image", image_size=8, patch_size=4, **layers))
    assert list(config.model.encoders) == ["image", "table"]
    with pytest.raises(AttributeError):
        config.model.fusion.combine = "product"
    schema.parse(config)


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        ("model.fusion", dict(kind="joint", combine="linear"), "model.fusion.combine is no field"),
        ("model.fusion", dict(kind="lat"), "model.fusion.kind='lat' is not known (did you mean 'late'?)"),
        ("model.fusion", dict(combine="linear"), "model.fusion.kind is missing; choose one of: concat, "),
        ("model", dict(kind="fused", classes=3), "model.encoders is missing"),
        ("model.fusoin.fusion", FUSED["fusion"], "model.fusoin.fusion is no group of the model (did you mean"),
        ("optimizer", {}, "optimizer: only the model and its groups have a kind"),
    ],
)
def test_a_group_that_does_not_fit_changes_nothing(path, settings, message):
    config = schema.base_config("tiny")
    schema.set_group(config, "model", FUSED)
    with pytest.raises(UserError) as caught:
        schema.set_group(config, path, settings)
    assert str(caught.value).startswith(message), caught.value
    assert config.model.to_dict() == FUSED and config.is_locked


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.data = c.eval", "data.batch_size is no field"),
        ("c.optimizer.b1 = None", "optimizer.b1=None wants a number"),
        ("c.model.logit_bias_init = 'none'", "model.logit_bias_init='none' wants a number or none"),
        ("c.unlock(); c.stpes = 3", "stpes is no field (did you mean 'steps'?); remove it"),
        ("c.unlock(); del c.optimizer.b1", "optimizer.b1 is missing; set it, or start from base_config()"),
    ],
)
def test_a_recipe_that_gets_around_the_lock_is_refused(tmp_path, line, message):
    lines = ["from mmjax.config.schema import base_config", "def get_config(arg):", "    c = base_config()"]
    (tmp_path / "mine.py").write_text("\n".join([*lines, f"    {line}", "    return c"]))
    spec = str(tmp_path / "mine.py")
    with pytest.raises(UserError) as caught:
        recipe.load_recipe(spec)
    assert str(caught.value).startswith(f"--config={spec}: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(stpes=3), "stpes is no field (did you mean 'steps'?)"),
        (dict(steps="3"), "steps='3' wants an integer"),
        (dict(data=3), "data=3 wants a group of fields"),
        (dict(model=dict(kind="cca")), "model.kind='cca' is not known (did you mean 'coca'?)"),
    ],
)
def test_a_stored_config_that_fits_no_run_is_refused(change, message):
    stored = json.dumps(schema.base_config().to_dict() | change)
    with pytest.raises(UserError) as caught:
        serialize.from_json(stored, "DIR/config.json")
    assert str(caught.value).startswith(f"DIR/config.json: {message}")


def test_parse_arg_reads_the_type_of_the_default():
    args = recipe.parse_arg("steps=7,rate=1,name=B/32,flag=true", steps=1, rate=0.5, name="x", flag=False, other=3)
    assert args.to_dict() == {"steps": 7, "rate": 1.0, "name": "B/32", "flag": True, "other": 3}
    assert type(args.rate) is float
    with pytest.raises(UserError, match="variant"):
        recipe.parse_arg("varient=B/32", variant="B/16")
    with pytest.raises(UserError, match="key=value"):
        recipe.parse_arg("B/32", variant="B/16")
    with pytest.raises(UserError, match="an integer"):
        recipe.parse_arg("steps=many", steps=1)


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("steps", "12", 12),
        ("steps", "1e5", 100_000),
        ("optimizer.learning_rate", "1", 1.0),
        ("optimizer.learning_rate", "3e-4", 3e-4),
        ("data.flip", "True", True),
        ("data.train", "pairs:a=b.tsv", "pairs:a=b.tsv"),
        ("data.train", "123", "123"),
        ("optimizer.freeze", "('image/.*', 'image_head/.*')", ("image/.*", "image_head/.*")),
        ("optimizer.freeze", "image/.*", ("image/.*",)),
        ("data.crop_scale", "(0.5, 1)", (0.5, 1)),
        ("model.logit_bias_init", "-10", -10.0),
        ("model.logit_bias_init", "none", None),
        ("log.profile", "(3, 5)", (3, 5)),
        ("deterministic", "true", True),
        ("deterministic", "auto", "auto"),
        ("model.image.scan", "False", False),
    ],
)
def test_a_field_is_set_from_text(path, text, value):
    config = schema.base_config()
    overrides.apply(config, [(path, text)])
    result = serialize.flatten(config)[path]
    assert result == value and type(result) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("optimizr.b1", "0.5", "did you mean 'optimizer'"),
        ("optimizer.learning_rat", "0.5", "did you mean 'learning_rate'"),
        ("optimizer", "adamw", "group of fields"),
        ("steps.more", "1", "steps is one value"),
        ("steps", "1.5", "an integer"),
        ("steps", "true", "an integer"),
        ("data.flip", "1", "true or false"),
        ("optimizer.learning_rate", "fast", "a number"),
        ("optimizer.learning_rate", "nan", "a number"),
        ("optimizer.learning_rate", "none", "a number"),
        ("data.crop_scale", "(0.5,)", "a tuple"),
        ("optimizer.freeze", "3", "a tuple"),
        ("model.logit_bias_init", "low", "a number or none"),
        ("log.profile", "(3,)", "a tuple of 2 integers"),
        ("deterministic", "1", "true, false or auto"),
        ("model.text.scan", "maybe", "true, false or auto"),
    ],
)
def test_a_wrong_field_or_value_is_named(path, text, message):
    config = schema.base_config()
    before = config.to_dict()
    with pytest.raises(UserError, match=message) as caught:
        overrides.apply(config, [(path, text)])
    assert f"--config.{path}" in str(caught.value) and "\n" not in str(caught.value)
    assert config.to_dict() == before


def test_fields_of_a_kind_are_read_as_its_types():
    """Those that may be none, and those in groups by name."""
    config = recipe.load_recipe("fusion")
    sound = dict(kind="audio", frames=8, mel_bins=4, patch_size=(4, 4), stride=None, scan="auto")
    model = config.model.to_dict()
    model["encoders"]["sound"] = sound | dict(width=8, depth=1, heads=2, mlp_dim=8)
    schema.set_group(config, "model", model)
    overrides.apply(config, [("model.encoders.sound.stride", "(2, 2)"), ("model.encoders.sound.scan", "true")])
    assert config.model.encoders.sound.stride == (2, 2) and config.model.encoders.sound.scan is True
    with pytest.raises(UserError, match="stride=2: wants a tuple of 2 integers or none, and has .2, 2. now"):
        overrides.apply(config, [("model.encoders.sound.stride", "2")])
    overrides.apply(config, [("model.encoders.sound.stride", "none")])
    assert config.model.encoders.sound.stride is None


def test_json_round_trip_keeps_tuples_and_fills_new_fields():
    config = schema.base_config("tiny")
    config.optimizer.freeze = ("image/.*",)
    config.optimizer.multipliers = (("text/.*", 0.5),)
    text = serialize.to_json(config)
    assert serialize.from_json(text).to_dict() == config.to_dict()
    older = text.replace('"ema_decay": 0.0,', "")
    assert older != text and serialize.from_json(older).ema_decay == 0.0
    with pytest.raises(AttributeError):
        serialize.from_json(text).no_such_field = 1


def test_differences_names_old_and_new():
    a, b = schema.base_config(), schema.base_config()
    b.steps, b.model.text.width = 5, 640
    assert serialize.differences(a, b) == ["model.text.width: 512 -> 640", "steps: 10000 -> 5"]
    assert serialize.differences(a, b, ("model.",)) == ["model.text.width: 512 -> 640"]
    assert serialize.differences(a, a) == []


def test_a_recipe_is_found_by_name_and_by_path(tmp_path):
    by_name = recipe.load_recipe("clip:variant=L/14")
    by_path = recipe.load_recipe(f"{recipe.recipe_folder() / 'clip.py'}:variant=L/14")
    assert by_name.to_dict() == by_path.to_dict()
    assert by_name.model.image.width == 1024 and math.isclose(by_name.optimizer.learning_rate, 4e-4)
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        recipe.load_recipe("quikstart")
    with pytest.raises(UserError, match="did you mean 'B/32'"):
        recipe.load_recipe("clip:variant=B/33")
    lines = [
        "from mmjax.config.schema import base_config",
        "def get_config(arg):",
        "    c = base_config()",
        "    c.step = 1",
    ]
    (tmp_path / "mine.py").write_text("\n".join([*lines, "    return c"]))
    with pytest.raises(UserError, match=r"recipe failed .*line 4"):
        recipe.load_recipe(str(tmp_path / "mine.py"))


@pytest.mark.parametrize("field", ["model.match", "optimizer.learning_rat"])
def test_a_field_that_a_recipe_cannot_set_is_told_without_all_the_others(tmp_path, field):
    lines = ["from mmjax.config.schema import base_config", "def get_config(arg):", "    c = base_config('small-coca')"]
    (tmp_path / "mine.py").write_text("\n".join([*lines, f"    c.{field} = 1", "    return c"]))
    with pytest.raises(UserError, match=rf"recipe failed .*{field.partition('.')[2]}.*\(line 4\)$") as caught:
        recipe.load_recipe(str(tmp_path / "mine.py"))
    message = str(caught.value).replace(str(tmp_path), "")
    assert "\n" not in message and "Other fields" not in message and len(message) < 250


def test_flags_set_fields_that_a_size_leaves_at_their_defaults():
    config = schema.base_config("tiny")
    assert "final_norm" not in config.model.image
    overrides.apply(config, [("model.image.final_norm", "false"), ("model.modality_dropout", "0.1")])
    assert schema.parse(config).model.image.final_norm is False and config.model.modality_dropout == 0.1
    with pytest.raises(UserError, match="no field 'learning_rate'; set optimizer.learning_rate$"):
        overrides.set_field(schema.base_config("tiny"), "learning_rate", "1")
    with pytest.raises(UserError, match="model.image has no field 'final_nrom' .did you mean 'final_norm'"):
        overrides.apply(config, [("model.image.final_nrom", "false")])
    with pytest.raises(UserError, match="final_norm=7: wants true or false"):
        overrides.apply(schema.base_config("tiny"), [("model.image.final_norm", "7")])


@pytest.mark.parametrize("path", ["model.image.block", "model.text.block"])
def test_flags_set_fields_of_a_group_that_is_none(path):
    config = schema.base_config("tiny")
    overrides.apply(config, [(f"{path}.mlp_gate", "true"), (f"{path}.rope", "half")])
    part = getattr(schema.parse(config).model, path.split(".")[1])
    assert part.block == BlockConfig(mlp_gate=True, rope="half")
    with pytest.raises(UserError, match=f"{path} has no field 'mlp_gates' .did you mean 'mlp_gate'"):
        overrides.apply(schema.base_config("tiny"), [(f"{path}.mlp_gates", "true")])
    with pytest.raises(UserError, match=f"{path}.kv_heads=many: wants an integer, and has 0 now"):
        overrides.apply(schema.base_config("tiny"), [(f"{path}.kv_heads", "many")])


def test_flags_do_not_make_an_encoder_that_is_none():
    message = r"--config.model.video.frames: model.video is none here; a recipe sets all of such a group: mmjax.config"
    with pytest.raises(UserError, match=message):
        overrides.apply(schema.base_config("tiny-albef"), [("model.video.frames", "8")], schema.RunConfig)
