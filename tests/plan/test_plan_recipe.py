"""`mmjax plan`."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from mmjax.plan import plan_recipe, plan_text, program, topology
from tests.helpers import runs
from tests.helpers.programs import fake_plan


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v5x:2x2"], "--topology=v5x:2x2: the chip 'v5x' is not known (did you mean 'v5"),
        (["--topology=v5e"], "a slice of v5e has 2 sides; write it like v5e:16x16"),
        (["--topology=v5p:4x4"], "a slice of v5p has 3 sides; write it like v5p:4x4x4"),
        (["--topology=v5e:2x0"], "v5e:16x16"),
        (["--topology=v5e:2x2", "--budget=many"], "--budget=many: give a positive number of examples"),
        (["--topology=v5e:2x2", "--budget=-1"], "--budget=-1"),
        (["--topology=v5e:2x2", "--budget=inf"], "--budget=inf"),
        (["--topology=v5e:2x2", "--sweep=mesh,micro"], "--sweep='micro' is not known (did you mean 'microbatch'?)"),
        (["--topology=v5e:2x2", "--sweep", "--max-compiles=0"], "--max-compiles=0 must be at least 1"),
        (["--topology=v5e:2x2", "--output=nowhere/plan.json"], "--output=nowhere/plan.json: its folder does not exist"),
        (["--topology=v5e:2x2", "--config.stepz=3"], "did you mean 'steps'"),
        ([], "--topology"),
    ],
)
def test_mistakes_are_one_line(flags, message, plan):
    status, out, error = plan(*flags)
    assert status == 2 and not out
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.mesh.data=3"], "mesh.data=3"),
        (["--config.batch_size=12"], "batch_size=12 does not divide over mesh.data x mesh.fsdp = 8 devices; choose 8"),
        (["--config.microbatch=3"], "x microbatch = 3"),
        (["--config.model.image.heads=3"], "model.image.heads=3 does not divide"),
    ],
)
def test_mistakes_in_the_config_are_those_of_training(flags, message, plan, cpu_slice, monkeypatch):
    monkeypatch.setattr(topology, "devices", lambda name: cpu_slice)
    status, _, error = plan("--topology=v5e:2x4", *flags)
    assert status == 2 and message in error and error.count("\n") == 1


def test_without_libtpu_it_says_how_to_get_it(plan, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "libtpu" else find(name, *args)
    )
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    status, _, error = plan("--topology=v5e:2x2")
    assert status == 2 and "pip install 'mmjax[tpu]'" in error and error.count("\n") == 1


def test_the_command_writes_what_it_prints(plan, cpu_slice, quick_set_up, monkeypatch, tmp_path):
    monkeypatch.setattr(topology, "devices", lambda name: cpu_slice)
    monkeypatch.setattr(program, "make_plan", lambda setup, name: fake_plan(setup, name))
    monkeypatch.setattr(plan_text, "render", plan_text.line)
    path = tmp_path / "plan.json"
    flags = ["--topology=v5e:2x4", f"--output={path}"]
    assert plan(*flags, "--config.microbatch=2", "--budget=160")[0] == 0
    written = json.loads(path.read_text())
    assert written["fits"] and written["budget"]["steps"] == 10
    assert plan(*flags)[0] == plan_recipe.EXIT_DOES_NOT_FIT
    assert not json.loads(path.read_text())["fits"]


@pytest.mark.full
def test_a_topology_that_is_not_there(tmp_path):
    """The TPU compiler itself, twice at the same time; the tiny recipe on four chips."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    code = "import sys; from mmjax.cli import main; sys.exit(main.main())"
    started = []
    # In a loop every layer is computed for all tokens, which is what the model's count is of.
    looped = ["--config.model.image.scan=True", "--config.model.text.scan=True"]
    for name, mesh in (("a", ["--config.mesh.fsdp=2", *looped]), ("b", ["--config.mesh.tensor=2", *looped])):
        flags = ["plan", f"--config={runs.RECIPE}", "--topology=v5e:2x2", f"--output={tmp_path}/{name}.json", *mesh]
        environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *flags, "--budget=1e6", "--config.data.train="],
                cwd=runs.ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process, name, axis in zip(started, "ab", ("fsdp", "tensor"), strict=True):
        out, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
        made = json.loads((tmp_path / f"{name}.json").read_text())
        assert made["device"] == "TPU v5 lite" and made["chips"] == 4 and made["mesh"][axis] == 2
        assert made["memory"]["total"] < made["memory"]["capacity"] == int(15.75 * 2**30)
        # The whole model's state is 12 bytes a parameter; it is replicated, being small, but for what tensor splits.
        assert made["memory"]["parameters"] <= 4 * made["parameter_count"]
        assert 0.9 < made["flops"]["chip"] * 4 / made["flops"]["model"] < 3
        assert any(axis in row["axes"] for row in made["collectives"]), made["collectives"]
        assert "chip-hours" in out and not made["unknown_loops"]
