"""The command line: `mmjax train` and `mmjax eval`; train.py and eval.py are the same in a checkout."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mmjax import config as config_lib
from mmjax.errors import TrainingDiverged, UserError, did_you_mean

# Exit statuses: 0 done, 1 diverged, 2 a mistake in config, flags or data, 128 + n stopped by signal n after saving.
EXIT_DIVERGED, EXIT_MISTAKE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    commands = {"train": train_main, "eval": eval_main}
    if argv and argv[0] in commands:
        return commands[argv[0]](argv[1:])
    if not argv or argv[0] in ("-h", "--help"):
        print(
            "usage: mmjax {train,eval} ...\n\n  train  train a recipe, or resume it"
            "\n  eval   evaluate a trained workdir"
        )
        print("\nrecipes: " + ", ".join(sorted(p.stem for p in config_lib.recipe_folder().glob("*.py"))))
        return 0 if argv else EXIT_MISTAKE
    print(
        f"error: {argv[0]!r} is not a command{did_you_mean(argv[0], commands)}; choose train or eval", file=sys.stderr
    )
    return EXIT_MISTAKE


def train_main(argv: Sequence[str] | None = None) -> int:
    """`train --config=RECIPE[:k=v,k=v] --workdir=DIR [--config.FIELD=VALUE ...]`."""
    parser = _parser("train", "Trains a recipe; started again on the same workdir, it resumes.")
    parser.add_argument(
        "--config", required=True, metavar="RECIPE[:k=v,...]", help="a .py file, or the name of a recipe"
    )
    parser.add_argument("--workdir", required=True, help="folder or URL for checkpoints, logs and the report")

    def command(options, overrides):
        config = config_lib.load_recipe(options.config)
        config_lib.apply_overrides(config, overrides)
        prepare(config)
        from mmjax.training import loop  # after the environment is set

        stopped = loop.train(config, options.workdir)
        if stopped is None:
            print(f"done: step {config.steps} of {options.workdir}; report: {options.workdir}/report.html")
            return 0
        return 128 + stopped

    return _run(parser, argv, command)


def eval_main(argv: Sequence[str] | None = None) -> int:
    """`eval --workdir=DIR [--step=N] [--output=FILE] [--config.FIELD=VALUE ...]`."""
    parser = _parser("eval", "Restores a checkpoint, evaluates it, prints a table, writes JSON and a report.")
    parser.add_argument("--workdir", required=True, help="workdir of a trained run")
    parser.add_argument("--step", type=int, default=None, help="checkpoint to evaluate; the latest by default")
    parser.add_argument("--output", default=None, help="JSON file; WORKDIR/eval/STEP.json by default")

    def command(options, overrides):
        from mmjax import evaluate

        meta = evaluate.read_meta(options.workdir, options.step)
        config = config_lib.from_json(json.dumps(meta["config"]))
        evaluate.apply_overrides(config, overrides)
        prepare(config)
        evaluate.evaluate_workdir(config, options.workdir, meta, step=options.step, output=options.output)
        return 0

    return _run(parser, argv, command)


def prepare(config) -> None:
    """Sets what must be set before the devices start: XLA flags and the compilation cache."""
    # libtpu reads its flags elsewhere, and XLA ends the process at a flag that it does not know.
    given = config.xla_flags.split()
    flags = [flag for flag in given if not flag.startswith("--xla_tpu")]
    tpu_flags = [flag for flag in given if flag.startswith("--xla_tpu")]
    if tpu_flags:
        os.environ["LIBTPU_INIT_ARGS"] = " ".join([*tpu_flags, os.environ.get("LIBTPU_INIT_ARGS", "")]).strip()
    if config.deterministic:
        flags.append("--xla_gpu_deterministic_ops=true")
    os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()
    # grain and orbax tell every step of theirs, and warn of what is as it should be; errors are enough.
    import logging

    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)

    import jax

    folder = config.compilation_cache
    if folder == "auto":
        # On CPU loading is no faster than compiling and warns about machine features.
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mmjax" / "xla"
        folder = "" if jax.default_backend() == "cpu" else str(cache)
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"mmjax {name}", description=description, allow_abbrev=False)
    parser.error = _raise_usage
    parser.epilog = "--config.FIELD=VALUE sets any field of the config, e.g. --config.optimizer.learning_rate=1e-3"
    return parser


def _raise_usage(message: str) -> None:
    raise UserError(f"{message}; see --help")


def _run(parser: argparse.ArgumentParser, argv: Sequence[str] | None, command) -> int:
    try:
        options, rest = parser.parse_known_args(argv)
        return command(options, _overrides(rest, parser))
    except UserError as error:
        print("error: " + " ".join(str(error).split("\n")), file=sys.stderr)
        return EXIT_MISTAKE
    except KeyboardInterrupt:  # a second Ctrl-C, or one before there was anything to save
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except TrainingDiverged as error:
        print(f"stopped: {error}", file=sys.stderr)
        return EXIT_DIVERGED


def _overrides(rest: Sequence[str], parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Reads `--config.PATH=VALUE` and `--config.PATH VALUE`."""
    overrides, position = [], 0
    while position < len(rest):
        flag, equals, value = rest[position].partition("=")
        position += 1
        if not flag.startswith("--config."):
            known = [option for action in parser._actions for option in action.option_strings] + ["--config.FIELD"]
            raise UserError(f"flag {flag!r} is not known{did_you_mean(flag, known)}; see --help")
        if not equals:
            if position == len(rest):
                raise UserError(f"{flag} has no value; write {flag}=VALUE")
            value = rest[position]
            position += 1
        overrides.append((flag.removeprefix("--config."), value))
    return overrides
