"""Finding and joining the other processes, and what is told when that fails; `test_loop_meshes.py` has them at work."""

import importlib.util
import json
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.parallel import cluster, mesh, process_agreement
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import _slices, make_mesh
from tests.helpers import processes, runs

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[01-02]",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
}
EIGHT = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}


def find(environ=None, **flags):
    return cluster.find_cluster(**flags, environ=environ or {})


# -- detection ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},  # a batch script itself
        SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"},
        SLURM | {"SLURM_STEP_NUM_TASKS": "1"},  # the shell of salloc, in a job of four
        MPI | {"OMPI_COMM_WORLD_SIZE": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},  # a pod, but of no indexed job
        {"TPU_WORKER_HOSTNAMES": "a,b"},  # no TPU here
    ],
)
def test_alone(environ):
    assert find(environ) is None


@pytest.mark.parametrize(
    "more, devices",
    [
        ({}, [1]),  # jax's way where the GPUs are not known: one for each process
        (EIGHT, [4, 5, 6, 7]),
        ({"CUDA_VISIBLE_DEVICES": "0"}, None),  # every task sees its own alone
        (EIGHT | {"SLURM_GPUS_PER_TASK": "8"}, None),
        (EIGHT | {"SLURM_STEP_TASKS_PER_NODE": "3,1"}, None),  # one task on this node takes all
    ],
)
def test_slurm(more, devices):
    detected = find(SLURM | more)
    assert detected.detected_by == "SLURM" and detected.arguments == {"num_processes": 4}
    assert detected.devices == devices


def test_open_mpi(monkeypatch):
    assert find(MPI | SLURM) == cluster.Cluster("Open MPI", {}, [1])
    assert find(MPI | EIGHT).devices == [4, 5, 6, 7]
    five = {name: value for name, value in MPI.items() if "orte" not in name}
    find_spec = importlib.util.find_spec
    for installed in (True, False):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda n, t=installed: t or None if n == "mpi4py" else find_spec(n)
        )
        if installed:
            assert find(five).arguments == {"cluster_detection_method": "mpi4py"}
        else:
            with pytest.raises(UserError, match=r"pip install mpi4py, or give --coordinator=HOST:PORT --processes=\$"):
                find(five)


def test_tpu_and_kubernetes(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(cluster.glob, "glob", lambda pattern: ["/dev/accel0"] if "accel" in pattern else [])
    assert find({"TPU_WORKER_HOSTNAMES": "a,b"}) == cluster.Cluster("TPU", {})
    assert find({"TPU_WORKER_HOSTNAMES": "a"}) is None
    assert find({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}).certain
    assert not find({}).certain  # the machine's metadata say how many there are
    assert find({"JAX_PLATFORMS": "cpu"}) is None
    pod = {"JAX_PLATFORMS": "cuda", "KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}
    assert find(pod).detected_by == "Kubernetes"


# -- flags -------------------------------------------------------------------------------------------------------------


def test_flags_come_before_the_environment():
    detected = find(SLURM, coordinator="[::1]:1234", processes=2, process=1)
    assert detected.detected_by == "flags" and detected.devices is None
    assert detected.arguments["num_processes"] == 2 and detected.arguments["process_id"] == 1
    assert detected.arguments["cluster_detection_method"] == "deactivate"
    assert find(SLURM, processes=1) is None
    assert find(SLURM, coordinator="host:1", processes=1, process=0) is None


WRONG = [
    (["--coordinator=a:1"], "--coordinator without --processes, --process: several processes need all of"),
    (["--processes=2", "--process=0"], "--processes, --process without --coordinator"),
    (["--coordinator=a:1", "--processes=0", "--process=0"], "--processes=0 must be at least 1"),
    (["--coordinator=a:1", "--processes=2", "--process=2"], "--process=2 is not in 0 to 1, as --processes=2"),
    (["--coordinator=a:1", "--processes=2", "--process=-1"], "--process=-1 is not in 0 to 1"),
    (["--coordinator=a", "--processes=2", "--process=0"], "--coordinator='a' wants HOST:PORT"),
    (["--coordinator=a:99999", "--processes=2", "--process=0"], "--coordinator='a:99999' wants HOST:PORT"),
    (["--coordinator=a:1", "--processes=two", "--process=0"], "--processes: invalid int value: 'two'"),
    (["--coordinator=a:1", "--processes=2", "--process=1", "--join-timeout=0"], "--join-timeout=0 must be at least 1"),
]


@pytest.mark.parametrize("argv, message", WRONG, ids=[" ".join(argv) for argv, _ in WRONG])
@pytest.mark.parametrize("command", ["train", "eval"])
def test_wrong_flags(command, argv, message, tmp_path, capsys):
    call = runs.train_cli if command == "train" else runs.eval_cli
    if command == "eval":  # what is read first is there
        folder = tmp_path / "checkpoints" / "1" / "meta"
        folder.mkdir(parents=True)
        config = runs.config()
        meta = {"config": config.to_dict(), "position": 0, "tokenizer": None, "versions": {}}
        meta |= {"preprocessing": {"size": config.model.image.image_size}}
        (folder / "metadata").write_text(json.dumps(meta))
    assert call(f"--workdir={tmp_path}", *argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "config.json").exists()


def test_a_port_in_use(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        coordinator = f"127.0.0.1:{taken.getsockname()[1]}"
        argv = [f"--workdir={tmp_path}", f"--coordinator={coordinator}", "--processes=2", "--process=0"]
        assert runs.train_cli(*argv) == 2
    assert f"--coordinator={coordinator}: process 0 cannot listen on port" in capsys.readouterr().err


@pytest.mark.parametrize("process", [pytest.param(0, marks=pytest.mark.full), 1])
def test_others_that_do_not_come(process, tmp_path):
    """One line after the time that was given, and no stack trace."""
    began = time.monotonic()
    coordinator = f"127.0.0.1:{processes.free_port()}"
    done = subprocess.run(
        [sys.executable, "train.py", f"--config={runs.RECIPE}", f"--workdir={tmp_path}", f"--coordinator={coordinator}"]
        + ["--processes=2", f"--process={process}", "--join-timeout=2"],
        capture_output=True,
        text=True,
        env=runs.environment(),
        cwd=runs.ROOT,
        timeout=120,
    )
    assert done.returncode == 2 and time.monotonic() - began < 60
    line = done.stderr.strip()
    expected = "did not answer within 2 s; start --process=0" if process else "not all of them came within 2 s"
    assert line.startswith("error: --") and expected in line and "\n" not in line
    assert not any(tmp_path.iterdir())


# -- agreement, as far as one process goes -----------------------------------------------------------------------------


def test_one_process_agrees_with_itself():
    assert not process_agreement.is_running() and process_agreement.is_process_0()
    assert process_agreement.broadcast_from_0(3) == 3
    with pytest.raises(KeyError), process_agreement.raise_on_all():
        raise KeyError


# -- groups of devices with slow links ---------------------------------------------------------------------------------


class Device:
    """As much of a device as the order of a mesh looks at."""

    def __init__(self, number, *, per_process=4, per_slice=None):
        self.id, self.process_index = number, number // per_process
        self.platform = "tpu" if per_slice else "gpu"
        self.slice_index = number // per_slice if per_slice else self.process_index


def ids(groups):
    return [[device.id for device in group] for group in groups]


def test_groups():
    gpus = [Device(i) for i in (3, 2, 1, 0, 4, 5, 6, 7)]  # as a process may list them
    assert ids(_slices(gpus, 0)) == [list(range(8))]  # hosts, not slices
    assert ids(_slices(gpus, 2)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    tpus = [Device(i, per_slice=4) for i in range(8)]
    assert ids(_slices(tpus, 0)) == ids(_slices(tpus, 2)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert ids(_slices(tpus, 1)) == [list(range(8))]
    for count, message in ((3, "mesh.slices=3 does not divide 8 devices"), (4, "but there are 2 TPU slices; set 0, 2")):
        with pytest.raises(UserError, match=message):
            _slices(tpus, count)


@pytest.mark.parametrize("shape", [(2, 2, 2), (4, 1, 2), (8, 1, 1), (-1, 4, 1)])
def test_only_data_crosses_slices(shape):
    made = make_mesh(MeshConfig(**dict(zip(mesh.AXES, shape, strict=True)) | {"slices": 2}))
    halves = np.split(made.devices, 2, axis=0)
    assert [sorted(d.id for d in half.ravel()) for half in halves] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert all("Auto" in str(kind) for kind in made.axis_types)
    one = make_mesh(MeshConfig(**dict(zip(mesh.AXES, shape, strict=True)) | {"slices": 1}))
    assert made.shape == one.shape


@pytest.mark.parametrize(
    "shape, message",
    [
        (
            (1, 8, 1, 2),
            "mesh.data, here 1, does not divide over mesh.slices=2, and fsdp and tensor stay within a slice",
        ),
        ((8, 1, 1, 3), "mesh.slices=3 does not divide 8 devices"),
        ((8, 1, 1, -2), "mesh.slices=-2"),
    ],
)
def test_impossible_slices(shape, message):
    with pytest.raises(UserError, match=message):
        make_mesh(MeshConfig(**dict(zip((*mesh.AXES, "slices"), shape, strict=True))))
