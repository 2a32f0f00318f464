"""`mmjax plan`: what a recipe would need on devices that are not here."""

from collections.abc import Sequence

from mmjax import plugin_imports
from mmjax.cli import runtime
from mmjax.config import overrides as overrides_lib
from mmjax.config import recipe, schema


def main(argv: Sequence[str] | None = None) -> int:
    """`plan --config=RECIPE[:k=v,k=v] --topology=v5e:16x16 [--budget=N] [--sweep] [--config.FIELD=VALUE ...]`."""
    parser = runtime.make_parser(
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
    parser.add_argument("--budget", metavar="EXAMPLES", help="also print steps and chip-hours for so many, e.g. 12.8e9")
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
        help="plan packed or grouped texts of so many tokens on average, e.g. 18",
    )
    parser.add_argument("--output", metavar="FILE", help="the same numbers as JSON")
    runtime.add_plugins_flag(parser)

    def command(options, overrides):
        fields = recipe.load_recipe(options.config, plugin_imports.parse_flag(options.plugins))
        overrides_lib.apply(fields, overrides)
        config = schema.parse(fields)
        from mmjax.plan import topology  # jax is imported after this

        topology.set_environment(options.topology)
        runtime.prepare(config, "gpu" if topology.is_gpu(options.topology) else "tpu", training=True)
        from mmjax.plan import plan_recipe

        return plan_recipe.run(
            config,
            options.topology,
            budget=options.budget,
            swept=options.sweep,
            max_compiles=options.max_compiles,
            text_length=options.text_length,
            output=options.output,
            flags=[path for path, _ in overrides],
        )

    return runtime.run(parser, argv, command)
