"""Plugins: when they are imported, by whom, their versions, and what is said of one that is missing or fails."""

import importlib
import json
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from mmjax import plugin_imports, registry
from mmjax.cli import main
from mmjax.config import load_recipe, schema
from mmjax.config.suite_recipe import load_suite
from mmjax.data.mixture import open_source
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import UserError
from mmjax.evaluation.suite import jobs
from tests.helpers import plugin_files, runs
from tests.helpers.plugin_files import RECIPE, message, one_line

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path):
    """A folder that Python looks for modules in."""
    with plugin_files.path_entry(tmp_path):
        yield tmp_path


# -- importing ---------------------------------------------------------------------------------------------------------


def test_what_a_plugin_registers_is_used_by_name(folder):
    module = plugin_files.write_package(folder, "acme")
    plugin_imports.import_plugins((module,))
    assert len(open_source("colours/9")) == 9
    assert make_tokenizer("letters", 8)(["abc"])[0].tolist() == [[1, 3, 4, 5, 2, 0, 0, 0]]
    assert "did you mean 'colours'" in message(open_source, "colors")
    assert "did you mean 'letters'" in message(make_tokenizer, "leters", 8)


def test_the_base_config_imports_what_it_is_told(folder):
    module = plugin_files.write_package(folder, "acme")
    config = schema.base_config("tiny", plugins=[module])
    assert config.plugins == (module,) and "colours" in registry.sources
    assert schema.parse(config).plugins == (module,)
    assert schema.base_config("tiny").plugins == ()


def test_order_and_repetition_are_harmless(folder):
    one, two = plugin_files.write_package(folder, "acme"), "other"
    (folder / "other.py").write_text(
        "import acme.colours, acme.letters\nfrom mmjax.plugin import sources\n@sources.register('b')\nclass B: ..."
    )
    plugin_imports.import_plugins((two, one, two))
    plugin_imports.import_plugins((one, two))
    assert plugin_imports.modules() == (two, one)
    names = {plugin.module: plugin.names for plugin in plugin_imports.imported()}
    assert names == {two: {"source": ("b", "colours"), "tokenizer": ("letters",), "log writer": ("lines",)}, one: {}}


def test_names_are_a_plugins_though_its_package_was_imported_before(folder):
    module = plugin_files.write_package(folder, "acme")
    __import__("acme.colours")
    plugin_imports.import_plugins((module,))
    (plugin,) = plugin_imports.imported()
    assert plugin.names == {"source": ("colours",), "tokenizer": ("letters",), "log writer": ("lines",)}


def test_a_module_that_a_recipe_imports_is_one_too(folder):
    plugin_files.write_package(folder, "acme")
    assert plugin_imports.modules() == ()
    importlib.import_module("acme.letters")
    (plugin,) = plugin_imports.imported()
    assert plugin.module == "acme.letters" and plugin.names == {"tokenizer": ("letters",), "log writer": ("lines",)}
    assert plugin_imports.is_imported("acme.letters") and not plugin_imports.is_imported("acme.plugin")
    plugin_imports.import_plugins(("acme.plugin",))
    assert plugin_imports.modules() == ("acme.plugin",)


def test_a_tokenizer_of_a_recipe_cannot_go_to_workers(folder):
    (folder / "letters.py").write_text(plugin_files.LETTERS + RECIPE.format(plugins=()))
    load_recipe(f"{folder}/letters.py")
    with pytest.raises(
        UserError, match="'letters' is registered by mmjax_recipe_letters, which workers cannot import; p"
    ):
        pickle.dumps(make_tokenizer("letters", 8))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (
            "acmee",
            r"plugins: 'acmee': there is no module 'acmee' \(did you mean 'acme'\?\); install its package, or put",
        ),
        ("acme.plugni", r"plugins: 'acme.plugni': there is no module 'plugni' in acme \(did you mean 'plugin'\?\)$"),
        ("acme.plugin.x", r"plugins: 'acme.plugin.x': there is no module 'x' in acme.plugin$"),
        ("nothing_like_it.x", r"there is no module 'nothing_like_it'; install its package, or put its folder into"),
        ("", "plugins: '' is no name of a module; write it as import does, such as mypkg.mmjax"),
        ("acme.", "is no name of a module"),
        ("acme-plugin", "is no name of a module"),
        ("acme/plugin.py", "is no name of a module"),
        (" acme", "is no name of a module"),
        (None, "plugins: None is no name of a module"),
    ],
)
def test_a_missing_plugin_is_one_line_with_the_nearest(module, expected, folder):
    plugin_files.write_package(folder, "acme")
    assert re.search(expected, message(plugin_imports.import_plugins, (module,)))
    assert module not in plugin_imports.modules()


def test_one_text_is_no_tuple_of_plugins(folder):
    plugin_files.write_package(folder, "acme")
    wants = "plugins='acme.plugin' wants a tuple of modules, such as ('mypkg.mmjax',)"
    assert message(schema.base_config, plugins="acme.plugin") == wants
    assert "plugins=3 wants a tuple" in message(plugin_imports.import_plugins, 3)


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("x = 1\nx / 0\n", 2, "ZeroDivisionError: division by zero"),
        ("\nimport no_such_dependency\n", 2, "ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("import json\n\njson.loads('{')\n", 3, "JSONDecodeError: Expecting property name"),
        ("def f(:\n", 1, "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)\n", 1, "SystemExit: 3"),
        ("raise ValueError('one\\ntwo')\n", 1, "ValueError: one$"),
        ("import broken_inside.deeper\n", None, "deeper.py, line 1: KeyError: 'x'"),
        ("from mmjax.plugin import sources, Nothing\n", 1, "ImportError: cannot import name 'Nothing'"),
        (
            "from mmjax.plugin import sources\n\n\n@sources.register('wds')\nclass W: ...\n",
            4,
            "'wds' of broken_inside.main has the name of one of mmjax.data.sources.wds",
        ),
    ],
)
def test_a_plugin_that_fails_is_one_line_with_its_file_and_line(text, line, expected, folder):
    (folder / "broken_inside").mkdir()
    (folder / "broken_inside" / "__init__.py").write_text("")
    (folder / "broken_inside" / "deeper.py").write_text("{}['x']\n")
    (folder / "broken_inside" / "main.py").write_text(text)
    error = message(plugin_imports.import_plugins, ("broken_inside.main",), "--plugins")
    assert error.startswith("--plugins: 'broken_inside.main' cannot be imported: ")
    assert re.search(expected, error)
    if line is not None:
        assert f"{folder / 'broken_inside' / 'main.py'}, line {line}: " in error
    assert plugin_imports.modules() == ()


def test_a_plugin_that_was_mended_is_imported(folder):
    (folder / "mended.py").write_text("from mmjax.plugin import sources\n@sources.register('m')\nclass M: ...\n1 / 0\n")
    assert "line 4: ZeroDivisionError" in message(plugin_imports.import_plugins, ("mended",))
    (folder / "mended.py").write_text("from mmjax.plugin import sources\n@sources.register('m')\nclass M: ...\n")
    plugin_imports.import_plugins(("mended",))
    assert plugin_imports.imported()[0].names == {"source": ("m",)}


def test_a_taken_name_of_two_plugins_names_both(folder):
    for name in ("one", "two"):
        (folder / f"{name}_p.py").write_text(
            f"from mmjax.plugin import sources\n@sources.register('m')\nclass {name}: ...\n"
        )
    error = message(plugin_imports.import_plugins, ("one_p", "two_p"))
    assert "source 'm' of two_p has the name of one of one_p; give it another name" in error


# -- installed plugins -------------------------------------------------------------------------------------------------


def test_an_installed_plugin_is_imported_with_the_first_config(folder):
    module = plugin_files.write_package(folder, "acme")
    plugin_files.write_distribution(folder, "acme", version="1.2", entry_point=module)
    assert "colours" not in registry.sources
    assert schema.base_config("tiny").plugins == () and "colours" in registry.sources
    (plugin,) = plugin_imports.imported()
    assert (plugin.module, plugin.distribution, plugin.version) == (module, "acme", "1.2")
    assert str(plugin) == "acme.plugin (acme 1.2)"


def test_a_broken_installed_plugin_says_whose_it_is_and_how_to_go_on(folder, monkeypatch):
    module = plugin_files.write_package(folder, "acme")
    (folder / "acme" / "plugin.py").write_text("1 / 0\n")
    plugin_files.write_distribution(folder, "acme", version="1.2", entry_point=module)
    for _ in range(2):
        assert message(schema.base_config) == (
            f"the plugin 'acme.plugin' of the installed acme 1.2 cannot be imported: {folder}/acme/plugin.py, line 1:"
            " ZeroDivisionError: division by zero; mend or uninstall it, or set MMJAX_INSTALLED_PLUGINS=0 to go on"
            " without such"
        )
    monkeypatch.setenv("MMJAX_INSTALLED_PLUGINS", "0")
    schema.base_config()


def test_an_entry_point_to_nothing(folder):
    plugin_files.write_package(folder, "acme")
    plugin_files.write_distribution(folder, "acme", version="1.2", entry_point="acme.plugni:x")
    assert (
        "of the installed acme 1.2: there is no module 'plugni' in acme (did you mean 'plugin'?); mend or"
        in message(schema.base_config)
    )


def test_only_what_reads_a_config_imports_installed_plugins(tmp_path):
    (tmp_path / "loud").mkdir()
    (tmp_path / "loud" / "__init__.py").write_text("print('LOUD')\n")
    plugin_files.write_distribution(tmp_path, "loud", version="1", entry_point="loud")
    environment = runs.environment(PYTHONPATH=f"{ROOT}:{tmp_path}")

    def printed(code):
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
        ).stdout

    main = "from mmjax.cli import main; main.main({!r})"
    assert "LOUD" not in printed("import mmjax, mmjax.config, mmjax.registry, mmjax.plugin")
    assert "LOUD" not in printed(main.format(["--help"])) and "LOUD" not in printed(main.format(["recipes", "clip"]))
    assert printed(main.format(["train", "--config=clip", "--print-config"])).startswith("LOUD\n")


# -- versions ----------------------------------------------------------------------------------------------------------


def test_the_version_is_the_distributions_where_the_file_is_its(folder):
    module = plugin_files.write_package(folder / "site", "acme")
    sys.path.insert(0, str(folder / "site"))
    plugin_files.write_distribution(folder / "site", "acme", version="1.2")
    plugin_imports.import_plugins((module,))
    assert plugin_imports.imported()[0].version == "1.2"


def test_code_that_shadows_an_installed_package_has_not_its_version(folder):
    for name in ("site", "checkout"):
        module = plugin_files.write_package(folder / name, "acme")
        sys.path.insert(0, str(folder / name))
    plugin_files.write_distribution(folder / "site", "acme", version="1.2")
    plugin_imports.import_plugins((module,))
    (plugin,) = plugin_imports.imported()
    assert plugin.distribution == "" and re.fullmatch(r"sha256\.[0-9a-f]{12}", plugin.version)


def version_of(folder, module):
    with plugin_files.path_entry(folder):
        plugin_imports.import_plugins((module,))
        return plugin_imports.imported()[0].version


def test_without_a_distribution_the_code_is_the_version(tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    versions = []
    for folder, version in zip(folders, ("1", "1", "2"), strict=True):
        module = plugin_files.write_package(folder, "acme", version=version)
        versions.append(version_of(folder, module))
    assert versions[0] == versions[1] != versions[2]
    (tmp_path / "alone.py").write_text("")
    before = version_of(tmp_path, "alone")
    (tmp_path / "another.py").write_text("x = 1\n")
    assert version_of(tmp_path, "alone") == before
    (tmp_path / "alone.py").write_text("x = 1\n")
    assert version_of(tmp_path, "alone") != before


def test_of_an_editable_installation_the_code_counts_too(tmp_path):
    versions = []
    for version in ("1", "2"):
        module = plugin_files.write_package(tmp_path / "source", "acme", version=version)
        info = tmp_path / "site" / "acme-1.2.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.2\n")
        (info / "direct_url.json").write_text(
            json.dumps({"url": f"file://{tmp_path / 'source'}", "dir_info": {"editable": True}})
        )
        with plugin_files.forgotten():
            sys.path[:0] = [str(tmp_path / "source"), str(tmp_path / "site")]
            plugin_imports.import_plugins((module,))
            versions.append(plugin_imports.imported()[0])
    assert [plugin.distribution for plugin in versions] == ["acme", "acme"]
    assert all(plugin.version.startswith("1.2+sha256.") for plugin in versions)
    assert versions[0].version != versions[1].version


# -- recipes, flags, suites --------------------------------------------------------------------------------------------


def test_a_recipe_names_plugins(folder):
    module = plugin_files.write_package(folder, "acme")
    (folder / "mine.py").write_text(RECIPE.format(plugins=(module,)))
    assert load_recipe(f"{folder}/mine.py").plugins == (module,) and "colours" in registry.sources


def test_flags_add_to_the_recipes_plugins(folder):
    module = plugin_files.write_package(folder, "acme")
    (folder / "other.py").write_text("")
    (folder / "mine.py").write_text(RECIPE.format(plugins=(module,)))
    assert load_recipe(f"{folder}/mine.py", ("other", module)).plugins == (module, "other")
    assert plugin_imports.modules() == ("other", module)  # a flag's come before the recipe is run


@pytest.mark.parametrize("plugins", ["acme.plugin", ("acme.plugni",), (3,), None])
def test_a_recipe_that_names_a_plugin_wrongly(plugins, folder):
    plugin_files.write_package(folder, "acme")
    (folder / "mine.py").write_text(RECIPE.format(plugins=plugins))
    assert message(load_recipe, f"{folder}/mine.py").startswith(f"--config={folder}/mine.py: plugins")


def test_a_recipe_that_registers_is_run_twice(folder):
    text = "from mmjax.plugin import sources\n@sources.register('recipes_own')\nclass Own: ...\n"
    (folder / "mine.py").write_text(text + RECIPE.format(plugins=()))
    for _ in range(2):
        load_recipe(f"{folder}/mine.py")
    assert "recipes_own" in registry.sources


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--plugins=acme.plugni"], "--plugins: 'acme.plugni': there is no module 'plugni' in acme (did you mean"),
        (["--plugins="], "--plugins: '' is no name of a module"),
        (["--plugins=acme.plugin,,x"], "--plugins: '' is no name of a module"),
        (
            ["--config.plugins=acme.plugin"],
            "--config.plugins=acme.plugin comes too late for the recipe; give --plugins=",
        ),
        (["--plugin=acme.plugin"], "did you mean '--plugins'"),
        (["--plugins=acme.plugin", "--config.data.train=colors"], "unknown source 'colors' (did you mean 'colours'?)"),
        (["--plugins=acme.plugin", "--config.data.train=colours/x"], "data.train='colours/x': 'x' is no number"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(flags, expected, folder, capsys):
    plugin_files.write_package(folder, "acme")
    assert runs.train_cli(f"--workdir={folder / 'run'}", *flags) == 2
    assert expected in one_line(capsys)
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--config=clip", "--print-config"],
        ["plan", "--config=clip", "--topology=v5e:2x2"],
        ["eval", "--workdir=x"],
        ["eval", "--workdir=x", "--config=eval"],
        ["search", "--workdir=x", "--images=x", "text"],
        ["convert", "a", "b", "--to=hf"],
        ["info", "x"],
    ],
    ids=" ".join,
)
def test_every_command_that_reads_a_config_takes_plugins(argv, folder, capsys):
    (folder / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "pictures" / "one.png")
    argv = [word.replace("--images=x", f"--images={folder / 'pictures'}") for word in argv]
    assert main.main([*argv, "--plugins=acme.plugin"]) == 2
    assert "--plugins: 'acme.plugin': there is no module 'acme'" in one_line(capsys)


def test_a_suite_names_plugins(folder):
    module = plugin_files.write_package(folder, "acme")
    text = "from mmjax.evaluation.suite import jobs\ndef get_config(arg):\n    return jobs.suite_config(plugins={!r})\n"
    (folder / "suite.py").write_text(text.format((module,)))
    suite, _ = load_suite(f"{folder}/suite.py")
    assert suite.plugins == (module,) and "colours" in registry.sources
    assert jobs.suite_config().plugins == ()


def test_training_imports_nothing_that_a_config_says(folder):
    module = plugin_files.write_package(folder, "acme")
    error = message(runs.train, runs.config(plugins=(module,)), folder / "run")
    assert f"plugins={(module,)!r}: {module!r} has not been imported; name it in the recipe, base_config(" in error
    assert "acme" not in sys.modules


# -- the stable surface ------------------------------------------------------------------------------------------------


def test_the_stable_surface_is_quick_to_import():
    code = "import sys; from mmjax.plugin import sources, models, UserError; print({'jax', 'numpy'} & set(sys.modules))"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n" and time.perf_counter() - start < 10
