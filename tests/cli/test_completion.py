"""`mmjax completion`: flags as the commands' parsers have them, and scripts that shells run."""

import importlib
import shutil
import subprocess
import sys

import pytest

from mmjax.cli import completion, main, runtime
from mmjax.inference import convert


@pytest.mark.parametrize("command", completion.FLAGS)
def test_flags_are_those_of_the_parser(command, monkeypatch):
    parsers = []
    monkeypatch.setattr(runtime, "run", lambda parser, argv, run: parsers.append(parser) or 0)
    importlib.import_module(f"mmjax.cli.{command}").main([])
    (parser,) = parsers
    flags, choices = set(), {}
    for action in parser._actions:
        names = [name for name in action.option_strings if name.startswith("--") and action.help != "==SUPPRESS=="]
        # A flag whose value may be left out is completed without one.
        takes_value = action.nargs != 0 and action.nargs != "?"
        flags |= {name + "=" * takes_value for name in names}
        choices |= {name: tuple(action.choices) for name in names if action.choices}
    assert flags == {*completion.FLAGS[command], "--help"}
    assert choices == ({"--resume": completion.RESUME} if command == "train" else {})


def test_all_commands_and_formats_are_completed():
    assert list(completion.FLAGS) == list(main.COMMANDS) and completion.FORMATS == convert.FORMATS


def bash(*words, line=""):
    """What bash offers for a line that ends at the cursor, as readline splits it."""
    code = completion.script("bash") + "\ncompopt() { :; }\n"
    code += f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'; COMP_POINT={len(line)}\n"
    code += "_mmjax; printf '%s\\n' \"${COMPREPLY[@]}\""
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash():
    assert bash("mmjax", "se", line="mmjax se") == ["search"]
    assert bash("mmjax", "train", "--res", line="mmjax train --res") == [
        "--resume=",
        "--resume=auto",
        "--resume=must",
        "--resume=never",
    ]
    assert bash("mmjax", "train", "--config", "=", "cli", line="mmjax train --config=cli") == ["clip", "clip4clip"]
    assert bash("mmjax", "eval", "--config.ema", line="mmjax eval --config.ema") == ["--config.ema_decay="]
    assert bash("mmjax", "train", "--workdir", "=", "no", line="mmjax train --workdir=no") == []


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh():
    # `compadd` is for widgets: here it prints what it is called with.
    stubs = 'compdef() { :; }; compset() { :; }; _files() { echo files; }; compadd() { print -r -- "$@"; }\n'
    run = lambda words, current: subprocess.run(
        ["zsh", "-f", "-c", f"{stubs}{completion.script('zsh')}\nwords=({words}); CURRENT={current}; _mmjax"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    assert run("mmjax s", 2)[0].split()[:3] == ["--", "train", "eval"]
    with_values, plain, _ = run("mmjax convert --t", 3)
    assert with_values.startswith("-S  -- --to= ") and "--to=hf" in plain and "--to= " not in plain


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish():
    run = lambda line: subprocess.run(
        ["fish", "--no-config", "-c", f"{completion.script('fish')}\ncomplete -C '{line}'"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert run("mmjax rec") == ["recipes"] and run("mmjax recipes vi") == ["vilt"]
    assert run("mmjax train --resume=m") == ["--resume=must"]


def test_it_imports_no_jax():
    code = "import sys; from mmjax.cli import main; main.main(['completion', 'bash']); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_another_shell_is_refused(capsys):
    assert main.main(["completion", "fsh"]) == 2
    assert "did you mean 'fish'" in capsys.readouterr().err


def test_the_version(capsys):
    assert main.main(["--version"]) == 0
    name, version = capsys.readouterr().out.split()
    assert name == "mmjax" and version[0].isdigit()
