"""Lines for people on the terminal, from one process of a run."""

import sys

import jax
from tqdm import tqdm

from mmjax.utils import terminal


def info(text: str) -> None:
    """Prints a line, on process 0 only, without breaking a progress bar."""
    if jax.process_index() == 0:
        tqdm.write(terminal.printable(text), file=sys.stdout)
        sys.stdout.flush()
