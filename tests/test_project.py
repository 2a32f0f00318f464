"""Files for those who contribute to, cite and release mmjax say what the project itself says."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = set(re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text()))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_what_is_cited_is_this_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"(?m)^version: (.*)$", text)[1] == PROJECT["version"]
    assert re.search(r"(?m)^license: (.*)$", text)[1] == PROJECT["license"]


def test_workflows_call_targets_alone():
    text = "".join(path.read_text() for path in WORKFLOWS)
    commands = re.findall(r"(?m)^ *(?:- )?run: (.*)$", text)
    assert {"make test JAX='${{ matrix.jax }}'", "make docs", "make test-full", "make release-check"} <= set(commands)
    for command in commands:
        program, target, *_ = command.split()
        assert program == "make" and target in TARGETS, command
    assert all(line.split("@")[0].startswith("actions/") for line in re.findall(r"uses: (\S+)", text))


def test_every_python_and_the_oldest_jax_are_tested():
    text = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    supported = [name.split(" :: ")[-1] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
    assert re.search(r"python: \[(.*)\]", text)[1] == ", ".join(f'"{version}"' for version in supported)
    (oldest,) = (re.search(r">=(\d+\.\d+)", name)[1] for name in PROJECT["dependencies"] if name.startswith("jax>="))
    assert f'jax: ["jax=={oldest}.*", "jax"]' in text
    (pythons,) = re.findall(r"(?m)^PYTHONS \?= (.*)$", (ROOT / "Makefile").read_text())
    assert pythons.split() == [f"python{version}" for version in supported]


def test_hooks_are_local():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"repo: (\S+)", text) == ["local"]
    (entry,) = re.findall(r"entry: (.*)", text)
    assert entry.split()[0] == "make" and entry.split()[1] in TARGETS
