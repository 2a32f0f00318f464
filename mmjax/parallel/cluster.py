"""Discovery of the other processes of a run, from flags or the environment that a cluster sets, and joining them."""

import contextlib
import dataclasses
import glob
import importlib.util
import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from mmjax.errors import UserError
from mmjax.utils import terminal

JOIN_TIMEOUT = 300  # seconds; the hosts of a large job do not start at once


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How to join the other processes.

    Attributes:
      detected_by: `flags`, `SLURM`, `Open MPI`, `TPU` or `Kubernetes`.
      arguments: for `jax.distributed.initialize`; jax finds out the others.
      devices: which of the visible GPUs this process takes; None for all.
      certain: whether there are surely several processes; else jax may find that there is one.
    """

    detected_by: str
    arguments: Mapping[str, Any]
    devices: Sequence[int] | None = None
    certain: bool = True


def find_cluster(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Cluster | None:
    """Finds the other processes from flags, else from the environment; starts nothing and calls no server.

    Args:
      coordinator: `HOST:PORT` of process 0.
      processes: how many there are. 1 by itself switches the detection off.
      process: which one this is, from 0.
      environ: environment variables; this process's by default.

    Returns:
      None where this process is the only one.

    Raises:
      UserError: some of the flags without the others, or a value that cannot be.
    """
    environ = os.environ if environ is None else environ
    if processes == 1 and coordinator is None and process in (None, 0):
        return None
    if coordinator is None and processes is None and process is None:
        return _open_mpi(environ) or _slurm(environ) or _tpu(environ) or _kubernetes(environ)
    if coordinator is None or processes is None or process is None:
        flags = {"--coordinator": coordinator, "--processes": processes, "--process": process}
        missing = [flag for flag, value in flags.items() if value is None]
        present = [flag for flag in flags if flag not in missing]
        raise UserError(
            f"{', '.join(present)} without {', '.join(missing)}: several processes need all of --coordinator=HOST:PORT"
            " --processes=N --process=I, the first two the same on every host and I from 0 to N - 1"
        )
    if processes < 1:
        raise UserError(f"--processes={processes} must be at least 1")
    if not 0 <= process < processes:
        raise UserError(f"--process={process} is not in 0 to {processes - 1}, as --processes={processes}")
    _host_and_port(coordinator)
    if processes == 1:
        return None
    arguments = {
        "coordinator_address": coordinator,
        "num_processes": processes,
        "process_id": process,
        # Else jax would look for a cluster all the same, and take one GPU a process where SLURM or Open MPI is.
        "cluster_detection_method": "deactivate",
    }
    return Cluster("flags", arguments)


def _host_and_port(coordinator: str) -> tuple[str, int]:
    match = re.fullmatch(r"\[?([^\[\]/]+)\]?:(\d+)", coordinator)
    if not match or not 0 < int(match[2]) < 65536:
        raise UserError(f"--coordinator={coordinator!r} wants HOST:PORT, such as 10.0.0.1:8476")
    return match[1], int(match[2])


def _slurm(environ: Mapping[str, str]) -> Cluster | None:
    """Inside `srun` of several tasks; not on a login node, in a batch script itself or in a shell of `salloc`."""
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if any(name not in environ for name in needed):
        return None
    # A shell that `salloc` opens on a node is a step of one task, in a job of more.
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", environ["SLURM_NTASKS"]))
    if tasks < 2:
        return None
    local = int(environ["SLURM_LOCALID"])
    on_node = _slurm_tasks(environ.get("SLURM_STEP_TASKS_PER_NODE", ""), int(environ.get("SLURM_NODEID", 0)))
    # With --gpus-per-task every task sees only its share.
    devices = None if "SLURM_GPUS_PER_TASK" in environ else _devices(local, on_node, environ)
    return Cluster("SLURM", {"num_processes": tasks}, devices)


def _slurm_tasks(text: str, node: int) -> int | None:
    """Tasks on a node from `4(x2),3`: four on the first two nodes, three on the next."""
    counts = []
    for count, repeat in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(repeat or 1)
    return counts[node] if node < len(counts) else None


def _open_mpi(environ: Mapping[str, str]) -> Cluster | None:
    names = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
    if any(name not in environ for name in names) or int(environ[names[0]]) < 2:
        return None
    arguments = {}
    if "OMPI_MCA_orte_hnp_uri" not in environ:
        # Open MPI 5 does not publish the address of its launcher; mpi4py finds it out.
        if importlib.util.find_spec("mpi4py") is None:
            raise UserError(
                "Open MPI 5 publishes no address of the first process: pip install mpi4py, or give"
                " --coordinator=HOST:PORT --processes=$OMPI_COMM_WORLD_SIZE --process=$OMPI_COMM_WORLD_RANK"
            )
        arguments["cluster_detection_method"] = "mpi4py"
    local_size = environ.get("OMPI_COMM_WORLD_LOCAL_SIZE")
    devices = _devices(int(environ[names[2]]), int(local_size) if local_size else None, environ)
    return Cluster("Open MPI", arguments, devices)


def _devices(local: int, on_host: int | None, environ: Mapping[str, str]) -> list[int] | None:
    """Which of the visible GPUs a process takes, when `on_host` of them share a host; None for all.

    jax by itself gives one to each process, and leaves seven of eight idle when one process was started per host.
    """
    if on_host == 1:
        return None
    names = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
    visible = next((len(environ[name].split(",")) for name in names if environ.get(name)), None)
    if visible is None or on_host is None:
        return [local]
    if visible < on_host:  # the launcher shows every process only its share
        return None
    share = visible // on_host
    return list(range(local * share, (local + 1) * share))


def _tpu(environ: Mapping[str, str]) -> Cluster | None:
    platforms = environ.get("JAX_PLATFORMS", "")
    if (platforms and "tpu" not in platforms) or importlib.util.find_spec("libtpu") is None:
        return None
    if not glob.glob("/dev/accel[0-9]*") and not glob.glob("/dev/vfio/[0-9]*"):
        return None
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")  # GKE
    if hosts:
        several = len(hosts.split(",")) * int(environ.get("MEGASCALE_NUM_SLICES") or 1) > 1
        return Cluster("TPU", {}) if several else None
    # Elsewhere the machine's metadata have the answer; jax fetches them.
    return Cluster("TPU", {}, certain=False)


def _kubernetes(environ: Mapping[str, str]) -> Cluster | None:
    """A pod of an indexed Job; jax gets the others from the cluster.

    Raises:
      UserError: the package for that is not there. Running alone would be one of many runs on the same workdir.
    """
    if "KUBERNETES_SERVICE_HOST" not in environ or "JOB_COMPLETION_INDEX" not in environ:
        return None
    if importlib.util.find_spec("kubernetes") is None:
        raise UserError(
            "this is a pod of an indexed Job, and finding the others needs the kubernetes package: pip install"
            " 'jax[k8s]', give --coordinator, --processes and --process, or --processes=1 for a run by itself"
        )
    return Cluster("Kubernetes", {})


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout: int = JOIN_TIMEOUT,
) -> None:
    """Joins the other processes, where there are any; call it before any device starts and after XLA's flags are set.

    Args:
      coordinator, processes, process: see `find_cluster`.
      timeout: seconds to wait for the others. When it is over, the process ends with a line and status 2.

    Raises:
      UserError: wrong flags, or a cluster that cannot be joined.
    """
    cluster = find_cluster(coordinator, processes, process)
    if cluster is None:
        return
    if timeout < 1:
        raise UserError(f"--join-timeout={timeout} must be at least 1 second")
    if cluster.detected_by == "flags" and coordinator is not None and process == 0:
        _check_port(coordinator)
    # It would handle SIGTERM instead of `StopSignal`.
    jax.config.update("jax_enable_preemption_service", False)
    if jax.config.values["jax_cpu_collectives_implementation"] in (None, "none"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        with _deadline(cluster, timeout):
            jax.distributed.initialize(
                **cluster.arguments,
                local_device_ids=cluster.devices,
                initialization_timeout=timeout + 60,  # jax ends the process with a stack trace; ours comes first
            )
    except Exception as error:
        if not cluster.certain and "should be defined" in str(error):
            return  # a TPU machine by itself
        reason = " ".join(str(error).split())
        where = (
            f"--coordinator={coordinator}" if cluster.detected_by == "flags" else f"{cluster.detected_by} was detected"
        )
        raise UserError(
            f"{where}, but joining the other processes failed ({reason[:300]}); check the launch, give"
            " --coordinator=HOST:PORT --processes=N --process=I, or --processes=1 to run alone"
        ) from error
    if cluster.devices is None and "JAX_LOCAL_DEVICE_IDS" not in os.environ:
        for name in ("jax_cuda_visible_devices", "jax_rocm_visible_devices"):
            jax.config.update(name, "all")


def _check_port(coordinator: str) -> None:
    """Checks that process 0 can listen."""
    _, port = _host_and_port(coordinator)
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"--coordinator={coordinator}: process 0 cannot listen on port {port} ({error.strerror});"
                " choose another one on all hosts"
            ) from error


@contextlib.contextmanager
def _deadline(cluster: Cluster, timeout: float) -> Iterator[None]:
    """Ends the process with one line when joining takes too long; jax's own end is a stack trace."""

    def end():
        coordinator = cluster.arguments.get("coordinator_address")
        if coordinator and cluster.arguments["process_id"] and not _answers(coordinator):
            message = (
                f"--coordinator={coordinator} did not answer within {timeout} s; start --process=0 on that host, or"
            )
            message += " correct the address"
        elif coordinator:
            message = (
                f"--processes={cluster.arguments['num_processes']}: not all of them came within {timeout} s; start"
            )
            message += " the others, correct the number, or wait longer with --join-timeout=SECONDS"
        else:
            message = (
                f"{cluster.detected_by} was detected, but not all processes came within {timeout} s; start them all,"
            )
            message += " wait longer with --join-timeout=SECONDS, or run alone with --processes=1"
        os.write(2, f"error: {terminal.printable(message)}\n".encode())
        os._exit(2)

    timer = threading.Timer(timeout, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _answers(coordinator: str) -> bool:
    try:
        socket.create_connection(_host_and_port(coordinator), timeout=5).close()
    except OSError:
        return False
    return True
