"""Starts several processes of one run on this machine, and ends them whatever happens."""

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers import runs

SCRIPT = Path(__file__).with_name("process_main.py")


def free_port():
    """A port that nobody listens on."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """Processes that talk to one another over the loopback; a context manager that leaves none behind.

    Args:
      folder: for their output.
      commands: Python arguments of each.
      devices: CPU devices of each.
      environments: more variables, for each of them.
    """

    def __init__(self, folder, commands, *, devices=4, environments=None):
        self.outputs = [Path(folder) / f"process{i}-{time.monotonic_ns()}.txt" for i in range(len(commands))]
        self.popens = []
        for i, (command, output) in enumerate(zip(commands, self.outputs, strict=True)):
            environment = runs.environment(
                JAX_NUM_CPU_DEVICES=str(devices), **(environments[i] if environments else {})
            )
            with output.open("w") as file:
                arguments = [sys.executable, *map(str, command)]
                self.popens.append(subprocess.Popen(arguments, env=environment, stdout=file, stderr=file))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for popen in self.popens:
            if popen.poll() is None:
                popen.kill()
            popen.wait()

    def end(self, timeout=240):
        """Waits for all of them; returns their exit statuses."""
        until = time.monotonic() + timeout
        try:
            return [popen.wait(timeout=max(0.1, until - time.monotonic())) for popen in self.popens]
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s\n{self.printed()}") from None

    def printed(self, process=None):
        """What one of them printed, or all of them, without what gloo says of every connection."""
        if process is None:
            return "\n".join(f"-- process {i}\n{self.printed(i)}" for i in range(len(self.popens)))
        lines = self.outputs[process].read_text().splitlines()
        return "\n".join(line for line in lines if "connected to" not in line and "connected peer" not in line)


def steps(folder, meshes, *, count=2, timeout=240):
    """Runs the checks of meshes in `count` processes, which leave what they find in `folder`."""
    coordinator = f"127.0.0.1:{free_port()}"
    commands = [[SCRIPT, "steps", folder, ",".join(meshes), coordinator, count, i] for i in range(count)]
    with Processes(folder, commands, devices=8 // count) as processes:
        assert processes.end(timeout) == [0] * count, processes.printed()


def command(folder, *argv, events="-", meshes=(), count=2, devices=4, timeout=240, environments=None):
    """Runs the command line in `count` processes; returns their exit statuses and what each of them printed.

    With `meshes` the checks of meshes follow in the same processes.
    """
    port = free_port()
    checks = [folder, ",".join(meshes)] if meshes else ["-", "-"]
    flags = lambda i: [f"--coordinator=127.0.0.1:{port}", f"--processes={count}", f"--process={i}"]
    commands = [[SCRIPT, "cli", events, *checks, *argv, *flags(i)] for i in range(count)]
    with Processes(folder, commands, devices=devices, environments=environments) as processes:
        return processes.end(timeout), [processes.printed(i) for i in range(count)]


def workers_of(process):
    """The processes that decode for one."""
    children = []
    for thread in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            children += map(int, (thread / "children").read_text().split())
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
