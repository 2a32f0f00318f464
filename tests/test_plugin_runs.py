"""Runs with plugins: what checkpoints say of them, the workers of the loader, several processes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mmjax
from mmjax import plugin_imports
from mmjax.cli import info
from mmjax.config import schema, serialize
from mmjax.data.mixture import open_source
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.inference import checkpoint_source
from mmjax.training import resumed_run
from tests.helpers import plugin_files, processes, runs
from tests.helpers.plugin_files import RECIPE, message, one_line

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path):
    """A folder that Python looks for modules in."""
    with plugin_files.path_entry(tmp_path):
        yield tmp_path


# -- checkpoints -------------------------------------------------------------------------------------------------------

STORED = dict(
    module="acme.plugin",
    distribution="acme",
    version="1.1",
    names={"source": ["colours"], "tokenizer": ["letters"], "something new": ["x"]},
)


def test_stored_plugins_are_what_was_written(folder):
    module = plugin_files.write_package(folder, "acme")
    plugin_imports.import_plugins((module,))
    stored = json.loads(json.dumps(plugin_imports.to_meta()))
    (plugin,) = plugin_imports.read_stored(stored, "x")
    assert plugin.names["source"] == ["colours"] and plugin_imports.compare_stored([plugin], "x") == []
    assert plugin_imports.read_stored([], "x") == []


@pytest.mark.parametrize(
    "records",
    [
        None,
        3,
        "acme",
        [3],
        [{}],
        [{"module": "acme"}],
        [STORED | {"module": "acme; rm -rf"}],
        [STORED | {"module": 3}],
        [STORED | {"version": "1\n2"}],
        [STORED | {"version": None}],
        [STORED | {"names": ["source"]}],
        [STORED | {"names": {"source": "\033[31m"}}],
        [STORED | {"more": 1}],
    ],
)
def test_stored_plugins_that_nobody_wrote_are_one_line(records):
    error = message(plugin_imports.read_stored, records, "checkpoint 8 of DIR")
    assert error.startswith("checkpoint 8 of DIR: what its metadata says of plugins cannot be read")


def test_a_name_of_a_plugin_that_is_not_imported_says_which_it_needs(folder):
    plugin_files.write_package(folder, "acme")
    plugins = plugin_imports.read_stored([STORED], "x")
    assert plugin_imports.compare_stored(plugins, "checkpoint 8 of DIR") == []
    assert message(make_tokenizer, "letters", 8) == (
        "data.tokenizer='letters': tokenizer 'letters' is of the plugin acme.plugin (acme 1.1), with which checkpoint 8"
        " of DIR was made; give --plugins=acme.plugin, in Python plugins=('acme.plugin',)"
    )
    assert "source 'colours' is of the plugin acme.plugin (acme 1.1)" in message(open_source, "colours/3")
    assert "acme" not in sys.modules
    plugin_imports.import_plugins(("acme.plugin",))
    assert make_tokenizer("letters", 8) and open_source("colours/3")


def test_another_version_is_a_note(folder):
    module = plugin_files.write_package(folder, "acme")
    plugin_files.write_distribution(folder, "acme", version="1.2", entry_point=module)
    plugin_imports.import_installed()
    plugins = plugin_imports.read_stored([STORED], "x")
    assert plugin_imports.compare_stored(plugins, "checkpoint 8 of DIR") == [
        "note: checkpoint 8 of DIR was made with the plugin acme.plugin (acme 1.1), which is 1.2 here"
    ]


def test_a_stored_config_imports_nothing(folder):
    module = plugin_files.write_package(folder, "acme")
    config = schema.base_config("tiny")
    stored = json.loads(serialize.to_json(config)) | {"plugins": [module]}
    assert serialize.from_json(json.dumps(stored)).plugins == () and "acme" not in sys.modules
    plugin_imports.import_plugins((module,))
    assert serialize.from_json(json.dumps(stored)).plugins == (module,)


CHANGES = dict(
    steps=3,
    data__train="colours",
    data__eval="colours/24",
    data__tokenizer="letters",
    model__text__vocab_size=29,
    model__text__eos_id=2,
    log__writers=("lines",),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run with a plugin's source, tokenizer and log writer, and of the plugin."""
    folder = tmp_path_factory.mktemp("plugin_run")
    with plugin_files.path_entry(folder):
        module = plugin_files.write_package(folder, "acme")
        plugin_imports.import_plugins((module,))
        assert runs.train(runs.config(plugins=(module,), **CHANGES), folder / "run") is None
    return folder


class TestRun:
    """A run that is restored with its plugin and without."""

    @pytest.fixture
    def here(self, trained):
        """The folder of the run, whose plugin is not imported and can be."""
        with plugin_files.path_entry(trained):
            yield trained

    def test_what_it_leaves(self, here):
        meta = checkpoint_source.RunCheckpoint(here / "run").meta
        (record,) = meta["plugins"]
        assert record["module"] == "acme.plugin" and record["version"].startswith("sha256.")
        assert record["names"] == {"source": ["colours"], "tokenizer": ["letters"], "log writer": ["lines"]}
        lines = (here / "run" / "lines.txt").read_text().splitlines()
        assert lines[0] == "train 1" and "eval 3" in lines and lines[-1] == "summary 3"
        assert "acme" not in sys.modules

    def test_loaded(self, here):
        error = message(lambda: mmjax.load(here / "run").encode_text(["red"]))
        assert "tokenizer 'letters' is of the plugin acme.plugin (sha256." in error
        assert f"with which checkpoint 3 of {here / 'run'} was made; give --plugins=acme.plugin" in error
        assert "acme" not in sys.modules
        assert mmjax.load(here / "run", plugins=("acme.plugin",)).encode_text(["red"]).shape[0] == 1

    def test_a_plugin_of_another_version_is_noted(self, here, capsys):
        other = here / "other_version"
        plugin_files.write_package(other, "acme", version="2")
        sys.path.insert(0, str(other))
        mmjax.load(here / "run", plugins=("acme.plugin",))
        assert "was made with the plugin acme.plugin (sha256." in capsys.readouterr().out

    def test_evaluated(self, here, capsys):
        flags = [f"--workdir={here / 'run'}", f"--output={here / 'results.json'}"]
        assert runs.eval_cli(*flags) == 2
        assert "is of the plugin acme.plugin" in one_line(capsys) and "acme" not in sys.modules
        assert runs.eval_cli(*flags, "--plugins=acme.plugin") == 0
        assert json.loads((here / "results.json").read_text())[0]["dataset"] == "colours"

    def test_evaluated_in_a_suite(self, here, capsys):
        (here / "suite.py").write_text(
            "from mmjax.evaluation.suite import jobs\n\n\ndef get_config(arg):\n"
            "    config = jobs.suite_config(collection='three')\n"
            "    config.datasets.three = jobs.dataset('colours/9', 'zeroshot_retrieval')\n    return config\n"
        )
        flags = [f"--workdir={here / 'run'}", f"--output={here / 'suite.json'}", f"--config={here / 'suite.py'}"]
        assert runs.eval_cli(*flags) == 2
        assert "is of the plugin acme.plugin" in one_line(capsys) and "acme" not in sys.modules
        assert runs.eval_cli(*flags, "--plugins=acme.plugin") == 0
        assert json.loads((here / "suite.json").read_text())[0]["dataset"] == "three"

    def test_shown(self, here, capsys):
        assert info.main([str(here / "run")]) == 0
        shown = capsys.readouterr().out
        assert "acme.plugin (sha256." in shown and "source colours, tokenizer letters, log writer lines; not" in shown
        assert info.main([str(here / "run"), "--plugins=acme.plugin"]) == 0
        assert "log writer lines\n" in capsys.readouterr().out

    def test_resumed(self, here, capsys):
        config = runs.config(**CHANGES | {"steps": 4})
        error = message(runs.train, config, here / "run")
        assert "log.writers=('lines',): log writer 'lines' is of the plugin acme.plugin" in error
        assert "was made with the plugin acme.plugin" in capsys.readouterr().out and "acme" not in sys.modules
        plugin_imports.import_plugins(("acme.plugin",))
        with config.unlocked():
            config.plugins = ("acme.plugin",)
        assert runs.train(config, here / "run") is None
        printed = capsys.readouterr().out
        assert "resumed at step 3 of 4" in printed and "plugins: acme.plugin (sha256." in printed
        assert "plugins: ()" not in printed

    def test_a_config_that_needs_it_says_so(self, here):
        meta = checkpoint_source.RunCheckpoint(here / "run").meta
        meta["config"]["optimizer"]["acme"] = {"factor": 2.0}
        error = message(resumed_run.read_config, meta, "--workdir=DIR")
        assert error.startswith("--workdir=DIR: optimizer.acme is no field")
        assert re.search(r"; it was made with acme.plugin \(sha256.*\): give --plugins=acme.plugin, in Python", error)
        meta["config"]["model"] = {"kind": "acme"}
        assert "model.kind='acme' is not known" in message(resumed_run.read_config, meta, "--workdir=DIR")


# -- workers and processes ---------------------------------------------------------------------------------------------


@pytest.mark.full
def test_workers_import_plugins_before_they_unpickle(tmp_path):
    """Batches are those of a run without workers, whose tokenizer comes from the plugin, too."""
    plugin_files.write_package(tmp_path, "acme")
    (tmp_path / "recipe.py").write_text(
        RECIPE.format(plugins=("acme.plugin",)).replace(
            "return config",
            "config.data.tokenizer, config.model.text.vocab_size, config.model.text.eos_id = 'letters', 29, 2\n"
            "    config.log.writers = ('lines',)\n    return config",
        )
    )
    environment = runs.environment(PYTHONPATH=f"{ROOT}:{tmp_path}")
    losses = []
    for workers in (0, 2):
        run = tmp_path / f"run{workers}"
        argv = [f"--config={tmp_path / 'recipe.py'}", f"--workdir={run}", f"--config.data.workers={workers}"]
        done = subprocess.run(
            [sys.executable, ROOT / "train.py", *argv],
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr
        losses.append({step: line["loss"] for (_, step), line in runs.numbers(run, "train").items()})
        assert "plugins: acme.plugin (sha256." in done.stdout
    assert len(losses[0]) == 8 and losses[0] == losses[1]


@pytest.mark.full
@pytest.mark.parametrize("difference", ["version", "missing"])
def test_processes_have_the_same_plugins_or_end_with_one_line(difference, tmp_path):
    for i, version in enumerate(("1", "2" if difference == "version" else "1")):
        plugin_files.write_package(tmp_path / str(i), "acme", version=version)
    environments = [{"PYTHONPATH": f"{ROOT}:{tmp_path / str(i)}"} for i in range(2)]
    if difference == "missing":
        environments[1] = {"PYTHONPATH": str(ROOT)}
    argv = ["train", f"--config={runs.RECIPE}", f"--workdir={tmp_path / 'run'}", "--plugins=acme.plugin"]
    statuses, printed = processes.command(tmp_path, *argv, "--config.data.train=colours", environments=environments)
    assert statuses == [2, 2], printed
    (line,) = [line for line in printed[0].splitlines() if line.startswith("error: ")]
    assert not [line for line in printed[1].splitlines() if line.startswith("error: ")]
    if difference == "version":
        pattern = (
            r"error: plugins: 'acme.plugin' is sha256\.\w+ on \S+ \(process 1\) and sha256\.\w+ on \S+ \(process 0\)"
        )
        assert re.match(pattern, line), line
    else:
        assert re.search(r"--plugins: 'acme.plugin': there is no module 'acme'.* \(process 1 of 2, on \S+\)$", line), (
            line
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.full
def test_processes_train_with_a_plugin(tmp_path):
    plugin_files.write_package(tmp_path, "acme")
    environments = [{"PYTHONPATH": f"{ROOT}:{tmp_path}"}] * 2
    argv = ["train", f"--config={runs.RECIPE}", f"--workdir={tmp_path / 'run'}", "--plugins=acme.plugin"]
    flags = ["--config.data.train=colours", "--config.steps=2", "--config.log.writers=('lines',)"]
    statuses, printed = processes.command(tmp_path, *argv, *flags, environments=environments)
    assert statuses == [0, 0], printed
    assert (tmp_path / "run" / "lines.txt").read_text().splitlines()[:2] == ["train 1", "train 2"]
