"""Registries: names of ours and of others, and what is said of a name that is unknown or taken."""

import ast
import collections
import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from mmjax import registry
from mmjax.config import kinds, schema
from mmjax.data.mixture import open_source
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import UserError
from mmjax.models.config import ModelConfig
from mmjax.registry.named_items import Registry


def make_registry():
    return Registry(
        "number",
        {"half": "fractions:Fraction", "tenth": "decimal:Decimal"},
        {"half": ":PATH"},
        {"half": "mmjax.models.config:CoCaConfig"},
    )


@pytest.fixture
def registered():
    """What a test registers is forgotten behind it."""
    before = {kind: dict(known._entries) for kind, known in registry.REGISTRIES.items()}
    yield
    for kind, known in registry.REGISTRIES.items():
        known._entries, known._absent = before[kind], {}


def test_a_name_of_ours_is_what_its_module_has():
    import fractions

    assert make_registry().load("half", where="a.b='half:x'") is fractions.Fraction


def test_what_others_register_is_found_and_listed_like_ours():
    numbers = make_registry()

    @numbers.register("third", "[/N]")
    class Third:
        pass

    assert numbers.load("third", where="a.b='third'") is Third
    assert list(numbers) == ["half", "tenth", "third"] and "third" in numbers and "fourth" not in numbers
    assert numbers.usage() == "write half:PATH, tenth or third[/N]"
    assert numbers.module("third") == __name__ and numbers.module("half") == "fractions"


def test_a_name_brings_the_dataclass_of_its_fields():
    numbers = make_registry()

    @dataclasses.dataclass(frozen=True)
    class Fields:
        size: int = 3

    numbers.register("third", config=Fields)(len)
    assert numbers.config_class("third", where="x") is Fields
    assert numbers.config_class("tenth", where="x") is None
    assert numbers.config_class("half", where="x").kind == "coca"
    with pytest.raises(UserError, match=r"x: unknown number 'thrid' \(did you mean 'third'\?\)"):
        numbers.config_class("thrid", where="x")


@pytest.mark.parametrize(
    ("name", "near"),
    [("haf", " (did you mean 'half'?)"), ("TENTH", " (did you mean 'tenth'?)"), ("x", ""), (None, ""), (3, "")],
)
def test_an_unknown_name_is_one_line_with_the_nearest_and_all(name, near):
    with pytest.raises(UserError) as caught:
        make_registry().load(name, where=f"a.b='{name}'")
    assert str(caught.value) == f"a.b='{name}': unknown number {name!r}{near}; write half:PATH or tenth"
    with pytest.raises(UserError) as caught:
        make_registry().validate_choice("a.b", name)
    assert str(caught.value) == f"a.b={name!r} is not known{near}; choose one of: half:PATH, tenth"
    assert make_registry().validate_choice("a.b", "half", "half:x") == "half"


def test_a_name_that_somebody_else_would_register_says_who():
    numbers = make_registry()
    numbers.note_absent("third", "of the plugin p; give --plugins=p")
    for fail in (
        lambda: numbers.load("third", where="a.b='third:x'"),
        lambda: numbers.validate_choice("a.b", "third", "third:x"),
    ):
        with pytest.raises(UserError) as caught:
            fail()
        assert str(caught.value) == "a.b='third:x': number 'third' is of the plugin p; give --plugins=p"
    numbers.register("third")(len)
    assert numbers.load("third", where="x") is len


def test_a_taken_name_names_both_modules():
    numbers = make_registry()
    with pytest.raises(UserError, match=f"^number 'half' of {__name__} has the name of one of fractions; give it"):
        numbers.register("half")(make_registry)
    assert numbers.load("half", where="x").__name__ == "Fraction"


def test_a_name_taken_by_the_same_module_names_both_things():
    numbers = make_registry()
    numbers.register("third")(make_registry)
    with pytest.raises(UserError, match=f"'third' of {__name__} is registered twice, for make_registry and reg"):
        numbers.register("third")(registered)


def test_two_things_of_one_kind_under_one_name_are_refused():
    numbers = make_registry()
    numbers.register("third")(collections.Counter(a=1))
    with pytest.raises(UserError, match=f"'third' of {__name__} is registered twice, for Counter and Counter"):
        numbers.register("third")(collections.Counter(b=1))


@pytest.mark.parametrize(
    ("known", "arguments", "message"),
    [
        (registry.optimizers, dict(form=":FILE"), "form means nothing for optimizers; leave it out"),
        (registry.sources, dict(config=ModelConfig), "means nothing for sources; leave it out"),
        (registry.log_writers, dict(config=ModelConfig), "means nothing for log writers; leave it out"),
        (registry.models, {}, "config is missing; give the dataclass of its fields, which has kind = 'mine'"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(known, arguments, message):
    with pytest.raises(UserError, match=f"{known.kind} 'mine' of {__name__}: .*{message}"):
        known.register("mine", **arguments)


MODULE = "from mmjax import registry\n@registry.sources.register('mine')\nclass Mine:\n    number = {}\n"


def test_a_module_that_runs_again_takes_the_place_of_what_it_registered(tmp_path, monkeypatch, registered):
    (tmp_path / "some_sources.py").write_text(MODULE.format(1))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.import_module("some_sources")
    (tmp_path / "some_sources.py").write_text(MODULE.format(2))
    try:
        importlib.reload(module)
        assert registry.sources.load("mine", where="x").number == 2 and list(registry.sources).count("mine") == 1
    finally:
        del sys.modules["some_sources"]


@pytest.mark.parametrize(
    "name", ["", " x ", "a b", "a:b", "a/b", "a@2", "a+b", "Mine", "1a", "a-b", "é", "x\n", None, 3]
)
def test_an_odd_name_is_refused(name):
    with pytest.raises(UserError, match=f"of {__name__}: a name has lower-case letters, digits and _"):
        make_registry().register(name)


@pytest.mark.parametrize("form", ["FILE", "/N", " ", ": x", "[x]", None])
def test_an_odd_form_is_refused(form):
    with pytest.raises(UserError, match="number 'third' of .*: form="):
        make_registry().register("third", form)


@pytest.mark.parametrize("config", [dict, {}, "x", ModelConfig()])
def test_a_config_that_is_no_dataclass_is_refused(config):
    with pytest.raises(UserError, match="number 'third' of .* must be a dataclass"):
        make_registry().register("third", config=config)


@pytest.mark.parametrize("known", registry.REGISTRIES.values(), ids=lambda known: known.kind)
def test_every_name_of_ours_can_be_loaded(known):
    for name in known:
        assert known.load(name, where=name) is not None


def test_every_name_of_ours_is_written_once_in_one_file():
    """In `registry/__init__.py`, where a newcomer sees all of them."""
    for path in Path(registry.__file__).parent.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        made = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Registry"]
        assert bool(made) == (path == Path(registry.__file__))


def test_sources_are_imported_when_they_are_used():
    code = """if True:
        import sys
        from mmjax.data import mixture
        loaded = lambda: {name.rpartition(".")[2] for name in sys.modules if name.startswith("mmjax.data.sources.")}
        assert not loaded(), loaded()
        mixture.open_source("digits")
        assert loaded() == {"digits"}, loaded()"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_registry_is_quick_to_import():
    code = "import sys, mmjax.registry; assert not {'numpy', 'jax', 'ml_collections'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_registry_of_one_name_lists_it_alone():
    assert Registry("source", {"mine": "os:sep"}, {"mine": ":FILE"}).usage() == "write mine:FILE"


class Letters:
    """A source of three records."""

    class_names = templates = None

    def __init__(self, text, *, options, field):
        self.name, self.text, self.options, self.field = "letters", text, options, field

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return {"id": index, "captions": ["abc"[index]]}


def test_sources_of_others_are_made_like_ours(registered):
    registry.sources.register("letters", ":DIR")(Letters)
    registry.sources.register("alphabet", "[/N]")(Letters)
    source = open_source("letters:some/folder", field="data.eval")
    assert (source.text, source.field, source.options.order) == ("some/folder", "data.eval", "global")
    assert open_source("alphabet").text == "" and open_source("alphabet/7").text == "7"
    for spec, message in (
        ("leters:x", "unknown source 'leters' (did you mean 'letters'?)"),
        ("letters", "says no path; write letters:DIR"),
        ("alphabet:7", "':7' cannot follow 'alphabet'"),
    ):
        with pytest.raises(UserError) as caught:
            open_source(spec)
        assert message in str(caught.value)


def test_splits_are_checked_for_others_too(registered):
    @registry.sources.register("parted", "[/SPLIT]")
    class Parted(Letters):
        splits = ("val", "rest")

        def __init__(self, split):
            super().__init__(split, options=None, field="")

    assert open_source("parted").text == "val" and open_source("parted/rest").text == "rest"
    with pytest.raises(UserError, match=r"split='rset' is not known \(did you mean 'rest'\?\)"):
        open_source("parted/rset")


def test_what_is_no_source_or_tokenizer_is_one_line(registered):
    @registry.sources.register("half_made")
    class HalfMade:
        name, class_names = "half", None

        def __init__(self, text, *, options, field):
            pass

    registry.tokenizers.register("none_at_all")(lambda spec, context_length: None)
    with pytest.raises(UserError, match="data.train='half_made': HalfMade is no source, as it has no templates"):
        open_source("half_made")
    with pytest.raises(UserError, match="data.tokenizer='none_at_all': what it names made a NoneType, not a Tokenizer"):
        make_tokenizer("none_at_all", 8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MineConfig(ModelConfig):
    """A model of others."""

    kind = "mine"
    size: int = 3
    """of it"""


def test_a_model_of_others_brings_its_fields(registered):
    registry.models.register("mine", config=MineConfig)(Letters)
    config = schema.base_config()
    schema.set_group(config, "model", {"kind": "mine", "size": 4})
    parsed = schema.parse(config)
    assert isinstance(parsed.model, MineConfig) and parsed.model.size == 4
    with pytest.raises(UserError, match=r"model.sise is no field \(did you mean 'size'\?\)"):
        schema.set_group(config, "model", {"kind": "mine", "sise": 4})
    with pytest.raises(UserError, match=r"model.kind='mien' is not known \(did you mean 'mine'\?\)"):
        schema.set_group(config, "model", {"kind": "mien"})


@pytest.mark.parametrize("config", [Registry, dataclasses.make_dataclass("Other", [])])
def test_a_model_without_a_config_of_its_kind_is_one_line(config, registered):
    if config is Registry:
        config = dataclasses.dataclass(frozen=True)(type("Other", (ModelConfig,), {"kind": "other"}))
    registry.models.register("mine", config=config)(Letters)
    with pytest.raises(UserError, match=f"model 'mine' of {__name__} is registered with config="):
        kinds.class_of_kind(ModelConfig, {"kind": "mine"}, "model")
