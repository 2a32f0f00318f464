"""`mmjax train`: a recipe trained, or resumed."""

from collections.abc import Sequence

from mmjax.cli import runtime
from mmjax.config import overrides as overrides_lib
from mmjax.config import recipe
from mmjax.training import compiler


def main(argv: Sequence[str] | None = None) -> int:
    """`train --config=RECIPE[:k=v,k=v] --workdir=DIR [--config.FIELD=VALUE ...]`."""
    parser = runtime.make_parser("train", "Trains a recipe; started again on the same workdir, it resumes.")
    parser.add_argument(
        "--config", required=True, metavar="RECIPE[:k=v,...]", help="a .py file, or the name of a recipe"
    )
    parser.add_argument("--workdir", required=True, help="folder or URL for checkpoints, logs and the report")
    runtime.add_cluster_flags(parser)

    def command(options, overrides):
        def read():
            config = recipe.load_recipe(options.config)
            overrides_lib.apply(config, overrides)
            runtime.set_environment(config, training=True)
            return config

        config = runtime.read_and_join(options, read)
        compiler.set_compilation_cache(config)
        from mmjax.parallel import process_agreement
        from mmjax.training.train import train  # after the environment is set

        stopped = train(config, options.workdir, [path for path, _ in overrides])
        if stopped is None:
            if process_agreement.is_process_0():
                print(f"done: step {config.steps} of {options.workdir}; report: {options.workdir}/report.html")
            return 0
        return 128 + stopped

    return runtime.run(parser, argv, command)
