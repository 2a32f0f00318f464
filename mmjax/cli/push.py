"""`mmjax push`: a model with its card, to the Hub or into a folder."""

from collections.abc import Sequence

from mmjax.cli import runtime
from mmjax.inference.push import FORMATS, push


def main(argv: Sequence[str] | None = None) -> int:
    """`push SRC hf-hub:OWNER/NAME|FOLDER [--to=openclip|hf] [--license=NAME] [--private] [--step=N] ...`."""
    parser = runtime.make_parser(
        "push",
        "Writes a model in OpenCLIP's or Hugging Face's format with a model card (recipe, data, metrics), to the Hub or"
        " into a folder. SRC: a workdir, weights of another library, or hf-hub:NAME.",
    )
    parser.epilog = "example: mmjax push runs/clip hf-hub:me/my-clip --license=apache-2.0"
    parser.add_argument("src", metavar="SRC")
    parser.add_argument("dst", metavar="DST", help="hf-hub:OWNER/NAME, or a folder, made here, without any network")
    parser.add_argument(
        "--to", default="openclip", metavar="FORMAT", help=f"{' | '.join(FORMATS)}; openclip by default"
    )
    parser.add_argument("--license", metavar="NAME", help="as the Hub calls it, such as apache-2.0")
    parser.add_argument("--private", action="store_true", help="a repository that is made is private")
    runtime.add_source_flags(parser)

    def command(options, overrides):
        runtime.refuse_overrides(overrides)
        push(
            options.src,
            options.dst,
            to=options.to,
            license=options.license,
            private=options.private,
            **runtime.source_options(options),
        )
        return 0

    return runtime.run(parser, argv, command)
