"""Plugins as files: packages of others that register a source, a tokenizer, a writer of logs and a model."""

import contextlib
import importlib
import sys
from unittest import mock

import pytest

from mmjax import plugin_imports, registry
from mmjax.errors import UserError

# A source of three colours.
COLOURS = '''
import numpy as np

from mmjax.plugin import Record, SourceOptions, UserError, sources, stable_id

VERSION = "{version}"


@sources.register("colours", "[/N]")
class Colours:
    """Images of one colour each."""

    class_names = templates = None
    name = "colours"

    def __init__(self, text, *, options: SourceOptions, field):
        if text and not text.isdigit():
            raise UserError(f"{{field}}='colours/{{text}}': {{text!r}} is no number")
        self.length = int(text or 60)

    def __len__(self):
        return self.length

    def __getitem__(self, index) -> Record:
        colour = index % 3
        image = np.full((20, 20, 3), 40, np.uint8)
        image[..., colour] = 200
        return Record(id=stable_id("colours", colour), image=image, captions=[["red", "green", "blue"][colour]])
'''

# A tokenizer of letters, and a writer of one file. Nothing of the source's module imports this one.
LETTERS = '''
from mmjax.plugin import Tokenizer, log_writers, tokenizers


def encode(texts, length):
    return [[1, *(3 + (ord(letter) - 97) % 26 for letter in text)][: length - 1] + [2] for text in texts]


@tokenizers.register("letters")
def make_letters(spec, context_length):
    """Letters a to z."""
    return Tokenizer(
        spec=spec, context_length=context_length, vocab_size=29, bos_id=1, eos_id=2, pad_id=0, special_ids=(0, 1, 2),
        cleaning="none", encode=lambda texts: encode(texts, context_length),
        decode_words=lambda ids: "".join(chr(94 + i) for i in ids),
    )


@log_writers.register("lines")
class Lines:
    """A file of steps."""

    def __init__(self, workdir, *, settings, name, fields):
        self.path = workdir / "lines.txt"

    def resume(self, step, *, evaluated):
        pass

    def write(self, step, kind, metrics):
        with self.path.open("a") as file:
            file.write(f"{kind} {step}\\n")

    def flush(self):
        pass

    def close(self):
        pass
'''


# A recipe that trains on the source.
RECIPE = """
from tests.helpers import tiny_recipe

def get_config(arg):
    config = tiny_recipe.get_config()
    with config.unlocked(), config.ignore_type():
        config.plugins = {plugins!r}
    config.data.train = "colours"
    return config
"""


def write_package(folder, name, *, version="1"):
    """Writes a package whose module `NAME.plugin` registers what is above; returns that module's name."""
    package = folder / name
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "plugin.py").write_text(f"import {name}.colours\nimport {name}.letters\n")
    (package / "colours.py").write_text(COLOURS.format(version=version))
    (package / "letters.py").write_text(LETTERS)
    return f"{name}.plugin"


def write_distribution(folder, name, *, version, entry_point=None):
    """Writes what pip leaves of an installed package of that name, with its files; its package is there."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    files = [path.relative_to(folder) for path in (folder / name).rglob("*.py")]
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))
    if entry_point:
        (info / "entry_points.txt").write_text(f"[{plugin_imports.GROUP}]\n{name} = {entry_point}\n")


@contextlib.contextmanager
def path_entry(folder):
    """A folder that Python looks for modules in; what is imported from it is forgotten behind."""
    with forgotten():
        sys.path.insert(0, str(folder))
        yield folder


@contextlib.contextmanager
def forgotten():
    """What is imported and registered within is forgotten behind it, and no installed plugin is known before."""
    entries = {kind: dict(known._entries) for kind, known in registry.REGISTRIES.items()}
    modules, path = set(sys.modules), list(sys.path)
    importlib.invalidate_caches()
    plugin_imports._origin.cache_clear()
    with (
        mock.patch.object(plugin_imports, "_imported", {}),
        mock.patch.object(plugin_imports, "_installed_are_imported", False),
        mock.patch.object(sys, "dont_write_bytecode", True),
    ):
        yield
    for kind, known in registry.REGISTRIES.items():
        known._entries, known._absent = entries[kind], {}
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file and not any(file.startswith(folder) for folder in path if folder):
            del sys.modules[name]
    plugin_imports._origin.cache_clear()


def message(function, *args, **options):
    """The one line of the mistake that a function raises."""
    with pytest.raises(UserError) as caught:
        function(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def one_line(capsys):
    """The single line on standard error."""
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return text
