"""Plans of models that are not two towers."""

import importlib.util
import json

import jax
import pytest

from mmjax.config import parse, recipe, set_group
from mmjax.errors import UserError
from mmjax.parallel import mesh as mesh_lib
from mmjax.plan import plan_text, program, sweep, times
from tests.helpers import campaign, media_models, model_kinds
from tests.helpers.programs import compiled_plan


def config(name, **changes):
    mesh = dict(mesh__data=2, mesh__fsdp=2, mesh__tensor=2)
    return parse(model_kinds.config(name, **(dict(batch_size=16) | mesh | changes)))


def test_every_part_that_has_layers_is_asked(cpu_slice):
    settings = config("tiny-albef")
    remats = lambda settings: {name: part.remat for name, part in program.layers(settings.model).items()}
    assert remats(settings) == dict.fromkeys(("image", "text", "fusion"), "auto")
    settings = config("tiny-albef", model__fusion__heads=1)
    groups = list(sweep.candidates(settings, 8, ("mesh", "remat")))
    assert all(candidate.mesh.tensor == 1 for group in groups for candidate in group)
    assert {tuple(remats(group[0]).values()) for group in groups} == {
        (policy,) * 3 for policy in ("none", "dots", "full")
    }
    assert {name: part.heads for name, part in program.layers(config("tiny-captioner-lstm").model).items()} == {
        "image": 2
    }
    assert list(program.layers(config("fusion:joint").model)) == [
        "encoders.image",
        "encoders.series",
        "encoders.table",
        "fusion",
    ]


def test_a_plan_without_a_count_of_flops(cpu_slice, monkeypatch):
    """A step with masked words is set up without its tokenizer's file; another program's compilation stands for it."""
    setup = program.make_setup(config("tiny-vilt", data__tokenizer="json:not_here.json"), cpu_slice)
    mesh = mesh_lib.batch_sharding(setup.mesh)
    small = jax.jit(lambda x: x @ x.T).lower(jax.ShapeDtypeStruct((64, 64), "float32", sharding=mesh))
    monkeypatch.setattr(program.Setup, "lower", lambda self: small)
    plan = program.make_plan(setup, "cpu:8")
    json.dumps(plan)
    assert "model" not in plan["flops"] and "mfu" not in plan["roofline"] and plan["flops"]["chip"] > 0
    text = plan_text.render(plan | {"budget": times.budget(plan, 1e6)})
    assert "MFU" not in text and "model, 3 x" not in text and "remat auto" in text and "executed, all chips" in text
    assert plan_text.line(plan).endswith(")")
    assert [option for option in program.advice(setup) if "remat" in option] == ["--config.model.image.remat=full"]


def test_arrays_have_the_shapes_of_the_data(cpu_slice):
    setup = program.make_setup(config("fusion:concat"), cpu_slice)
    assert {name: x.shape for name, x in setup.batch.items() if name in ("series", "table")} == {
        "series": (16, 32, 4),
        "table": (16, 6),
    }
    with pytest.raises(UserError, match="'image' is that of the data, which have not been looked at; name them in"):
        program.make_setup(config("fusion:concat", data__train=""), cpu_slice)


def in_slot(name, slot):
    """A kind of model that sees another slot than images."""
    kinds = {"video": media_models.VIDEO, "audio": media_models.AUDIO}
    layers = media_models.TOKENS | dict(class_token=name == "tiny-albef")
    kinds["table"] = dict(numeric=4, categories=(4, 6))
    settings = model_kinds.config(name, batch_size=16, data__mean_std="clip")
    model = settings.model.to_dict() | {"image": None, slot: kinds[slot] | layers | dict(kind=slot)}
    set_group(settings, "model", model)
    return parse(settings)


@pytest.mark.parametrize(
    ("name", "slot", "shape"),
    [
        ("tiny-captioner", "video", (16, 4, 16, 16, 3)),
        ("tiny-captioner", "table", (16, 6)),
        *(
            pytest.param(name, "audio", (16, 32, 16), marks=pytest.mark.full)
            for name in campaign.some(["tiny-coca", "tiny-albef", "tiny-qformer", "tiny-prefix_lm"], ["tiny-albef"])
        ),
    ],
)
def test_models_that_see_other_slots_are_planned(cpu_slice, name, slot, shape):
    """The step is traced for all of its inputs; what a batch is on the host is known before."""
    setup = program.make_setup(in_slot(name, slot), cpu_slice)
    assert setup.batch[slot].shape == shape
    assert setup.step.trace(setup.state, setup.batch)
    host = program.host_memory(setup)
    of_slot = setup.batch[slot].size * setup.batch[slot].dtype.itemsize
    assert host["arrays"][slot] == of_slot <= host["batch"] and host["processes"] == 1
    assert host["ready"] == 2 * host["batch"]


FULL_RECIPES = ("clap", "clip4clip:video=frames", "action:video=frames", "action:only=audio")


@pytest.mark.parametrize(
    "recipe_name",
    ["clip4clip", "action", *(pytest.param(name, marks=pytest.mark.full) for name in FULL_RECIPES)],
)
def test_recipes_of_videos_and_sounds_are_planned(cpu_slice, recipe_name):
    setup = program.make_setup(parse(recipe.load_recipe(recipe_name)), cpu_slice)
    assert {"video", "audio"} & set(setup.batch)
    host = program.host_memory(setup)
    text = "\n".join(plan_text.host_table(host))
    assert "Bytes on the host of each of 1 processes" in text and "ready by data.prefetch=2" in text


@pytest.mark.full
def test_texts_in_groups_of_lengths(cpu_slice):
    """A decoder of texts of 12 tokens in place of 64 works less."""
    mesh = dict(mesh__data=8, mesh__fsdp=1, mesh__tensor=1)
    settings = config("tiny-captioner", model__text__context_length=64, batch_size=256, **mesh)
    setups = [program.make_setup(settings, cpu_slice, length) for length in (None, 12.0)]
    assert "text_groups" not in setups[0].batch
    sizes = setups[1].batch["text_groups"].sizes
    assert sum(rows for rows, _ in sizes) == 256 // 8 and sizes[0][1] > sizes[-1][1]
    flops = [setup.lower().compile().cost_analysis()["flops"] for setup in setups]
    assert flops[1] < 0.6 * flops[0]
    with pytest.raises(UserError, match="^--text-length=12: texts are padded: objectives.itm pairs whole texts anew"):
        alone = config("tiny-vilt", objectives__mlm=0.0)
        program.make_setup(alone, cpu_slice, 12.0)


@pytest.mark.full
@pytest.mark.parametrize("name", campaign.some(["albef"], []))
def test_a_plan_of_albef_by_the_tpu_compiler(name, tmp_path):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    flags = [f"--config={name}", "--topology=v5e:2x2", "--config.mesh.fsdp=2"]
    flags += [f"--config.model.{part}.scan=True" for part in ("image", "text", "fusion")]  # unrolled it takes minutes
    plan, printed = compiled_plan(tmp_path, *flags)
    assert plan["device"] == "TPU v5 lite" and plan["chips"] == 4 and set(plan["remat"]) == {"image", "text", "fusion"}
    assert plan["flops"]["chip"] > 1e9 and "MFU" not in printed
    assert plan["memory"]["total"] < plan["memory"]["capacity"]
