"""Registries: names of ours and of others, and what is said of a name that is unknown or taken."""

import subprocess
import sys

import pytest

from mmjax.data.mixture import SOURCES
from mmjax.data.text.tokenizer import TOKENIZERS
from mmjax.errors import UserError
from mmjax.registry import Registry


def make_registry():
    return Registry("number", {"half": "fractions:Fraction", "tenth": "decimal:Decimal"}, {"half": ":PATH"})


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


@pytest.mark.parametrize(
    ("name", "near"), [("haf", " (did you mean 'half'?)"), ("TENTH", " (did you mean 'tenth'?)"), ("x", "")]
)
def test_an_unknown_name_is_one_line_with_the_nearest_and_all(name, near):
    with pytest.raises(UserError) as caught:
        make_registry().load(name, where=f"a.b='{name}'")
    assert str(caught.value) == f"a.b='{name}': unknown number '{name}'{near}; write half:PATH or tenth"


def test_a_taken_name_names_both_modules():
    numbers = make_registry()
    with pytest.raises(UserError, match=rf"number 'half' of {__name__} .* of fractions;"):
        numbers.register("half")(make_registry)
    numbers.register("third")(make_registry)
    with pytest.raises(UserError, match=rf"number 'third' of {__name__} .* of {__name__};"):
        numbers.register("third")(make_registry)


def test_every_name_of_ours_can_be_loaded():
    for registry in (SOURCES, TOKENIZERS):
        for name in registry:
            assert callable(registry.load(name, where=name))


def test_sources_are_imported_when_they_are_used():
    code = """if True:
        import sys
        from mmjax.data import mixture
        loaded = lambda: {name.rpartition(".")[2] for name in sys.modules if name.startswith("mmjax.data.sources.")}
        assert not loaded(), loaded()
        mixture.open_source("digits")
        assert loaded() == {"digits"}, loaded()"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_registry_of_one_name_lists_it_alone():
    assert Registry("source", {"mine": "os:sep"}, {"mine": ":FILE"}).usage() == "write mine:FILE"
