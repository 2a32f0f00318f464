"""METEOR 1.5 of captions, by its own Java program as pycocoevalcap ships it.

It needs `pip install 'mmjax[metrics]'` and Java 8 or newer. Nothing else is called METEOR here: other implementations
give other numbers.
"""

import contextlib
import importlib.util
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float64

from mmjax.errors import UserError
from mmjax.metrics.caption_metrics import tokenize_captions

_SEPARATOR = "|||"
_TIMEOUT = 600.0


def meteor(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenized: bool = False,
    timeout: int | float = _TIMEOUT,
) -> tuple[float, Float64[np.ndarray, " N"]]:
    """METEOR 1.5 (Denkowski and Lavie 2014), English, with the program's own normalisation, as pycocoevalcap runs it.

    Args:
      candidates: one caption an image.
      references: one or more captions an image.
      tokenized: as in `caption_metrics.caption_metrics`.
      timeout: seconds for everything. The program alone takes some ten to load its table of paraphrases.

    Returns:
      The score of the whole set, in [0, 1] (of the summed statistics, not the mean), and every caption's.

    Raises:
      UserError: pycocoevalcap or Java is missing, the program fails or takes too long, or as
        `caption_metrics.caption_metrics`.
    """
    candidates, references = tokenize_captions(candidates, references, tokenized=tokenized)
    command, folder = _command()
    with _program(command, folder, time.monotonic() + timeout) as program:
        statistics = program.ask(
            [_request(*pair) for pair in zip(candidates, references, strict=True)], len(candidates)
        )
        evaluation = f" {_SEPARATOR} ".join(["EVAL", *statistics])
        scores = program.ask([evaluation], len(candidates) + 1)
        try:
            *caption_scores, corpus_score = map(float, scores)
        except ValueError as error:
            raise UserError(f"METEOR: its program answered {scores[0][:80]!r}; expected a score") from error
    return corpus_score, np.array(caption_scores)


def check_available() -> None:
    """Checks that METEOR's program can be run.

    Raises:
      UserError: the program or Java is missing.
    """
    _command()


def _request(candidate: str, references: Sequence[str]) -> str:
    clean = [" ".join(text.replace(_SEPARATOR, " ").split()) for text in (*references, candidate)]
    return f" {_SEPARATOR} ".join(["SCORE", *clean])


def _command() -> tuple[list[str], Path]:
    """The program's command line and the folder that holds it."""
    package = importlib.util.find_spec("pycocoevalcap")
    if package is None or not package.submodule_search_locations:
        raise UserError("METEOR needs pycocoevalcap, which is not installed; pip install 'mmjax[metrics]'")
    folder = Path(package.submodule_search_locations[0]) / "meteor"
    if not (folder / "meteor-1.5.jar").is_file():
        raise UserError(f"METEOR: {folder} has no meteor-1.5.jar; pip install --force-reinstall 'pycocoevalcap>=1.2'")
    java = shutil.which("java")
    if java is None:
        raise UserError("METEOR needs Java, which is not on PATH; install a JRE (Debian: default-jre-headless)")
    options = ["-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", "meteor-1.5.jar"]
    return [java, *options, "-", "-", "-stdio", "-l", "en", "-norm"], folder


class _Program:
    """METEOR's process, which answers lines with lines; a thread reads its output, so neither waits for the other."""

    def __init__(self, process: subprocess.Popen, errors: IO[bytes], deadline: float):
        self._process, self._errors, self._deadline = process, errors, deadline
        self._answers: queue.Queue[bytes | None] = queue.Queue()
        self._threads = [threading.Thread(target=self._read, daemon=True)]
        self._threads[0].start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _write(self, lines: Sequence[str]) -> None:
        with contextlib.suppress(OSError):  # The reader reports a process that died.
            for line in lines:
                self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def ask(self, lines: Sequence[str], answers: int) -> list[str]:
        """Writes lines and returns so many lines of the answer."""
        self._threads.append(threading.Thread(target=self._write, args=(lines,), daemon=True))
        self._threads[-1].start()
        return [self._next() for _ in range(answers)]

    def _next(self) -> str:
        try:
            answer = self._answers.get(timeout=max(self._deadline - time.monotonic(), 0))
        except queue.Empty:
            raise UserError(
                "METEOR: its program did not answer in time; give a larger timeout or fewer captions"
            ) from None
        if answer is None:
            self._errors.seek(0)
            message = self._errors.read().decode(errors="replace").strip().splitlines() or ["without a message"]
            raise UserError(f"METEOR: its program ended early ({message[0][:200]}); check `java -version`")
        return answer.decode().strip()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._process.stdout, self._process.stdin):
            with contextlib.suppress(OSError):
                stream.close()


@contextlib.contextmanager
def _program(command: Sequence[str], folder: Path, deadline: float) -> Iterator[_Program]:
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"LC_ALL": "C.UTF-8"},
            )
        except OSError as error:
            raise UserError(f"METEOR: {command[0]} cannot be started ({error}); check `java -version`") from error
        program = _Program(process, errors, deadline)
        try:
            yield program
        finally:
            program.close()
