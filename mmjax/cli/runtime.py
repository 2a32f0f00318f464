"""What every command does: flags, overrides, devices, other processes, exit statuses."""

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence

from mmjax.errors import GlobalUserError, TrainingDiverged, UserError, did_you_mean
from mmjax.training import compiler

# Exit statuses: 0 done, 1 diverged, or a plan that does not fit, 2 a mistake in config, flags or data, 128 + n stopped
# by signal n after saving.
EXIT_DIVERGED, EXIT_MISTAKE = 1, 2


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Adds what can be said of the weights of another library: `--tokenizer` and `--set`."""
    parser.add_argument(
        "--tokenizer", metavar="SPEC", help="clip, bytes, sentencepiece:FILE, json:FILE; what lies beside the weights"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="what the file does not tell, e.g. activation=quick_gelu or image.heads=16",
    )


def check_model_flags(options: argparse.Namespace) -> None:
    """Checks that `--tokenizer` and `--set` come with `--model`.

    Raises:
      UserError: they would change a run.
    """
    given = f"--tokenizer={options.tokenizer}" if options.tokenizer is not None else ""
    given = given or next((f"--set {text}" for text in options.set), "")
    if given and options.model is None:
        raise UserError(f"{given} needs --model; the run in --workdir has a tokenizer and settings of its own")


def model_flags(options: argparse.Namespace) -> dict:
    """`--tokenizer` and `--set` as `evaluate.open_model` takes them."""

    from mmjax.interop import model_settings  # imports jax

    return dict(tokenizer=options.tokenizer, changes=model_settings.parse(options.set))


def add_cluster_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "several processes",
        "found by themselves under SLURM, Open MPI, on TPU pods and on Kubernetes; else started so:",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, the same for all")
    group.add_argument("--processes", type=int, metavar="N", help="how many; 1 by itself switches the detection off")
    group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")
    group.add_argument("--join-timeout", type=int, default=300, metavar="SECONDS", help="to wait for the others; 300")


def start(options, read, *, training: bool = False):
    """Reads the config, joins the other processes where there are any, and sets up the devices.

    A mistake in the config waits until the others can be told: one that all make is printed once.
    """
    config = mistake = None
    try:
        config = read()
        set_environment(config, training=training)
    except UserError as error:
        mistake = error
    from mmjax.parallel import cluster, process_agreement

    try:
        cluster.start(options.coordinator, options.processes, options.process, timeout=options.join_timeout)
    except UserError as error:
        raise mistake or error from None
    process_agreement.raise_error_on_all(mistake)
    compiler.set_compilation_cache(config)
    return config


def prepare(config, platform: str | None = None, *, training: bool = False) -> None:
    """Sets what must be set before the devices start, for a process by itself."""
    set_environment(config, platform, training=training)
    compiler.set_compilation_cache(config)


def set_environment(config, platform: str | None = None, *, training: bool = False) -> None:
    """Sets what jax and XLA read when the devices start; arguments as `compiler.set_environment` takes them."""
    compiler.set_environment(config, platform, training=training)
    # grain and orbax tell every step of theirs, and warn of what is as it should be; errors are enough.
    import logging

    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)


def make_parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"mmjax {name}", description=description, allow_abbrev=False)
    parser.error = _raise_usage_error
    parser.epilog = "--config.FIELD=VALUE sets any field of the config, e.g. --config.optimizer.learning_rate=1e-3"
    return parser


def _raise_usage_error(message: str) -> None:
    raise UserError(f"{message}; see --help")


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None, command) -> int:
    """Runs a command; returns the exit status, or ends the process when it stops without the others that it joined."""
    together = True
    try:
        options, rest = parser.parse_known_args(argv)
        status = command(options, parse_overrides(rest, parser))
    except UserError as error:
        together = isinstance(error, GlobalUserError)
        if _is_process_0() or not together:
            print("error: " + " ".join(str(error).split("\n")), file=sys.stderr)
        status = EXIT_MISTAKE
    except KeyboardInterrupt:  # a second Ctrl-C, or one before there was anything to save
        print("interrupted", file=sys.stderr)
        status, together = 128 + signal.SIGINT, False
    except TrainingDiverged as error:
        if _is_process_0():
            print(f"stopped: {error}", file=sys.stderr)
        status = EXIT_DIVERGED
    except Exception as error:
        if not _joined():
            raise
        from mmjax.parallel import process_agreement

        # Told by all together, when the error is another process's and so known to all.
        together = isinstance(error, process_agreement.OtherProcessError)
        if together:
            print(f"stopped: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        status = 1
    if _joined():
        from mmjax.parallel import process_agreement

        process_agreement.shutdown(status, together=together)
    return status


def _joined() -> bool:
    """Whether this process is one of several; imports nothing."""
    module = sys.modules.get("mmjax.parallel.process_agreement")
    return module is not None and module.is_running()


def _is_process_0() -> bool:
    return not _joined() or sys.modules["mmjax.parallel.process_agreement"].is_process_0()


def parse_overrides(rest: Sequence[str], parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
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


def no_overrides(overrides: Sequence[tuple[str, str]]) -> None:
    """Refuses `--config.FIELD=VALUE`."""
    if overrides:
        raise UserError(
            f"--config.{overrides[0][0]}: there is no config here; use --set for what the file does not tell"
        )
