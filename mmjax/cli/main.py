"""The command line, `mmjax COMMAND`; train.py and eval.py are its first two in a checkout."""

import importlib
import sys
from collections.abc import Sequence

from mmjax.cli.runtime import EXIT_MISTAKE
from mmjax.config import recipe
from mmjax.errors import did_you_mean
from mmjax.utils import terminal, version

# What each command does; `mmjax.cli.NAME.main` runs it. Its module is imported when the command is run.
COMMANDS = {
    "train": "train a recipe, or resume it",
    "eval": "evaluate a trained workdir, or weights of another library",
    "plan": "print what a recipe would need on TPUs or GPUs that are not here",
    "index": "find the examples of WebDataset shards, and what is wrong with the shards",
    "convert": "write a model in OpenCLIP's, Hugging Face's or mmjax's format",
    "push": "publish a model with its card, on the Hub or in a folder",
    "export": "write a model's towers as StableHLO, which runs without mmjax",
    "info": "print what a workdir or another library's checkpoint holds",
    "list": "list the models that are made by a name, such as ViT-B-32",
    "search": "find a folder's images by text or image",
    "recipes": "list the recipes, or print what one says of itself and its arguments",
    "completion": "print a script by which bash, zsh or fish completes these commands",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in COMMANDS:
        return importlib.import_module(f"mmjax.cli.{argv[0]}").main(argv[1:])
    if argv == ["--version"]:
        terminal.show(f"mmjax {version.VERSION}")
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        terminal.show(f"usage: mmjax {{{','.join(COMMANDS)}}} ...\n       mmjax --version\n")
        terminal.show("\n".join(f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items()))
        terminal.show(f"\nrecipes: {', '.join(name for name in recipe.names() if name != 'eval')}")
        return 0 if argv else EXIT_MISTAKE
    terminal.show_error(
        f"error: {argv[0]!r} is not a command{did_you_mean(argv[0], COMMANDS)}; choose {', '.join(COMMANDS)}"
    )
    return EXIT_MISTAKE
