"""The scale of the logits that a run starts from or goes on with is kept, or refused in one line before training."""

import math

import jax
import numpy as np
import pytest
import tokenizers

from mmjax import tasks
from mmjax.config import overrides, parse, serialize
from mmjax.config import recipe as recipe_lib
from mmjax.config.field_origins import FieldOrigins
from mmjax.errors import UserError
from mmjax.interop import export
from mmjax.parallel.partition import path_name
from mmjax.training import validate_run
from tests.helpers import runs

RELEASED = 117.33  # SigLIP B/16's


@pytest.fixture(scope="module", autouse=True)
def tokenizer(tmp_path_factory):
    """A tokenizer whose texts end with the id 1, as SigLIP's do."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    vocab = {name: i for i, name in enumerate(["[PAD]", "[SEP]", "[UNK]", "[CLS]", "red", "large"])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.add_special_tokens(["[PAD]", "[SEP]", "[UNK]", "[CLS]"])
    specials = [(name, vocab[name]) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=specials)
    backend.save(str(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        yield


def recipe(**changes):
    """configs/siglip.py at a size and with data for a test."""
    config = recipe_lib.load_recipe("siglip:variant=tiny")
    config.batch_size, config.steps, config.precision = 8, 2, "float32"
    config.data.update(train="shapes", tokenizer="json:tokenizer.json", workers=0)
    config.model.text.vocab_size = 6
    config.schedule.warmup = 1
    config.log.update(every=1, tensorboard=False)
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Files of Hugging Face's with a released scale."""
    folder, config = tmp_path_factory.mktemp("released"), recipe()
    spec = tasks.make_image_spec(parse(config))
    tree = jax.jit(tasks.Task(parse(config), spec).init)(jax.random.key(0))
    params = {path_name(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}
    params["logit_scale"] = np.float32(math.log(RELEASED))
    prepared = dict(size=spec.size, resize="squash", interpolation="bicubic", mean=spec.mean, std=spec.std)
    export.write(folder / "hf", "hf", settings=config.model.to_dict(), preprocessing=prepared, params=params)
    return folder / "hf"


@pytest.fixture(scope="module")
def tuned(released, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tuned")
    assert runs.train(recipe(init_from=str(released)), workdir) is None
    return workdir


@pytest.mark.full
def test_a_released_scale_survives_updates(tuned):
    first, second = (line["logit_scale"] for line in runs.lines(tuned, "train"))
    assert first == pytest.approx(RELEASED, rel=1e-6)  # at the start of the step
    state = runs.arrays(tuned, 2)
    assert second == pytest.approx(RELEASED, rel=1e-2) and second > 100
    assert math.exp(state["['params']['logit_scale']"]) == pytest.approx(RELEASED, rel=1e-2)
    assert state["['params']['logit_scale']"] != np.float32(math.log(RELEASED))  # it is trained


def test_a_limit_below_what_a_run_starts_from_is_refused(released, tmp_path):
    config = recipe(init_from=str(released), model__max_logit_scale=100.0)
    with pytest.raises(UserError) as error:
        runs.train(config, tmp_path / "run")
    assert str(error.value) == (
        f"model.max_logit_scale=100.0: the scale of init_from={str(released)!r} is 117.33, which the first update would"
        " move to 100.0; set --config.model.max_logit_scale=none or leave the scale out of init_paths"
    )
    assert not runs.steps(tmp_path / "run")


@pytest.mark.full
def test_a_scale_that_is_not_taken_or_not_trained(released, tmp_path):
    config = recipe(init_from=str(released), model__max_logit_scale=100.0)
    assert runs.train(config_with(config, init_paths=("image/.*",)), tmp_path / "without") is None
    assert runs.train(config_with(config, optimizer__freeze=("logit_scale",)), tmp_path / "frozen") is None
    assert runs.lines(tmp_path / "frozen", "train")[-1]["logit_scale"] == pytest.approx(RELEASED, rel=1e-6)


def config_with(config, **changes):
    copy = serialize.from_json(serialize.to_json(config))
    copy.steps = 1
    copy.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return copy


@pytest.mark.full
def test_a_limit_below_what_a_run_goes_on_with_is_refused(tuned, released):
    config = recipe(init_from=str(released), model__max_logit_scale=100.0, steps=3)
    with pytest.raises(UserError, match=r"max_logit_scale=100.0: the scale of --workdir=.* is 11\d\.\d+, which the fi"):
        runs.train(config, tuned)
    assert runs.steps(tuned) == [2]
    higher = recipe(init_from=str(released), model__max_logit_scale=200.0, steps=3)
    assert runs.train(higher, tuned) is None  # another limit is no other model


@pytest.mark.parametrize(("text", "value"), [("none", None), ("50", 50.0)])
def test_a_limit_is_set_from_the_command_line(text, value):
    config = recipe_lib.load_recipe("clip:variant=tiny")
    overrides.apply(config, [("model.max_logit_scale", text)])
    assert config.model.max_logit_scale == value
    assert tasks.Task(parse(config), tasks.make_image_spec(parse(config))).max_log_scale == (value and math.log(value))


@pytest.mark.parametrize(("value", "moved"), [("200", "100"), ("0.5", "1.0")])
def test_a_scale_to_start_from_beyond_its_limit_is_refused(value, moved, released):
    config = recipe_lib.load_recipe("clip:variant=tiny")
    config.data.train = "shapes"
    overrides.apply(config, [("model.logit_scale_init", value)])
    with pytest.raises(
        UserError, match=rf"scale of model.logit_scale_init={value}.*first update would move to {moved}"
    ):
        validate_run.check_config(parse(config))
    overrides.apply(config, [("model.max_logit_scale", "none")])
    validate_run.check_config(parse(config))
    overrides.apply(config, [("model.max_logit_scale", "100")])
    stored = {"model.logit_scale_init": float(value)}
    validate_run.check_config(parse(config), FieldOrigins(stored=stored))  # it has learned another one since
    config.optimizer.freeze = ("logit_scale",)  # no update moves it
    validate_run.check_config(parse(config))
    config.optimizer.freeze = ()
    config.init_from = str(released)  # whose scale is checked as it is read
    validate_run.check_config(parse(config))
    config.init_paths = ("image/.*",)
    with pytest.raises(UserError, match="model.logit_scale_init"):
        validate_run.check_config(parse(config))


@pytest.mark.parametrize("value", ["100", "1"])
def test_a_scale_to_start_from_may_lie_at_its_limit(value):
    config = recipe_lib.load_recipe("clip:variant=tiny")
    config.data.train = "shapes"
    overrides.apply(config, [("model.logit_scale_init", value)])
    validate_run.check_config(parse(config))
