"""`mmjax export`: towers as StableHLO, which run without mmjax."""

from collections.abc import Sequence

from mmjax.cli import runtime
from mmjax.inference.stablehlo import PLATFORMS, export
from mmjax.utils import terminal

_DEFAULT = "cpu,cuda,tpu"


def main(argv: Sequence[str] | None = None) -> int:
    """`export SRC DST [--platforms=cpu,cuda,tpu] [--step=N] [--tokenizer=SPEC] [--model-config FIELD=VALUE ...]`."""
    parser = runtime.make_parser(
        "export",
        "Writes what a model embeds with as StableHLO, a tower each, that jax runs without mmjax. SRC: a workdir,"
        " weights of another library, or hf-hub:NAME.",
    )
    parser.epilog = None
    parser.add_argument("src", metavar="SRC")
    parser.add_argument("dst", metavar="DST", help="folder, made here")
    parser.add_argument(
        "--platforms", default=_DEFAULT, metavar="NAMES", help=f"of {', '.join(PLATFORMS)}; {_DEFAULT} by default"
    )
    runtime.add_source_flags(parser)

    def command(options, overrides):
        runtime.refuse_overrides(overrides)
        written = export(
            options.src,
            options.dst,
            platforms=tuple(options.platforms.split(",")),
            **runtime.source_options(options),
        )
        for file in written:
            terminal.show(f"{file}  {file.stat().st_size:,} bytes")
        return 0

    return runtime.run(parser, argv, command)
