"""`mmjax eval`: a checkpoint evaluated, by a run's own evaluation or by a suite."""

import json
from collections.abc import Sequence

from mmjax.cli.runtime import (
    add_cluster_flags,
    add_model_flags,
    check_model_flags,
    make_parser,
    model_flags,
    run,
    start,
)
from mmjax.config import schema, serialize
from mmjax.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """`eval --workdir=DIR|--model=PATH [--step=N] [--config=SUITE] [--output=FILE] [--config.FIELD=VALUE ...]`."""
    parser = make_parser("eval", "Restores a checkpoint, evaluates it, prints a table, writes JSON and a report.")
    parser.add_argument("--workdir", help="workdir of a trained run")
    parser.add_argument("--step", type=int, default=None, help="checkpoint to evaluate; the latest by default")
    parser.add_argument("--model", metavar="PATH", help="instead of a workdir: weights that mmjax.load reads")
    add_model_flags(parser)
    parser.add_argument("--config", metavar="SUITE[:k=v,...]", help="datasets and tasks, such as configs/eval.py")
    parser.add_argument("--again", action="store_true", help="run what a suite has finished, too")
    parser.add_argument("--output", default=None, help="JSON file; WORKDIR/eval/STEP.json by default")

    add_cluster_flags(parser)

    def command(options, overrides):
        from mmjax.inference import eval_model, evaluate

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
                config = schema.base_config()
            else:
                meta.update(eval_model.read_meta(options.workdir, options.step))
                config = serialize.from_json(json.dumps(meta["config"]))
            eval_model.apply_overrides(config, own)
            return config

        config = start(options, read)
        if options.model is None:
            model = eval_model.open_workdir(config, options.workdir, meta, step=options.step)
        else:
            model = eval_model.open_model(options.model, given["overrides"], **model_flags(options))
        places = dict(workdir=options.workdir, output=options.output)
        if options.config:
            evaluate.evaluate_suite(model, given["suite"], again=options.again, **places)
        else:
            evaluate.evaluate_model(model, **places)
        return 0

    return run(parser, argv, command)
