"""METEOR 1.5 of captions, by its own Java program as pycocoevalcap ships it.

It needs `pip install 'mmjax[metrics]'` and Java 8 or newer. Nothing else is called METEOR here: other implementations
give other numbers.
"""

import contextlib
import importlib.util
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float64

from mmjax.errors import UserError
from mmjax.metrics.caption_metrics import tokenize_captions
from mmjax.utils.piped_process import PipedProcess

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
    has_expired = threading.Event()
    with _program(command, folder) as (program, errors):

        def expire() -> None:
            has_expired.set()
            program.process.kill()

        timer = threading.Timer(timeout, expire)
        timer.start()
        try:
            requests = [_request(*pair) for pair in zip(candidates, references, strict=True)]
            statistics = _ask(program, requests, len(candidates))
            scores = _ask(program, [f" {_SEPARATOR} ".join(["EVAL", *statistics])], len(candidates) + 1)
        except EOFError:
            if has_expired.is_set():
                raise UserError(
                    "METEOR: its program did not answer in time; give a larger timeout or fewer captions"
                ) from None
            errors.seek(0)
            message = errors.read().decode(errors="replace").strip().splitlines() or ["without a message"]
            raise UserError(f"METEOR: its program ended early ({message[0][:200]}); check `java -version`") from None
        finally:
            timer.cancel()
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


@contextlib.contextmanager
def _program(command: Sequence[str], folder: Path) -> Iterator[tuple[PipedProcess, IO[bytes]]]:
    """METEOR's process, which answers lines with lines, and the file of its errors."""
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryFile() as errors:
        try:
            program = PipedProcess.start(command, cwd=folder, stderr=errors, env=environment)
        except OSError as error:
            raise UserError(f"METEOR: {command[0]} cannot be started ({error}); check `java -version`") from error
        with program.process:
            try:
                yield program, errors
            finally:
                program.process.kill()
                with contextlib.suppress(BrokenPipeError):  # what was not written yet is not missed
                    program.stdin.close()


def _ask(program: PipedProcess, lines: Sequence[str], answers: int) -> list[str]:
    """Writes lines and returns so many lines of the answer.

    Raises:
      EOFError: the program ended before.
    """

    def write() -> None:
        with contextlib.suppress(OSError):
            program.stdin.write("".join(f"{line}\n" for line in lines).encode())
            program.stdin.flush()

    writer = threading.Thread(target=write, daemon=True)  # so that neither side waits for the other
    writer.start()
    result = [line.decode().strip() for line in itertools.islice(program.stdout, answers)]
    if len(result) < answers:
        raise EOFError
    writer.join()
    return result
