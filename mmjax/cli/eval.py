"""`mmjax eval`: a checkpoint evaluated, by a run's own evaluation or by a suite."""

import argparse
from collections.abc import Sequence

from mmjax.cli import runtime
from mmjax.config.suite_recipe import load_suite
from mmjax.errors import UserError
from mmjax.training import compiler


def main(argv: Sequence[str] | None = None) -> int:
    """`eval --workdir=DIR|--model=PATH [--step=N] [--config=SUITE] [--output=FILE] [--config.FIELD=VALUE ...]`."""
    parser = runtime.make_parser(
        "eval", "Restores a checkpoint, evaluates it, prints a table, writes JSON and a report."
    )
    runtime.add_model_flags(parser)
    parser.add_argument("--config", metavar="SUITE[:k=v,...]", help="datasets and tasks, such as configs/eval.py")
    parser.add_argument("--overwrite", action="store_true", help="run what a suite has finished, too")
    parser.add_argument("--again", dest="overwrite", action="store_true", help=argparse.SUPPRESS)  # until 0.1
    parser.add_argument("--output", default=None, help="JSON file; WORKDIR/eval/STEP.json by default")
    runtime.add_cluster_flags(parser)

    def command(options, overrides):
        from mmjax.inference import evaluate

        model_flags = runtime.ModelFlags(options)
        if options.overwrite and not options.config:
            raise UserError("--overwrite needs --config=SUITE; without one everything is evaluated again anyway")

        def read():
            plugins = runtime.import_plugins(options)
            suite, model_overrides = None, overrides
            if options.config:
                suite, model_overrides = load_suite(options.config, overrides, plugins)
            config = model_flags.read_config(model_overrides)
            runtime.set_environment(config)
            return config, suite

        config, suite = runtime.read_and_join(options, read)
        compiler.set_compilation_cache(config)
        model = model_flags.open()
        if suite is None:
            evaluate.evaluate_model(model, workdir=options.workdir, output=options.output)
        else:
            evaluate.evaluate_suite(
                model, suite, workdir=options.workdir, output=options.output, overwrite=options.overwrite
            )
        return 0

    return runtime.run(parser, argv, command)
