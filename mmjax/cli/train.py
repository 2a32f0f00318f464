"""`mmjax train`: a recipe trained, or resumed."""

from collections.abc import Sequence

from mmjax import plugin_imports
from mmjax.cli import runtime
from mmjax.config import overrides as overrides_lib
from mmjax.config import recipe, schema
from mmjax.errors import UserError
from mmjax.training import compiler
from mmjax.utils import terminal


def main(argv: Sequence[str] | None = None) -> int:
    """`train --config=RECIPE[:k=v,k=v] --workdir=DIR|--print-config|--dry-run [--config.FIELD=VALUE ...]`."""
    parser = runtime.make_parser("train", "Trains a recipe; started again on the same workdir, it resumes.")
    parser.add_argument(
        "--config", required=True, metavar="RECIPE[:k=v,...]", help="a .py file, or the name of a recipe"
    )
    parser.add_argument("--workdir", help="folder or URL for checkpoints, logs and the report")
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print every field, its value and what it is, and end; * marks what differs from the default",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, print data, examples, epochs, parameters and memory, and end; no workdir is made;"
        " tars without an index have it written, beside them or to data.cache, as in training",
    )
    parser.add_argument(
        "--resume",
        choices=("auto", "must", "never"),
        default="auto",
        help="auto: go on where the workdir has a checkpoint; must: refuse one without; never: refuse one with a run",
    )
    parser.add_argument("--overwrite", action="store_true", help="remove the run that is in the workdir, and begin")
    runtime.add_plugins_flag(parser)
    runtime.add_cluster_flags(parser)

    def command(options, overrides):
        def read():
            config = recipe.load_recipe(options.config, plugin_imports.parse_flag(options.plugins))
            overrides_lib.apply(config, overrides)
            return config

        def read_for_training():
            config = read()
            parsed = schema.parse(config)
            runtime.set_environment(parsed, training=True)
            return config, parsed

        if options.print_config:
            if options.dry_run:
                raise UserError("--print-config and --dry-run: give one of them")
            if options.workdir is not None:
                terminal.show_error("note: --workdir is not read; --dry-run logs what a run in it keeps of its config")
            from mmjax.config import field_table

            terminal.show(field_table.to_text(read()))
            return 0
        if options.workdir == "" or (options.workdir is None and not options.dry_run):
            raise UserError("--workdir is missing; give --workdir=DIR, a folder or URL for checkpoints and logs")
        config, parsed = runtime.read_and_join(options, read_for_training)
        flags = [path for path, _ in overrides]
        # Imported after the environment is set.
        from mmjax.io import paths
        from mmjax.parallel import process_agreement

        if options.dry_run:
            from mmjax.training import dry_run

            lines = dry_run.describe(config, None if options.overwrite else options.workdir, flags)
            if process_agreement.is_process_0():
                terminal.show("\n".join(lines))
            return 0
        compiler.set_compilation_cache(parsed)
        from mmjax.training.train import train
        from mmjax.training.workdir import Start

        stopped = train(config, options.workdir, flags, Start(options.resume, options.overwrite))
        if stopped is None:
            if process_agreement.is_process_0():
                report = paths.as_path(options.workdir) / "report.html"  # of evaluations, where there were any
                terminal.show(
                    f"done: step {parsed.steps} of {options.workdir}"
                    + (f"; report: {report}" if report.exists() else "")
                )
            return 0
        return 128 + stopped

    return runtime.run(parser, argv, command)
