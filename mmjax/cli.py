"""The command line, `mmjax COMMAND`; train.py and eval.py are its first two in a checkout."""

import argparse
import importlib
import json
import signal
import sys
import traceback
from collections.abc import Sequence

from mmjax import config as config_lib
from mmjax import override
from mmjax.errors import AgreedError, TrainingDiverged, UserError, did_you_mean
from mmjax.training import compiler

# Exit statuses: 0 done, 1 diverged, or a plan that does not fit, 2 a mistake in config, flags or data, 128 + n stopped
# by signal n after saving.
EXIT_DIVERGED, EXIT_MISTAKE = 1, 2


# Name: (where its function is, what it does). Modules are imported when asked for.
COMMANDS = {
    "train": ("mmjax.cli:train_main", "train a recipe, or resume it"),
    "eval": ("mmjax.cli:eval_main", "evaluate a trained workdir, or weights of another library"),
    "plan": ("mmjax.cli:plan_main", "say what a recipe would need on TPUs or GPUs that are not here"),
    "index": ("mmjax.cli:index_main", "find the examples of WebDataset shards, and what is wrong with the shards"),
    "convert": ("mmjax.convert:convert_main", "write a model in OpenCLIP's, Hugging Face's or mmjax's format"),
    "info": ("mmjax.info:info_main", "say what a workdir or another library's checkpoint holds"),
    "search": ("mmjax.search:search_main", "find a folder's images by text or image"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in COMMANDS:
        module, _, function = COMMANDS[argv[0]][0].partition(":")
        return getattr(importlib.import_module(module), function)(argv[1:])
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print(f"usage: mmjax {{{','.join(COMMANDS)}}} ...\n")
        print("\n".join(f"  {name:{width}}  {told}" for name, (_, told) in COMMANDS.items()))
        print(
            "\nrecipes: "
            + ", ".join(sorted(p.stem for p in config_lib.recipe_folder().glob("*.py") if p.stem != "eval"))
        )
        return 0 if argv else EXIT_MISTAKE
    print(
        f"error: {argv[0]!r} is not a command{did_you_mean(argv[0], COMMANDS)}; choose {', '.join(COMMANDS)}",
        file=sys.stderr,
    )
    return EXIT_MISTAKE


def train_main(argv: Sequence[str] | None = None) -> int:
    """`train --config=RECIPE[:k=v,k=v] --workdir=DIR [--config.FIELD=VALUE ...]`."""
    parser = make_parser("train", "Trains a recipe; started again on the same workdir, it resumes.")
    parser.add_argument(
        "--config", required=True, metavar="RECIPE[:k=v,...]", help="a .py file, or the name of a recipe"
    )
    parser.add_argument("--workdir", required=True, help="folder or URL for checkpoints, logs and the report")

    _add_cluster_flags(parser)

    def command(options, overrides):
        def read():
            config = config_lib.load_recipe(options.config)
            override.apply(config, overrides)
            return config

        config = _start(options, read, training=True)
        from mmjax.parallel import distributed
        from mmjax.training import loop  # after the environment is set

        stopped = loop.train(config, options.workdir, [path for path, _ in overrides])
        if stopped is None:
            if distributed.is_first():
                print(f"done: step {config.steps} of {options.workdir}; report: {options.workdir}/report.html")
            return 0
        return 128 + stopped

    return run(parser, argv, command)


def eval_main(argv: Sequence[str] | None = None) -> int:
    """`eval --workdir=DIR|--model=PATH [--step=N] [--config=SUITE] [--output=FILE] [--config.FIELD=VALUE ...]`."""
    parser = make_parser("eval", "Restores a checkpoint, evaluates it, prints a table, writes JSON and a report.")
    parser.add_argument("--workdir", help="workdir of a trained run")
    parser.add_argument("--step", type=int, default=None, help="checkpoint to evaluate; the latest by default")
    parser.add_argument("--model", metavar="PATH", help="instead of a workdir: weights that mmjax.load reads")
    add_model_flags(parser)
    parser.add_argument("--config", metavar="SUITE[:k=v,...]", help="datasets and tasks, such as configs/eval.py")
    parser.add_argument("--again", action="store_true", help="run what a suite has finished, too")
    parser.add_argument("--output", default=None, help="JSON file; WORKDIR/eval/STEP.json by default")

    _add_cluster_flags(parser)

    def command(options, overrides):
        from mmjax import evaluate

        if (options.workdir is None) == (options.model is None):
            raise UserError(
                "--workdir or --model: give one of them; --workdir=DIR evaluates a run, --model=PATH weights"
            )
        if options.again and not options.config:
            raise UserError("--again needs --config=SUITE; without one everything is evaluated again anyway")
        check_model_flags(options)
        given, meta = {}, {}

        def read():
            own = overrides
            if options.config:
                given["suite"], own = evaluate.read_suite(options.config, overrides)
            given["overrides"] = own
            if options.model is not None:
                if options.step is not None:
                    raise UserError(f"--step={options.step} needs --workdir; a file has one set of weights")
                config = config_lib.base_config()
            else:
                meta.update(evaluate.read_meta(options.workdir, options.step))
                config = config_lib.from_json(json.dumps(meta["config"]))
            evaluate.apply_overrides(config, own)
            return config

        config = _start(options, read)
        if options.model is None:
            model = evaluate.open_workdir(config, options.workdir, meta, step=options.step)
        else:
            model = evaluate.open_model(options.model, given["overrides"], **model_flags(options))
        places = dict(workdir=options.workdir, output=options.output)
        if options.config:
            evaluate.evaluate_suite(model, given["suite"], again=options.again, **places)
        else:
            evaluate.evaluate_model(model, **places)
        return 0

    return run(parser, argv, command)


def plan_main(argv: Sequence[str] | None = None) -> int:
    """`plan --config=RECIPE[:k=v,k=v] --topology=v5e:16x16 [--budget=N] [--sweep] [--config.FIELD=VALUE ...]`."""
    parser = make_parser(
        "plan",
        "Compiles a recipe's train step for TPUs or NVIDIA GPUs that are not here: memory, FLOPs, bytes moved by class"
        " of kernel, collectives, shortest and predicted step. No device and no data are needed; pip install"
        " 'mmjax[tpu]' or 'mmjax[plan-gpu]' brings the compiler. Exit status 1: it does not fit.",
    )
    parser.add_argument(
        "--config", required=True, metavar="RECIPE[:k=v,...]", help="a .py file, or the name of a recipe"
    )
    parser.add_argument(
        "--topology",
        required=True,
        metavar="CHIP:AxB[xC]",
        help="e.g. v5e:16x16, v5p:4x4x4; of GPUs h100:8 or hosts x GPUs, h100:4x8 (also a100, h200, b200)",
    )
    parser.add_argument("--budget", metavar="EXAMPLES", help="also tell steps and chip-hours for so many, e.g. 12.8e9")
    parser.add_argument(
        "--sweep",
        nargs="?",
        const="mesh,microbatch",
        metavar="WHAT",
        help="try several and rank them: mesh, microbatch, remat; mesh,microbatch when nothing is named",
    )
    parser.add_argument("--max-compiles", type=int, default=12, metavar="N", help="of a sweep; 12 by default")
    parser.add_argument(
        "--text-length",
        metavar="TOKENS",
        help="plan packed texts of so many tokens on average, e.g. 18",
    )
    parser.add_argument("--output", metavar="FILE", help="the same numbers as JSON")

    def command(options, overrides):
        config = config_lib.load_recipe(options.config)
        override.apply(config, overrides)
        from mmjax.plan import topology  # jax is imported after this

        topology.set_environment(options.topology)
        prepare(config, "gpu" if topology.is_gpu(options.topology) else "tpu", training=True)
        from mmjax.plan import command as plan

        return plan.run(
            config,
            options.topology,
            budget=options.budget,
            swept=options.sweep,
            max_compiles=options.max_compiles,
            text_length=options.text_length,
            output=options.output,
            given=[path for path, _ in overrides],
        )

    return run(parser, argv, command)


def index_main(argv: Sequence[str] | None = None) -> int:
    """`index PATTERN [--output FILE] [--workers N] [--force] [--cache DIR]`."""
    from mmjax.data import index_command

    parser = make_parser("index", "")
    index_command.add_arguments(parser)

    def command(options, overrides):
        if overrides:
            raise UserError(f"--config.{overrides[0][0]} sets nothing here; see --help")
        return index_command.run(options)

    return run(parser, argv, command)


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
    from mmjax.interop import settings

    return dict(tokenizer=options.tokenizer, changes=settings.parse(options.set))


def _add_cluster_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "several processes",
        "found by themselves under SLURM, Open MPI, on TPU pods and on Kubernetes; else started so:",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, the same for all")
    group.add_argument("--processes", type=int, metavar="N", help="how many; 1 by itself switches the detection off")
    group.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")
    group.add_argument("--join-timeout", type=int, default=300, metavar="SECONDS", help="to wait for the others; 300")


def _start(options, read, *, training: bool = False):
    """Reads the config, joins the other processes where there are any, and sets up the devices.

    A mistake in the config waits until the others can be told: one that all make is printed once.
    """
    config = mistake = None
    try:
        config = read()
        set_environment(config, training=training)
    except UserError as error:
        mistake = error
    from mmjax.parallel import cluster, distributed

    try:
        cluster.start(options.coordinator, options.processes, options.process, timeout=options.join_timeout)
    except UserError as error:
        raise mistake or error from None
    distributed.raise_together(mistake)
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
    parser.error = _raise_usage
    parser.epilog = "--config.FIELD=VALUE sets any field of the config, e.g. --config.optimizer.learning_rate=1e-3"
    return parser


def _raise_usage(message: str) -> None:
    raise UserError(f"{message}; see --help")


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None, command) -> int:
    """Runs a command; returns the exit status, or ends the process when it stops without the others that it joined."""
    together = True
    try:
        options, rest = parser.parse_known_args(argv)
        status = command(options, parse_overrides(rest, parser))
    except UserError as error:
        together = isinstance(error, AgreedError)
        if _is_first() or not together:
            print("error: " + " ".join(str(error).split("\n")), file=sys.stderr)
        status = EXIT_MISTAKE
    except KeyboardInterrupt:  # a second Ctrl-C, or one before there was anything to save
        print("interrupted", file=sys.stderr)
        status, together = 128 + signal.SIGINT, False
    except TrainingDiverged as error:
        if _is_first():
            print(f"stopped: {error}", file=sys.stderr)
        status = EXIT_DIVERGED
    except Exception as error:
        if not _joined():
            raise
        from mmjax.parallel import distributed

        # Told by all together, when the error is another process's and so known to all.
        together = isinstance(error, distributed.OtherProcessError)
        if together:
            print(f"stopped: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        status = 1
    if _joined():
        from mmjax.parallel import distributed

        distributed.leave(status, together=together)
    return status


def _joined() -> bool:
    """Whether this process is one of several; imports nothing."""
    module = sys.modules.get("mmjax.parallel.distributed")
    return module is not None and module.is_running()


def _is_first() -> bool:
    return not _joined() or sys.modules["mmjax.parallel.distributed"].is_first()


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
