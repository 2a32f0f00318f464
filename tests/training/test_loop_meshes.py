"""One run on any mesh, by any number of processes: the same losses, the same gradients, the same checkpoints."""

import json
import os
import pickle
import signal
import socket
import time

import jax
import numpy as np
import pytest

from tests.helpers import campaign, mesh_steps, processes, runs

# Runs of the command line have 8 steps, checkpoints at 3, 6, 8 and evaluations at 4, 8.


@pytest.fixture(scope="module")
def start():
    """One device, not compiled yet."""
    return mesh_steps.Steps((1, 1, 1))


@pytest.fixture(scope="module")
def one(start):
    """One device: losses, gradient and state."""
    run = start
    losses, gradient, state = run.train(run.start())
    assert losses[-1] < 0.9 * losses[0], "nothing was learnt, nothing compared"
    return run, losses, gradient, state


def compare(losses, gradient, one):
    np.testing.assert_allclose(losses, one[1], rtol=1e-5)
    assert mesh_steps.relative(gradient, one[2]) <= 1e-5


MESH = ["--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2"]


def data(folder):
    """Small evaluation sets: two of them, and neither a multiple of the batch."""
    classes, pairs = runs.write_classes(folder / "pets", count=5), runs.write_pairs(folder / "pairs")
    return f"--config.data.eval=folder:{classes}+pairs:{pairs}"


@pytest.fixture(scope="module")
def two(start, tmp_path_factory):
    """Two processes of four devices: a run of the command line that SIGTERM to one of them stops, then checkpoints.

    All in one start of the processes, because that takes longer than the rest.
    """
    folder = tmp_path_factory.mktemp("two")
    start.save(folder / "one", start.start())
    argv = ["train", f"--config={runs.RECIPE}", f"--workdir={folder / 'run'}", "--config.checkpoint.every=100"]
    statuses, message = processes.command(
        folder, *argv, data(folder), *MESH, events="SIGTERM@5:1", meshes=["2x2x2:restored"]
    )
    assert statuses == [143, 143], message
    return folder, message


def found_by(folder, process):
    return pickle.loads((folder / f"found{process}").read_bytes())


# -- ten steps ---------------------------------------------------------------------------------------------------------

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)]


def check_two_processes(folder, name, one, mesh):
    """Losses, gradients, a checkpoint read from one process, and one that one process reads onto `mesh`."""
    result = [found_by(folder, process)[name] for process in range(2)]
    for item in result:
        compare(item["losses"], item["gradient"], one)
        runs.assert_same_arrays(item["restored"], mesh_steps.flat(one[3]))
    runs.assert_same_arrays(result[0]["state"], result[1]["state"])
    back = mesh_steps.Steps(mesh).restore(folder / f"two-{name}")
    runs.assert_same_arrays(mesh_steps.flat(back), result[0]["state"])


@pytest.mark.full
def test_checkpoints_of_two_processes(two, start):
    """One process's, read by two and written again, read by one: every array has the same bits."""
    expected = mesh_steps.flat(start.start())
    for process in range(2):
        runs.assert_same_arrays(found_by(two[0], process)["2x2x2"]["restored"], expected)
    back = mesh_steps.Steps((1, 8, 1)).restore(two[0] / "two-2x2x2")
    runs.assert_same_arrays(mesh_steps.flat(back), expected)


@pytest.mark.full
def test_agreement(two):
    """What one process meets, all raise; who speaks for which row of a batch; sums over both."""
    result = [found_by(two[0], process) for process in range(2)]
    assert [item["first"] for item in result] == [True, False]
    host = socket.gethostname()
    mistakes = [("GlobalUserError", f"x=1 is wrong (process 1 of 2, on {host})"), ("GlobalUserError", "y")]
    assert result[0]["raised"] == [
        *mistakes,
        ("OtherProcessError", f"process 1 of 2, on {host}, failed with KeyError: 'z'"),
    ]
    assert result[1]["raised"] == [*mistakes, ("KeyError", "'z'")]
    assert all("what the first host writes there is not seen by this host" in item["not shared"] for item in result)
    for shape, rows in result[0]["rows"].items():
        assert sorted(rows + result[1]["rows"][shape]) == list(range(16)), shape
    assert result[0]["rows"][(1, 1, 8)] == list(range(16))  # both hold them all
    assert result[0]["votes"] == result[1]["votes"] == [[2, 1, 0], [2, 1, 20]]


@pytest.mark.full
def test_two_processes_on_every_mesh(one, tmp_path):
    one[0].save(tmp_path / "one", one[3])
    others = dict(zip(MESHES, [(2, 2, 2), (1, 1, 1), (1, 8, 1), (8, 1, 1)], strict=True))
    meshes = {"x".join(map(str, mesh)): others[mesh] for mesh in campaign.some(MESHES, [(1, 8, 1)])}
    processes.steps(tmp_path, list(meshes), timeout=500)
    for name, mesh in meshes.items():
        check_two_processes(tmp_path, name, one, mesh)


@pytest.mark.full
@pytest.mark.parametrize("count", campaign.some([4, 8], []))
def test_more_processes(count, one, tmp_path):
    """One or two devices each: the `tensor` or the `fsdp` axis spans processes."""
    one[0].save(tmp_path / "one", one[3])
    processes.steps(tmp_path, ["2x2x2"], count=count, timeout=500)
    check_two_processes(tmp_path, "2x2x2", one, (4, 1, 2))


# -- the command line --------------------------------------------------------------------------------------------------


def assert_near(result, expected):
    """Lines of metrics.jsonl by (kind, step): the same ones, with losses that agree to rounding."""
    assert sorted(result) == sorted(expected)
    for key, line in expected.items():
        assert sorted(result[key]) == sorted(line), key
        if key[0] == "train":
            assert result[key]["loss"] == pytest.approx(line["loss"], rel=1e-5), key
            assert result[key]["grad_norm"] == pytest.approx(line["grad_norm"], rel=1e-4), key


@pytest.mark.full
def test_a_signal_to_one_process_stops_both(two):
    folder, message = two
    assert runs.steps(folder / "run") == [6]  # step 5 is heard of when it is logged, while step 6 is on its way
    assert runs.lines(folder / "run", "train")[-1]["step"] == 6
    assert "SIGTERM in another process" in message[0]
    assert "loss" not in message[1] and "SIGTERM" not in message[1]  # only the first one prints


@pytest.mark.full
def test_one_process_goes_on(two, tmp_path):
    """The run of two processes, ended by one on another mesh, is the run of one, evaluations included."""
    folder, _ = two
    assert runs.train_cli(f"--workdir={folder / 'run'}", data(folder)) == 0
    assert runs.train_cli(f"--workdir={tmp_path}", data(folder)) == 0
    assert_near(runs.numbers(folder / "run"), runs.numbers(tmp_path))


@pytest.mark.full
@pytest.mark.parametrize("fsdp", campaign.some([2], []))
def test_a_whole_run(fsdp, tmp_path):
    """Training, evaluation and their files, against one process of two devices; two go on where one stopped."""
    argv = [f"--config.mesh.fsdp={fsdp}", "--config.ema_decay=0.9", data(tmp_path)]
    assert runs.train_cli(f"--workdir={tmp_path / 'one'}", *argv, devices=2) == 0
    train = ["train", f"--config={runs.RECIPE}", *argv]
    statuses, message = processes.command(tmp_path, *train, f"--workdir={tmp_path / 'two'}", devices=1)
    assert statuses == [0, 0], message
    expected = runs.numbers(tmp_path / "one")
    assert_near(runs.numbers(tmp_path / "two"), expected)
    assert "done: step 8" in message[0] and "done" not in message[1]
    for name, values in expected.items():
        if name[0] == "eval":
            result = runs.numbers(tmp_path / "two")[name]
            assert result | {"kind": 0} == pytest.approx(values | {"kind": 0}, rel=1e-4), name  # rates are the same

    # Evaluation alone, by two and by one, of what two have saved.
    results = [tmp_path / "by-two.json", tmp_path / "by-one.json"]
    by_two = ["eval", f"--workdir={tmp_path / 'two'}", f"--output={results[0]}"]
    statuses, message = processes.command(tmp_path, *by_two, devices=1)
    assert statuses == [0, 0], message
    assert "zero-shot retrieval" in message[0] and "zero-shot" not in message[1]
    assert runs.eval_cli(f"--workdir={tmp_path / 'two'}", f"--output={results[1]}", devices=2) == 0
    by_two, by_one = (json.loads(path.read_text()) for path in results)
    for a, b in zip(by_two, by_one, strict=True):
        assert a | {"metrics": None} == b | {"metrics": None}
        assert a["metrics"] == pytest.approx(b["metrics"], rel=1e-5)

    # And a run that one process began.
    begun = [f"--workdir={tmp_path / 'begun'}", *argv]
    assert runs.train_cli(*begun, "--config.steps=5", devices=2) == 0
    statuses, message = processes.command(tmp_path, *train, f"--workdir={tmp_path / 'begun'}", devices=1)
    assert statuses == [0, 0] and "resumed at step 5 of 8" in message[0], message
    result = runs.numbers(tmp_path / "begun")
    assert_near(
        {key: line for key, line in result.items() if key[0] == "train"}, runs.numbers(tmp_path / "one", "train")
    )


EVENTS = {
    "both at once": ("SIGTERM@5:0,SIGTERM@5:1", 143, 6),
    "between log lines": ("SIGTERM@5:0", 143, 7),
    "one after the other": ("SIGINT@3:1,SIGTERM@4:0", 130, 4),
    "within an evaluation": ("SIGINT@evaluation:1", 130, 4),
    "at the last step": ("SIGTERM@8:1", 143, 8),
}


@pytest.mark.full
@pytest.mark.parametrize("moment", campaign.some(list(EVENTS), ["between log lines"]))
def test_signals(moment, tmp_path):
    events, status, step = EVENTS[moment]
    argv = ["train", f"--config={runs.RECIPE}", f"--workdir={tmp_path / 'run'}", "--config.checkpoint.every=100"]
    argv += [f"--config.log.every={100 if 'between' in moment else 1}", data(tmp_path)]
    statuses, message = processes.command(tmp_path, *argv, events=events, devices=1)
    assert statuses == [status, status], message
    assert runs.steps(tmp_path / "run") == [step]
    assert runs.lines(tmp_path / "run", "train")[-1]["step"] == (1 if "between" in moment else step)


@pytest.mark.full
def test_data_that_one_process_cannot_read(tmp_path):
    """Both make the steps before it, though batches are read ahead and packed by both alike, and end with one line."""
    argv = ["train", f"--config={runs.RECIPE}", f"--workdir={tmp_path / 'run'}", "--config.data.pack_texts=on"]
    statuses, message = processes.command(tmp_path, *argv, events="mistake@5:1", devices=1)
    assert statuses == [2, 2], message
    assert "error: data.train: nothing can be read here (process 1 of 2, on " in message[0]
    assert "error" not in message[1] and "Traceback" not in "".join(message)
    assert runs.steps(tmp_path / "run")[0] in (3, 6)  # the latter's save may not have ended


@pytest.mark.full
def test_an_evaluation_image_that_one_process_cannot_read(tmp_path):
    argv = ["train", f"--config={runs.RECIPE}", f"--workdir={tmp_path / 'run'}", data(tmp_path)]
    (tmp_path / "pets" / "dog" / "2.jpg").write_bytes(b"no picture")
    statuses, message = processes.command(tmp_path, *argv, devices=1)
    assert statuses == [2, 2], message
    assert message[0].count("error: data.eval: example 7 of 'pets' cannot be read") == 1 and "error" not in message[1]
    assert runs.steps(tmp_path / "run") == [3, 4]  # the training is kept


@pytest.mark.full
def test_bad_examples_are_counted_once(tmp_path):
    """Whoever reads them, and where `tensor` spans processes, so that all hold the same rows."""
    pairs = runs.write_pairs(tmp_path / "pairs")
    (tmp_path / "pairs" / "3.jpg").write_bytes(b"no picture")
    argv = [f"--config.data.train=pairs:{pairs}", "--config.data.max_bad_fraction=1.0"]
    assert runs.train_cli(f"--workdir={tmp_path / 'one'}", *argv) == 0
    expected = [line["bad_not_image"] for line in runs.lines(tmp_path / "one", "train")]
    assert expected[-1] >= 8
    tensor = ["--config.mesh.data=1", "--config.mesh.tensor=2"]
    for name, mesh in (("rows", []), ("tensor", tensor)):
        train = ["train", f"--config={runs.RECIPE}", f"--workdir={tmp_path / name}", *argv, *mesh]
        statuses, message = processes.command(tmp_path, *train, devices=1)
        assert statuses == [0, 0], message
        assert [line["bad_not_image"] for line in runs.lines(tmp_path / name, "train")] == expected
    meta = json.loads((tmp_path / "rows" / "checkpoints" / "8" / "meta" / "metadata").read_text())
    assert meta["bad_examples"] == {"not_image": expected[-1]}


@pytest.mark.full
@pytest.mark.parametrize(("event", "process"), campaign.some([("crash", 1), ("kill", 1), ("kill", 0)], [("kill", 1)]))
def test_a_process_that_dies_takes_the_others_along(event, process, tmp_path):
    """At once, and with a line in place of what jax prints when it misses heartbeats."""
    argv = ["train", f"--config={runs.RECIPE}", f"--workdir={tmp_path / 'run'}"]
    statuses, message = processes.command(tmp_path, *argv, events=f"{event}@7:{process}", devices=1, timeout=300)
    assert statuses[process] == {"crash": 1, "kill": -9}[event] and statuses[1 - process] == 75, message
    (line,) = [
        line
        for line in message[1 - process].splitlines()
        if not line.startswith(("step", "tiny", "d", "tr", "note", "a batch"))
    ]
    assert line.startswith(f"stopped: process {process} of 2, on ")
    assert ("RuntimeError: something broke" in message[process]) == (event == "crash")
    assert runs.steps(tmp_path / "run")[0] in (3, 6)  # the latter's save may not have ended


@pytest.mark.full
def test_a_worker_of_one_process_that_is_killed(tmp_path):
    """All save at the same step first."""
    port = processes.free_port()
    argv = ["train", f"--config={runs.RECIPE}", f"--workdir={tmp_path / 'run'}", "--config.steps=100000"]
    argv += ["--config.eval.every=0", "--config.checkpoint.every=100000", "--config.data.workers=1"]
    flags = [[f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={i}"] for i in range(2)]
    commands = [[processes.SCRIPT, "cli", "-", "-", "-", *argv, *flags[i]] for i in range(2)]
    with processes.Processes(tmp_path, commands, devices=1) as started:
        until = time.monotonic() + 120
        while started.printed(0).count("step ") < 8 and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(processes.workers_of(started.popens[1].pid)[0], signal.SIGKILL)
        assert started.end() == [75, 75], started.printed()
        lines = [line for line in started.printed(0).splitlines() if line.startswith("stopped: ")]
    assert len(lines) == 1 and "data.workers" in lines[0] and "process 1 of 2" in lines[0]
    assert runs.steps(tmp_path / "run") == [runs.lines(tmp_path / "run", "train")[-1]["step"]]


# -- optimizer states --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.full), "bfloat16"])
@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "adafactor", "sgd"])
def test_moments_live_with_their_parameters(name, dtype):
    """First moments in either type, and Adam's second ones, are sharded as what they belong to."""
    run = mesh_steps.Steps((2, 2, 2), name=name, momentum_dtype=dtype, weight_decay=0.1)
    path_of = lambda path: mesh_steps.partition.path_name(path)
    params = {
        path_of(path): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(run.abstract.params), jax.tree.leaves(run.shardings.params), strict=True
        )
    }
    sharded = {path for path, (_, sharding) in params.items() if not sharding.is_fully_replicated}
    assert any("qkv/kernel" in path for path in sharded) and any("fc2/kernel" in path for path in sharded)
    moments = {}
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(run.abstract.opt_state),
        jax.tree.leaves(run.shardings.opt_state),
        strict=True,
    ):
        param = next((item for item in params if path_of(path).endswith("/" + item)), None)
        if param is not None and params[param][0] == leaf.shape:
            assert sharding == params[param][1], path_of(path)
            moments.setdefault(param, []).append(leaf.dtype)
    first = {path for path, dtypes in moments.items() if dtype in map(str, dtypes)}
    assert first == set(params)  # every parameter has its first moment, in that type
