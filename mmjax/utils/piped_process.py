"""A child process that is spoken to through its pipes."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple


class PipedProcess(NamedTuple):
    """A child process, what it reads and what it writes, both as bytes."""

    process: subprocess.Popen[bytes]
    stdin: IO[bytes]
    stdout: IO[bytes]

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        stderr: IO[bytes] | None = None,
        start_new_session: bool = False,
    ) -> "PipedProcess":
        """Starts a process; the options are those of `subprocess.Popen`.

        Raises:
          OSError: it cannot be started.
        """
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=stderr, env=env, cwd=cwd, start_new_session=start_new_session
        )
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("subprocess made no pipes")
        return cls(process, process.stdin, process.stdout)
