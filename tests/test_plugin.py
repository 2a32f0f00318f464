"""The stable surface: every name is there, and is what its module has."""

import ast
import dataclasses
import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, Literal
from unittest import mock

import jax.numpy as jnp
import pytest

from mmjax import plugin, plugin_imports, registry, tasks
from mmjax.config import base_config, from_json, parse, to_json
from mmjax.data.mixture import open_source
from mmjax.errors import UserError
from mmjax.evaluation import evaluation_task
from mmjax.models.config import ModelConfig
from mmjax.models.text_config import TextConfig
from mmjax.nn.config import LayersConfig
from mmjax.objectives.config import LossConfig
from mmjax.objectives.token_loss import TokenLoss
from mmjax.tasks import capabilities, load_objective, make_image_spec
from mmjax.tasks.objective import BatchFeatures, Objective, Settings
from mmjax.tasks.validate_model import _groups, check_model
from mmjax.training import update_rules, validate_run
from tests.helpers import plugin_files, runs

SPEC = make_image_spec(parse(base_config("tiny")))


def checked_imports():
    """What a type checker sees: names by module."""
    (block,) = [node for node in ast.parse(Path(plugin.__file__).read_text()).body if isinstance(node, ast.If)]
    return {alias.name: node.module for node in block.body for alias in node.names if alias.asname == alias.name}


def test_a_type_checker_sees_what_python_finds():
    assert checked_imports() == plugin._MODULES and dir(plugin) == sorted(plugin._MODULES)


@pytest.mark.parametrize("name", plugin._MODULES)
def test_every_name_is_what_its_module_has(name):
    assert getattr(plugin, name) is getattr(importlib.import_module(plugin._MODULES[name]), name)
    assert name in ("REASONS", *vars(registry)) or getattr(plugin, name).__doc__


def test_all_registries_are_there():
    assert {id(known) for known in registry.REGISTRIES.values()} == {
        id(getattr(plugin, name)) for name in dir(plugin) if isinstance(getattr(plugin, name), registry.Registry)
    }


def test_another_name_is_not_there():
    with pytest.raises(AttributeError, match="mmjax.plugin has no 'sauces'; it has RunConfig, REASONS, BadExample"):
        plugin.sauces  # noqa: B018


def test_the_source_of_the_docs_is_one(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    code = text.partition("## Sources and tokenizers of your own")[2].partition("```python\n")[2].partition("```")[0]
    (tmp_path / "source_of_the_docs.py").write_text(code)
    (tmp_path / "7.jpg").write_bytes(b"an image")
    with plugin_files.path_entry(tmp_path):
        plugin_imports.import_plugins(("source_of_the_docs",))
        record = open_source(f"mine:{tmp_path}")[7]
    assert record["image"] == b"an image" and record["captions"] == ["picture 7"]
    imported = {node.module for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)}
    assert imported == {"mmjax.plugin"}


def test_an_objective_is_checked_when_it_is_made():
    """As a plugin makes it, without the run-time types of tests; evaluations and update rules, too."""
    mistakes = {
        "scope='global', needs=()": "scope='global' is not known; choose one of: example, batch",
        "scope='batch', needs='embeddings'": "needs='embeddings' of an Objective wants a tuple of texts",
        "scope='batch', needs=(), features=('embedding',)": "features='embedding' is not known (did you mean 'embedd",
        "scope='example', needs=(), features=('embeddings',)": "are kept for scope='batch'; leave them out",
        "scope='batch', needs=(), contrast=True": "contrast=True wants features=",
        "scope='batch', needs=(), texts=('caption',)": "texts='caption' is not known (did you mean 'captions'?)",
    }
    code = "from mmjax.plugin import EvaluationTask, Objective, UpdateRule, UserError\n"
    for arguments in mistakes:
        code += f"try: Objective(print, {arguments})\nexcept UserError as error: print(error)\n"
    mistakes |= {
        "Objective(3, scope='batch', needs=())": "function=3 of an Objective cannot be called",
        "UpdateRule(3)": "make=3 of an UpdateRule cannot be called",
        "EvaluationTask(title='T', evaluator=None)": "evaluator=None of an EvaluationTask cannot be called",
        "EvaluationTask(title='T', evaluator=print, reads_of_run='decoding')": "reads_of_run='decoding' of an Eval",
    }
    for call in [call for call in mistakes if "(" in call.partition("=")[0]]:
        code += f"try: {call}\nexcept UserError as error: print(error)\n"
    lines = runs.python("-c", code).stdout.splitlines()
    assert len(lines) == len(mistakes)
    assert all(message in line for message, line in zip(mistakes.values(), lines, strict=True)), lines


def test_the_words_of_an_evaluation_are_known():
    mistakes = {
        "reads": (("bootstarp",), "reads=.*'bootstarp' is not known .did you mean 'bootstrap'"),
        "fallback_for": ("nothing", "fallback_for='nothing': 'nothing' is not known"),
        "needs": (("embedings",), "needs=.*'embedings' is not known .did you mean 'embeddings'"),
    }
    with mock.patch.dict(registry.evaluations._entries):
        for field, (value, message) in mistakes.items():
            one = plugin.EvaluationTask(title="T", evaluator=lambda model: print, **{field: value})
            registry.evaluations.register(f"with_{field}")(one)
            with pytest.raises(UserError, match=message):
                evaluation_task.load(f"with_{field}")


def test_what_is_registered_is_of_its_kind():
    with mock.patch.dict(registry.objectives._entries), mock.patch.dict(registry.optimizers._entries):
        registry.objectives.register("mine")(lambda: None)
        registry.optimizers.register("mine")(lambda: None)
        with pytest.raises(UserError, match="objective 'mine' of tests.test_plugin is no Objective"):
            load_objective.load("mine")
        with pytest.raises(UserError, match="optimizer 'mine' of tests.test_plugin is no UpdateRule"):
            update_rules.load("mine")


@dataclasses.dataclass(frozen=True)
class Documented:
    """Fields of a plugin."""

    speed: float = 1.0
    """of something"""


@dataclasses.dataclass(frozen=True)
class Silent:
    """Fields of a plugin, of which one is not documented."""

    speed: float = 1.0


@dataclasses.dataclass(frozen=True)
class Open:
    """Fields of a plugin, of which one has no default."""

    speed: float
    """of something"""


@dataclasses.dataclass(frozen=True)
class Listed:
    """Fields of a plugin, of which one has a type that no config holds."""

    speed: list[float] = dataclasses.field(default_factory=list)
    """of something"""


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Fields of a plugin, of which one is a choice of numbers."""

    speed: Literal[1, 2] = 1
    """of something"""


@dataclasses.dataclass(frozen=True)
class Whole:
    """Fields of a plugin, whose default is an integer."""

    speed: float = 1
    """of something"""


@dataclasses.dataclass(frozen=True)
class Maybe:
    """Fields of a plugin, of which one may be a group."""

    speed: Silent | None = None
    """of something"""


@dataclasses.dataclass(frozen=True)
class Named:
    """Fields of a plugin, of which one has the name of a method."""

    update: float = 1.0
    """of something"""


@dataclasses.dataclass(frozen=True)
class Failing:
    """Fields of a plugin whose defaults do not fit."""

    speed: float = 1.0
    """of something"""

    def __post_init__(self):
        raise ValueError("too fast")


@dataclasses.dataclass
class Changeable:
    """Fields of a plugin that may change."""

    speed: float = 1.0
    """of something"""


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Silent, "config=Silent: speed is not documented; write a line in quotes under it"),
        (Open, "config=Open: speed has no default; give one"),
        (Changeable, "config=Changeable is not frozen"),
        (Listed, r"config=Listed: speed: list\[float\] is no type that a config holds; take bool, int, float, str"),
        (Numbered, r"config=Numbered: speed: typing.Literal\[1, 2\] has others than texts"),
        (Whole, "config=Whole: speed=1, its default, is an integer; write 1.0"),
        (Maybe, "config=Maybe: speed: .* may be a group or not; make it a group, with a field that says so"),
        (Named, "config=Named: update is the name of a method of every group of fields; take another"),
        (Failing, r"config=Failing: Failing\(\) fails: ValueError: too fast"),
    ],
)
def test_the_fields_of_a_plugin_are_frozen_documented_and_have_defaults(cls, message):
    with mock.patch.dict(registry.optimizers._entries):
        registry.optimizers.register("mine", config=cls)(plugin.UpdateRule(lambda settings, params: None))
        with pytest.raises(UserError, match=f"optimizer 'mine' of tests.test_plugin: {message}"):
            base_config("tiny")


def test_a_plugin_that_is_not_used_leaves_no_trace_in_what_is_stored():
    with mock.patch.dict(registry.optimizers._entries):
        registry.optimizers.register("mine", config=Documented)(plugin.UpdateRule(lambda settings, params: None))
        config = base_config("tiny")
        assert config.optimizer.mine.speed == 1.0
        assert "mine" not in json.loads(to_json(parse(config)))["optimizer"]
        config.optimizer.mine.speed = 2.0
        assert json.loads(to_json(parse(config)))["optimizer"]["mine"] == {"speed": 2.0}
        config.optimizer.update(name="mine", mine=dict(speed=1.0))
        assert json.loads(to_json(parse(config)))["optimizer"]["mine"] == {"speed": 1.0}


@dataclasses.dataclass(frozen=True)
class Renamed:
    """Fields of a plugin, of which one was `slowness` once, one is gone, and one is newer than some runs."""

    renamed: ClassVar[dict[str, str]] = {"slowness": "speed", "noise": ""}
    before: ClassVar[dict[str, float]] = {"warmth": 2.0}
    speed: float = 1.0
    """of something"""
    warmth: float = 5.0
    """of something else"""


def test_a_stored_run_of_an_older_plugin_is_read_with_the_names_of_today():
    with mock.patch.dict(registry.optimizers._entries):
        registry.optimizers.register("mine", config=Renamed)(plugin.UpdateRule(lambda settings, params: None))
        stored = json.loads(to_json(parse(base_config("tiny"))))
        stored["optimizer"] |= {"name": "mine", "mine": {"slowness": 3.0, "noise": 1.0}}
        config = from_json(json.dumps(stored))
        assert config.optimizer.mine.to_dict() == {"speed": 3.0, "warmth": 2.0}
        stored["optimizer"] |= {"name": "adamw", "mine": {}}
        assert from_json(json.dumps(stored)).optimizer.mine.to_dict() == {"speed": 1.0, "warmth": 5.0}
        stored["optimizer"]["mine"] = {"sloth": 3.0}
        with pytest.raises(UserError, match="optimizer.mine.sloth is no field"):
            from_json(json.dumps(stored))


def test_metrics_with_the_names_of_the_runs_own_are_refused():
    features = BatchFeatures(None, {"id": jnp.zeros((2, 2), jnp.uint32)}, None, None)
    with mock.patch.dict(registry.objectives._entries):
        for name in ("loss", "logit_scale", "loss_itc"):
            sums = TokenLoss(jnp.zeros(2), jnp.ones(2), {name: jnp.zeros(2)})
            one = Objective(lambda features, settings, sums=sums: sums, scope="example", needs=("embeddings",))
            registry.objectives.register(f"with_{name}")(one)
            with pytest.raises(UserError, match=f"gives a metric '{name}', which is the run's own; rename it"):
                load_objective.load(f"with_{name}").function(features, Settings(LossConfig()))


def test_a_model_says_what_examples_are_prepared_for():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Lonely(ModelConfig):
        kind = "lonely"

    with mock.patch.dict(registry.models._entries):
        registry.models.register("lonely", config=Lonely)(object)
        config = dataclasses.replace(parse(base_config("tiny")), model=Lonely())
        with pytest.raises(UserError, match="model 'lonely' of .*: config=Lonely .*derive it from ImageTextConfig"):
            check_model(config)


def test_sizes_of_a_plugins_group_mean_what_it_says():
    """`heads` and `width` are checked of layers, not of whatever has fields of these names."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Words(TextConfig):
        width: int = 64
        heads: int = 3

    model = parse(base_config("tiny")).model
    group = dataclasses.replace(model.text)
    values = {field.name: getattr(group, field.name) for field in dataclasses.fields(TextConfig)}
    paths = dict(_groups("model", SimpleNamespace(image=model.image, text=Words(**values))))
    assert not isinstance(paths["model.text"], LayersConfig) and isinstance(paths["model.image"], LayersConfig)


def test_what_a_model_can_do_is_what_its_objectives_teach():
    """A plugin's objective alone makes a model that embeds; one that teaches nothing leaves that to others."""
    loss = lambda inputs: (0.0, {})
    kinds = dict(scope="batch", features=("embeddings",))
    with mock.patch.dict(registry.objectives._entries):
        registry.objectives.register("pull")(Objective(loss, needs=("embeddings",), **kinds))
        registry.objectives.register("calm")(Objective(loss, needs=("embeddings",), teaches=(), **kinds))
        config = base_config("tiny")
        config.objectives.pull = 1.0
        assert load_objective.taught(parse(config)) == {"embeddings"}
        assert capabilities.capabilities(tasks.Task(parse(config), SPEC)) == capabilities.EMBEDDING
        config.objectives.update(pull=0.0, calm=1.0)
        assert load_objective.taught(parse(config)) == frozenset()
        assert capabilities.capabilities(tasks.Task(parse(config), SPEC)) == ()
        registry.objectives.register("wrong")(Objective(loss, needs=("embedings",), **kinds))
        with pytest.raises(UserError, match="no model serves 'embedings'.*did you mean 'embeddings'"):
            load_objective.load("wrong")


def test_an_objective_that_draws_without_saying_so_is_refused():
    features = BatchFeatures(None, {"id": jnp.zeros((2, 2), jnp.uint32)}, None, None)
    function = lambda features, settings: TokenLoss(features.draws(1000)[:, None].shape, 1, {})
    with mock.patch.dict(registry.objectives._entries):
        registry.objectives.register("lots")(Objective(function, scope="example", needs=("embeddings",)))
        with pytest.raises(UserError, match="draws at random, but is registered without draws=True; add it"):
            load_objective.load("lots").function(features, Settings(LossConfig()))


def test_a_taken_field_is_no_name():
    with mock.patch.dict(registry.optimizers._entries):
        registry.optimizers.register("b1", config=Documented)(plugin.UpdateRule(lambda settings, params: None))
        with pytest.raises(UserError, match="optimizer 'b1' of tests.test_plugin has the name of a field of Optimiz"):
            base_config("tiny")


def test_fields_of_a_plugin_that_nothing_reads_are_a_mistake():
    uniformity = plugin.Objective(lambda inputs: None, scope="batch", needs=("embeddings",), features=("embeddings",))
    with mock.patch.dict(registry.optimizers._entries), mock.patch.dict(registry.objectives._entries):
        registry.optimizers.register("mine", config=Documented)(plugin.UpdateRule(lambda settings, params: None))
        registry.objectives.register("mine", config=Documented)(uniformity)
        for group, remedy in (("optimizer", "choose one that reads it: mine"), ("loss", "give that a weight")):
            config = base_config("tiny")
            config.objectives.itc, config.data.train = 1.0, "shapes"
            config[group].mine.speed = 2.0
            with pytest.raises(UserError, match=rf"^{group}.mine.speed=2.0 is not read with .*{remedy}"):
                validate_run.check_config(parse(config))


def test_a_kind_that_is_no_text_is_one_line():
    config = base_config("tiny").to_dict()
    config["model"]["kind"] = {"bag": 1}
    with pytest.raises(UserError, match="model.kind={'bag': 1} is not known"):
        parse(config)


def test_embeddings_of_a_plugins_model_are_of_one_space():
    with mock.patch.dict(registry.models._entries):
        registry.models.register("mine", config=Documented)(object)
        model = SimpleNamespace(kind="mine")
        task = SimpleNamespace(config=SimpleNamespace(model=model), model=None, _is_plugins=True)
        task.pairs = (("image", "text", 1.0),)

        def check(*shapes):
            embeddings = dict(zip(("image", "text"), map(jnp.zeros, shapes), strict=True))
            return list(tasks.Task._check_embeddings(task, embeddings).values())

        for shapes in ((4, 8), (4, 8)), ((4, 3, 8), (4, 8)):
            assert [x.shape for x in check(*shapes)] == list(shapes)
        for shapes in ((4, 8), (4, 7)), ((4, 8), (4, 2, 8)), ((3, 8), (4, 8)):
            with pytest.raises(UserError, match=r"model 'mine' of .* gives \[\d, \d\] and text_embedding \["):
                check(*shapes)
        task._is_plugins = False
        assert check((4, 8), (4, 7))  # ours are tested
