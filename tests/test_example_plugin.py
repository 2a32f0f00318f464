"""examples/plugin: one of everything, trained, killed, resumed, evaluated and loaded as an installed package."""

import json
import re
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest

from tests.helpers import processes, runs

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "plugin"


def test_it_imports_the_stable_surface_alone():
    text = "".join(path.read_text() for path in (EXAMPLE / "rings").glob("*.py"))
    assert set(re.findall(r"(?:from|import) (mmjax[.\w]*)", text)) == {"mmjax.plugin"}


def test_the_docs_tell_this_example():
    text = (ROOT / "docs" / "extending.md").read_text()
    code = "".join(path.read_text() for path in sorted(EXAMPLE.rglob("*.py")) + [EXAMPLE / "pyproject.toml"])
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 8
    assert not [block for block in blocks if block.rstrip() not in code]


class Environment:
    """A new environment with the example in it; mmjax and its dependencies are borrowed from this one."""

    def __init__(self, folder, *, installed):
        self.folder = folder
        venv.create(folder / "env", with_pip=False)
        self.python = folder / "env" / "bin" / "python"
        (site,) = (folder / "env" / "lib").glob("python*/site-packages")
        (site / "borrowed.pth").write_text(f"{ROOT}\n{sysconfig.get_paths()['purelib']}\n")
        if installed:
            pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "-q", "--no-deps"]
            pip += ["--no-index", "--no-build-isolation", str(EXAMPLE)]
            subprocess.run(pip, check=True, capture_output=True)

    def start(self, *words, **environment):
        variables = runs.environment(HOME=str(self.folder), **environment)
        variables.pop("PYTHONPATH", None)
        arguments = [str(self.python), *map(str, words)]
        return subprocess.Popen(
            arguments, cwd=self.folder, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def run(self, *words):
        """Exit status and output."""
        process = self.start(*words)
        output, _ = process.communicate(timeout=240)
        return process.returncode, output

    def mmjax(self, command, *flags):
        return self.run(ROOT / f"{command}.py", *flags)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("installed"), installed=True)


TRAIN = (f"--config={EXAMPLE / 'recipe.py'}", "--config.checkpoint.every=20", "--config.log.every=1")
PLAIN = "--config.log.tensorboard=false"


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def killed(environment, workdir, *flags):
    """Trains until the checkpoint of step 20 is there, and kills the process."""
    process = environment.start(ROOT / "train.py", *TRAIN, PLAIN, f"--workdir={workdir}", *flags)
    until = time.monotonic() + 200
    while not (workdir / "checkpoints" / "20" / "_CHECKPOINT_METADATA").exists() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.full
def test_a_run_that_is_killed_goes_on_as_if_nothing_had_happened(installed):
    """Two workers read the plugin's source with the plugin's tokenizer; the entry point is what names the plugin."""
    folder = installed.folder
    status, output = installed.mmjax("train", *TRAIN, PLAIN, f"--workdir={folder / 'whole'}")
    assert status == 0, output
    assert "plugins: rings (mmjax-rings 0.1.0)" in output and "(corrupt: 4)" in output
    killed(installed, folder / "killed", "--config.data.workers=2")
    assert len(losses(folder / "killed")) < 60
    status, output = installed.mmjax(
        "train", *TRAIN, PLAIN, f"--workdir={folder / 'killed'}", "--config.data.workers=2"
    )
    assert status == 0 and "resumed at step" in output, output
    assert losses(folder / "killed") == losses(folder / "whole")
    rows = [line.split(",") for line in (folder / "killed" / "loss.csv").read_text().splitlines()]
    assert {int(step): float(loss) for step, loss in rows} == losses(folder / "whole")
    line = json.loads((folder / "whole" / "metrics.jsonl").read_text().splitlines()[-2])
    assert line["rings/test/acc1"] > 0.9


@pytest.fixture(scope="module")
def trained(installed):
    workdir = installed.folder / "trained"
    status, output = installed.mmjax("train", *TRAIN, PLAIN, f"--workdir={workdir}", "--config.steps=20")
    assert status == 0, output
    return workdir


@pytest.mark.full
def test_it_is_evaluated_and_loaded(installed, trained):
    status, output = installed.mmjax("eval", f"--workdir={trained}")
    assert status == 0, output
    records = {record["task"]: record["metrics"] for record in json.loads((trained / "eval" / "20.json").read_text())}
    assert records["modality_gap"]["gap"] > 0
    suite = installed.folder / "suite.py"
    suite.write_text(
        "from mmjax.config import dataset, suite_config\n"
        "def get_config(arg):\n"
        "    config = suite_config(plugins=('rings',))\n"
        "    tasks = ('zeroshot_classification', 'modality_gap')\n"
        "    config.datasets['rings'] = dataset('rings/test', *tasks)\n"
        "    config.modality_gap.captions = 2\n"
        "    config.collections['embedded'] = ('rings',)\n"
        "    return config\n"
    )
    status, output = installed.mmjax("eval", f"--workdir={trained}", f"--config={suite}", "--output=suite.json")
    assert status == 0, output
    of_suite = {line["task"]: line["metrics"] for line in json.loads((installed.folder / "suite.json").read_text())}
    assert of_suite["zeroshot_classification"]["acc1"] == records["zeroshot_classification"]["acc1"]
    assert of_suite["modality_gap"] == records["modality_gap"]
    code = f"import mmjax; print(mmjax.load({str(trained)!r}).encode_text(['a small red ring']).shape)"
    assert installed.run("-c", code)[1].splitlines()[-1] == "(1, 32)"


@pytest.mark.full
def test_several_modalities_with_its_encoder(installed):
    flags = ("--config.steps=4", "--config.schedule.warmup=1", "--config.data.eval=", PLAIN)
    status, output = installed.mmjax(
        "train", f"--config={EXAMPLE / 'fused.py'}", f"--workdir={installed.folder / 'fused'}", *flags
    )
    assert status == 0, output


@pytest.mark.full
def test_a_checkpoint_imports_nothing_by_itself(trained, tmp_path):
    """Where the package merely lies on the path it must be named; by the checkpoint it is not."""
    bare = Environment(tmp_path, installed=False)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "example.pth").write_text(f"{EXAMPLE}\n")
    status, output = bare.mmjax("eval", f"--workdir={trained}", "--output=result.json")
    assert status == 2 and "'bag' is of the plugin rings (mmjax-rings 0.1.0)" in output, output
    assert output.count("give --plugins=rings") == 1
    status, output = bare.mmjax("eval", f"--workdir={trained}", "--output=result.json", "--plugins=rings")
    assert status == 0 and "made with" in output, output  # another version: a note


@pytest.mark.full
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("optimizer.name=adn", "optimizer.name='adn' is not known (did you mean 'adan'?)"),
        ("optimizer.adan.b4=1", "optimizer.adan has no field 'b4'; it has: b3"),
        ("optimizer.adan.b3=x", "optimizer.adan.b3=x: wants a number, and has 0.98 now"),
        ("loss.uniformity.sharpnes=2", "loss.uniformity has no field 'sharpnes' (did you mean 'sharpness'?)"),
        ("objectives.alignmen=1", "objectives has no field 'alignmen' (did you mean 'alignment'?)"),
        ("objectives.alignment=-1", "objectives.alignment=-1.0 must be finite and must not be negative"),
        ("eval.tasks=modality_gab", "eval.tasks='modality_gab' is not known (did you mean 'modality_gap'?)"),
        ("eval.modality_gap.caption=2", "eval.modality_gap has no field 'caption' (did you mean 'captions'?)"),
        ("log.writers=csvv", "log.writers=('csvv',) is not known (did you mean 'csv'?)"),
        ("data.tokenizer=leters", "data.tokenizer='leters' is not known (did you mean 'letters'?)"),
        ("data.train=rinsg", "data.train='rinsg': unknown source 'rinsg' (did you mean 'rings'?)"),
        ("data.train=rings/tran", "'tran' is not known (did you mean 'train'?)"),
        ("model.kind=bg", "model.kind='bg' is not known (did you mean 'bag'?)"),
        ("model.text.vocab=8", "model.text has no field 'vocab' (did you mean 'vocab_size'?)"),
    ],
)
def test_mistakes_are_one_line_as_ours_are(installed, flag, message):
    status, output = installed.mmjax("train", *TRAIN, f"--workdir={installed.folder / 'mistake'}", f"--config.{flag}")
    assert status == 2 and message in output.splitlines()[-1]
    assert not (installed.folder / "mistake").exists()


@pytest.mark.full
def test_two_processes_train_as_one(installed, trained):
    port = processes.free_port()
    flags = (PLAIN, f"--workdir={installed.folder / 'two'}", "--config.steps=20", "--processes=2")
    started = [
        installed.start(
            ROOT / "train.py",
            *TRAIN,
            *flags,
            f"--coordinator=127.0.0.1:{port}",
            f"--process={number}",
            JAX_NUM_CPU_DEVICES="1",
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    expected = losses(trained)
    assert losses(installed.folder / "two") == pytest.approx(expected, rel=1e-5)
