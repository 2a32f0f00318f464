"""Parts of every command: flags, overrides, devices, other processes, exit statuses."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from mmjax import plugin_imports
from mmjax.config import schema
from mmjax.config.schema import RunConfig
from mmjax.errors import (
    EXIT_MACHINE,
    GlobalMachineError,
    GlobalUserError,
    TrainingDiverged,
    UserError,
    did_you_mean,
)
from mmjax.io import machine_faults
from mmjax.training import compiler
from mmjax.utils import terminal

# Exit statuses: 0 done, 1 diverged, or a plan that does not fit, 2 a mistake in config, flags or data, EXIT_MACHINE the
# machine failed and the run can be started again, 128 + n stopped by signal n after saving.
EXIT_DIVERGED, EXIT_MISTAKE = 1, 2


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `ModelFlags` reads."""
    parser.add_argument("--workdir", help="workdir of a trained run")
    parser.add_argument("--step", type=int, default=None, help="its checkpoint; the latest by default")
    parser.add_argument("--model", metavar="PATH", help="instead of a workdir: weights that mmjax.load reads")
    parser.add_argument(
        "--tokenizer", metavar="SPEC", help="clip, bytes, sentencepiece:FILE, json:FILE; what lies beside the weights"
    )
    add_model_config_flag(parser, "what the file does not hold, e.g. activation=quick_gelu or image.heads=16")
    add_plugins_flag(parser)


def add_plugins_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plugins", metavar="MODULE,...", help="import these, which register sources, models, ...")


def import_plugins(options: argparse.Namespace) -> tuple[str, ...]:
    """Imports what `--plugins` names, before anything is read that may name what they register; returns the modules."""
    return plugin_imports.import_plugins(plugin_imports.parse_flag(options.plugins), "--plugins")


def add_model_config_flag(parser: argparse.ArgumentParser, help: str) -> None:
    parser.add_argument("--model-config", action="append", default=[], metavar="FIELD=VALUE", help=help)
    parser.add_argument("--set", dest="model_config", action="append", help=argparse.SUPPRESS)  # until 0.1


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Adds what may be said of SRC, a workdir or weights, by commands that write it in another form."""
    parser.add_argument("--step", type=int, help="checkpoint of a workdir; the latest by default")
    parser.add_argument("--tokenizer", metavar="SPEC", help="clip, bytes, sentencepiece:FILE, json:FILE; as SRC has it")
    add_model_config_flag(parser, "what SRC does not hold, e.g. activation=quick_gelu or image.heads=16")
    add_plugins_flag(parser)


def source_options(options: argparse.Namespace) -> dict[str, Any]:
    """What the flags of `add_source_flags` say, as arguments of `convert`, `push` and `export`; imports plugins."""
    from mmjax.interop import model_settings  # which imports jax

    import_plugins(options)
    settings = model_settings.parse_flags(options.model_config)
    return dict(step=options.step, tokenizer=options.tokenizer, settings=settings)


class ModelFlags:
    """The model that `--workdir` or `--model` names.

    Raises:
      UserError: both or none, or `--tokenizer` and `--model-config`, which would change a run, without `--model`.
    """

    def __init__(self, options: argparse.Namespace):
        if (options.workdir is None) == (options.model is None):
            raise UserError("--workdir or --model: give one of them; --workdir=DIR is a run, --model=PATH weights")
        for_weights = [f"--tokenizer={options.tokenizer}"] if options.tokenizer is not None else []
        for_weights += [f"--model-config {text}" for text in options.model_config]
        if for_weights and options.model is None:
            raise UserError(
                f"{for_weights[0]} needs --model; the run in --workdir has a tokenizer and settings of its own"
            )
        self._options = options
        self._run, self._overrides = None, []

    def read_config(self, overrides: Sequence[tuple[str, str]]) -> RunConfig:
        """The config by which the devices are set up; starts none of them.

        Raises:
          UserError: there is no such checkpoint, or an override of a field that describes the model.
        """
        from mmjax.inference import checkpoint_source, eval_model
        from mmjax.training import stored_meta

        options, self._overrides = self._options, overrides
        import_plugins(options)
        if options.model is None:
            self._run = checkpoint_source.RunCheckpoint(
                options.workdir, options.step, workdir_name=f"--workdir={options.workdir}", step_field="--step"
            )
            config, left_out = stored_meta.without_machine_fields(self._run.config, options.workdir)
            for field, value in left_out.items():
                if field not in dict(overrides):
                    terminal.show_error(
                        f"{field}={value!r} of the stored config is left out, as it tells this machine what to do;"
                        f" --config.{field}=... sets it"
                    )
            self._run.config = eval_model.apply_overrides(config, overrides)
            return self._run.config
        if options.step is not None:
            raise UserError(f"--step={options.step} needs --workdir; a file has one set of weights")
        return eval_model.apply_overrides(schema.parse(schema.base_config()), overrides)

    def open(self):
        """The `EvalModel`, once the devices are set up by `read_config`; every process calls it."""
        from mmjax.inference import eval_model
        from mmjax.interop import model_settings

        if self._run is not None:
            return eval_model.open_workdir(self._run)
        settings = model_settings.parse_flags(self._options.model_config)
        return eval_model.open_model(
            self._options.model, self._overrides, tokenizer=self._options.tokenizer, settings=settings
        )


def add_cluster_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "several processes",
        "found by themselves under SLURM, Open MPI, on TPU pods and on Kubernetes; else started so:",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, the same for all")
    group.add_argument("--processes", type=int, metavar="N", help="how many; 1 by itself switches the detection off")
    group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")
    group.add_argument("--join-timeout", type=int, default=300, metavar="SECONDS", help="to wait for the others; 300")


def read_and_join(options: argparse.Namespace, read: Callable[[], Any]) -> Any:
    """Calls `read`, then joins the other processes where there are any; returns what `read` returns.

    `read` also calls `set_environment`, which must come before the devices start. A mistake that it raises waits until
    the processes know of each other: one that all make is printed once.
    """
    result = mistake = None
    try:
        result = read()
    except UserError as error:
        mistake = error
    from mmjax.parallel import cluster, peer_watch, process_agreement

    try:
        cluster.start(options.coordinator, options.processes, options.process, timeout=options.join_timeout)
    except UserError as error:
        raise mistake or error from None
    process_agreement.raise_error_on_all(mistake)
    peer_watch.start()
    return result


def prepare(config: RunConfig, platform: str | None = None, *, training: bool = False) -> None:
    """Sets what must be set before the devices start, for a process by itself."""
    set_environment(config, platform, training=training)
    compiler.set_compilation_cache(config)


def set_environment(config: RunConfig, platform: str | None = None, *, training: bool = False) -> None:
    """Sets what jax and XLA read when the devices start; arguments as `compiler.set_environment` takes them."""
    compiler.set_environment(config, platform, training=training)
    # grain and orbax log every step of theirs, warn of what is as it should be, and log errors that they raise.
    import logging

    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def make_parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"mmjax {name}", description=description, allow_abbrev=False)
    parser.epilog = "--config.FIELD=VALUE sets any field of the config, e.g. --config.optimizer.learning_rate=1e-3"
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are those of every other field."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def run(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    command: Callable[[argparse.Namespace, list[tuple[str, str]]], int],
) -> int:
    """Runs a command; returns the exit status, or ends the process when it stops without the others that it joined."""
    together = True
    terminal.format_log()
    try:
        _check_flags(parser, sys.argv[1:] if argv is None else argv)
        options, rest = parser.parse_known_args(argv)
        status = command(options, parse_overrides(rest, parser))
        sys.stdout.flush()
    except KeyboardInterrupt:  # a second Ctrl-C, or one before there was anything to save
        terminal.show_error("interrupted")
        status, together = 128 + signal.SIGINT, False
    except BrokenPipeError:  # what reads the output has left, as `head` does
        if _joined():
            raise
        # Python would complain when it empties its buffer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        status, together = _report(error)
    if _joined():
        from mmjax.parallel import peer_watch, process_agreement

        if together:
            peer_watch.stop()
        process_agreement.shutdown(status, together=together)
    return status


def _report(error: Exception) -> tuple[int, bool]:
    """Prints an error; returns the exit status, and whether all processes end together, as they all met it."""
    if fault := machine_faults.of(error):
        together = isinstance(fault, GlobalMachineError)
        if _is_process_0() or not together:
            _show_line("stopped", fault)
        return EXIT_MACHINE, together
    if isinstance(error, UserError):
        together = isinstance(error, GlobalUserError)
        if _is_process_0() or not together:
            _show_line("error", error)
        return EXIT_MISTAKE, together
    if isinstance(error, TrainingDiverged):
        if _is_process_0():
            _show_line("stopped", error)
        return EXIT_DIVERGED, True
    if not _joined():
        raise error
    from mmjax.parallel import process_agreement

    # An error of another process is known to all, which end together.
    together = isinstance(error, process_agreement.OtherProcessError)
    if together:
        _show_line("stopped", error)
    else:
        traceback.print_exception(error)
    return 1, together


def _show_line(start: str, error: Exception) -> None:
    terminal.show_error(f"{start}: " + " ".join(str(error).split("\n")))


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
            raise _unknown_flag(parser, flag)
        if not equals:
            if position == len(rest):
                raise UserError(f"{flag} has no value; write {flag}=VALUE")
            value = rest[position]
            position += 1
        overrides.append((flag.removeprefix("--config."), value))
    return overrides


def _check_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Refuses a flag that there is not, which argparse would do after it has missed another one."""
    for text in argv:
        flag = text.partition("=")[0]
        if text == "--":
            return
        if flag.startswith("--") and not flag.startswith("--config.") and flag not in parser._option_string_actions:
            raise _unknown_flag(parser, flag)


def _unknown_flag(parser: argparse.ArgumentParser, flag: str) -> UserError:
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    known = [option for action in shown for option in action.option_strings] + ["--config.FIELD"]
    return UserError(f"flag {flag!r} is not known{did_you_mean(flag, known)}; see --help")


def refuse_fields(overrides: Sequence[tuple[str, str]]) -> None:
    """Refuses `--config.FIELD=VALUE` of a command that reads no config and no model."""
    if overrides:
        raise UserError(f"--config.{overrides[0][0]} sets nothing here; see --help")


def refuse_overrides(overrides: Sequence[tuple[str, str]]) -> None:
    """Refuses `--config.FIELD=VALUE` of a command that reads a model of a file."""
    if overrides:
        raise UserError(
            f"--config.{overrides[0][0]}: there is no config here; use --model-config for what the file does not hold"
        )
