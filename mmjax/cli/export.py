"""`mmjax export`: towers as StableHLO, which run without mmjax."""

from collections.abc import Sequence

from mmjax.cli import runtime
from mmjax.inference.stablehlo import PLATFORMS, export
from mmjax.interop import model_settings
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
    parser.add_argument("--step", type=int, help="checkpoint of a workdir; the latest by default")
    parser.add_argument("--tokenizer", metavar="SPEC", help="clip, bytes, sentencepiece:FILE, json:FILE; as SRC has it")
    runtime.add_model_config_flag(parser, "what SRC does not hold, e.g. activation=quick_gelu or image.heads=16")
    runtime.add_plugins_flag(parser)

    def command(options, overrides):
        runtime.refuse_overrides(overrides)
        runtime.import_plugins(options)
        written = export(
            options.src,
            options.dst,
            platforms=tuple(options.platforms.split(",")),
            step=options.step,
            tokenizer=options.tokenizer,
            settings=model_settings.parse_flags(options.model_config),
        )
        for file in written:
            terminal.show(f"{file}  {file.stat().st_size:,} bytes")
        return 0

    return runtime.run(parser, argv, command)
