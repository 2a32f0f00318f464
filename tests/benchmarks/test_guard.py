"""The guard's arithmetic and judgement, on made figures; `make guard` compiles the real ones."""

import copy
import importlib
import json
import sys

import pytest

from tests.helpers import runs

sys.path.insert(0, str(runs.ROOT / "benchmarks"))
guard = importlib.import_module("guard")
PROGRAM = guard.PROGRAMS[-1]
VERSIONS = {"jax": "1.2.3", "libtpu": "0.1"}


def figures(size, **kinds):
    return {"bytes": size, "working": size // 10, "state": 700, "formula": size // 20, "kinds": kinds}


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A record of one program: a layer moves 1,000 GB and the rest 4,000."""
    part = lambda scale: {
        "bytes": scale * 10**12,
        "working": scale * 10**11,
        "state": scale * 10**10,
        "formula": scale * 10**11,
        "kinds": {"products": scale * 6 * 10**11, "copies": scale * 4 * 10**11},
    }
    made = {"versions": VERSIONS, "figures": {PROGRAM.name: {"layer": part(1), "rest": part(4)}}}
    monkeypatch.setattr(guard, "RECORD", tmp_path / "record.json")
    guard.RECORD.write_text(json.dumps(made))
    return made


@pytest.fixture
def check(record, monkeypatch, capsys):
    """Runs the command with figures in place of compilations; returns its status and output."""

    def run(part="layer", figure="bytes", factor=1.0, kind=None):
        result = copy.deepcopy(record)
        result["figures"][PROGRAM.name][part][figure] *= factor
        if kind:
            result["figures"][PROGRAM.name][part]["kinds"][kind] *= factor
        monkeypatch.setattr(guard, "compile_all", lambda programs, jobs: result)
        status = guard.command(guard.make_parser().parse_args([]), [])
        return status, capsys.readouterr().out

    return run


@pytest.mark.parametrize("part", ["layer", "rest"])
@pytest.mark.parametrize("figure", list(guard.FIGURES))
def test_growth_of_four_per_cent_fails_and_is_named(check, part, figure):
    status, message = check(part, figure, 1.04)
    (line,) = [line for line in message.splitlines() if line.startswith("GREW")]
    assert status == 1 and line.startswith(f"GREW: {PROGRAM.name}, {part}: {guard.FIGURES[figure]} ")
    assert "(+4.0%)" in line and "--write" in message


def test_two_per_cent_pass(check):
    for factor in (0.98, 1.02):
        status, message = check("layer", "working", factor)
        assert status == 0 and "GREW" not in message and "better" not in message and "--write" not in message


def test_a_smaller_step_passes_and_asks_for_a_new_record(check):
    status, message = check("rest", "bytes", 0.9)
    assert (
        status == 0
        and "better" in message
        and "4000.000 GB -> 3600.000 GB (-10.0%)" in message
        and "--write" in message
    )


@pytest.mark.parametrize("factor, status", [(0.92, 0), (1.08, 0), (0.88, 1), (1.12, 1)])
def test_a_formula_that_misses_a_layers_memory_fails(check, factor, status):
    result, message = check("layer", "formula", factor)
    assert result == status and ("the formula of remat='auto' says" in message) == bool(status)


def test_the_kinds_of_kernels_that_grew_are_told(check):
    _, message = check("layer", "bytes", 1.5, kind="copies")
    assert "(+50.0%): copies +200.000 GB\n" in message


def test_other_compilers_are_no_comparison(record):
    result = copy.deepcopy(record)
    result["versions"]["jax"] = "1.2.4"
    with pytest.raises(guard.UserError, match="jax is 1.2.4 and the record was written with 1.2.3"):
        guard.compare(record, result)


def test_a_program_without_record_is_a_mistake(record):
    result = copy.deepcopy(record)
    result["figures"]["h100:1 new"] = result["figures"][PROGRAM.name]
    with pytest.raises(guard.UserError, match="h100:1 new is not in record.json"):
        guard.compare(record, result)


@pytest.mark.parametrize("depths", [(1, 2), (2, 4), (3, 4)])
def test_the_difference_of_two_depths_is_whole_layers(depths):
    """Steps of known layers: each whole one moves 30 (of it products 20), everything else 100 (copies 90)."""
    program = guard.Program("h100:1", "B/32", 8, 2, depths)
    step = lambda depth: figures(100 + 30 * (depth - 1), products=10 + 20 * (depth - 1), copies=90 + 10 * (depth - 1))
    result = guard.split(program, *map(step, depths))
    assert result["layer"]["bytes"] == 30 and result["rest"]["bytes"] == 100
    assert result["layer"]["kinds"] == {"products": 20, "copies": 10} and result["layer"]["state"] == 0
    assert result["rest"]["kinds"] == {"products": 10, "copies": 90} and result["rest"]["state"] == 700


def test_a_kind_of_kernel_that_one_depth_lacks_is_counted():
    program = guard.Program("h100:1", "B/32", 8, 2, (2, 4))
    result = guard.split(program, figures(100), figures(160, fills=60))
    assert result["layer"]["kinds"] == {"fills": 30} and result["rest"]["kinds"] == {"fills": -30}


def test_a_compilation_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(guard.sys, "executable", "false")
    with pytest.raises(guard.UserError, match="h100:1 B/32, depth 4: compiling failed .status 1.: it wrote nothing"):
        guard.compile_all([PROGRAM], 1)


def test_the_record_is_of_all_programs_and_of_the_pinned_compilers():
    record = json.loads((runs.ROOT / "benchmarks" / "guard" / "record.json").read_text())
    assert set(record["figures"]) == {program.name for program in guard.PROGRAMS}
    lines = (runs.ROOT / "benchmarks" / "guard" / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert {name: pinned[name] for name in record["versions"]} == record["versions"]
    for parts in record["figures"].values():
        assert all(parts[part][figure] > 0 for part in ("layer", "rest") for figure in guard.FIGURES)


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--only=h300"], "--only=h300: no program has that"),
        (["--write", "--only=h100"], "leave out --only=h100"),
        (["--jobs=0"], "--jobs=0 must be at least 1"),
        (["--measure=h100:1 B/64"], "did you mean 'h100:1 B/16'"),
    ],
)
def test_mistakes_in_the_flags(flags, message):
    with pytest.raises(guard.UserError, match=message):
        guard.command(guard.make_parser().parse_args(flags), [])
