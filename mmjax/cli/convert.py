"""`mmjax convert`: checkpoints between formats."""

from collections.abc import Sequence

from mmjax.cli import runtime
from mmjax.inference.convert import FORMATS, convert


def main(argv: Sequence[str] | None = None) -> int:
    """`convert SRC DST --to=FORMAT [--step=N] [--architecture=CLASS] [--tokenizer=SPEC] [--model-config F=V ...]`."""
    parser = runtime.make_parser(
        "convert",
        "Writes a model in another format. SRC: a workdir, a file or folder of OpenCLIP (and OpenAI), Hugging Face or"
        " big_vision, or hf-hub:NAME. To mmjax: a workdir that `mmjax eval` and config.init_from read.",
    )
    parser.epilog = None
    parser.add_argument("src", metavar="SRC")
    parser.add_argument("dst", metavar="DST", help="folder, made here")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=" | ".join(FORMATS))
    parser.add_argument(
        "--architecture",
        default="",
        metavar="CLASS",
        help="class of transformers that a part of the model is written for, such as BlipForConditionalGeneration of a"
        " BLIP that also embeds and matches",
    )
    runtime.add_source_flags(parser)

    def command(options, overrides):
        runtime.refuse_overrides(overrides)
        convert(
            options.src,
            options.dst,
            to=options.to,
            architecture=options.architecture,
            **runtime.source_options(options),
        )
        return 0

    return runtime.run(parser, argv, command)
