"""`mmjax convert`: checkpoints between formats."""

from collections.abc import Sequence

from mmjax.cli import runtime
from mmjax.inference.convert import FORMATS, convert
from mmjax.interop import model_settings


def main(argv: Sequence[str] | None = None) -> int:
    """`convert SRC DST --to=FORMAT [--step=N] [--tokenizer=SPEC] [--model-config FIELD=VALUE ...]`."""
    parser = runtime.make_parser(
        "convert",
        "Writes a model in another format. SRC: a workdir, a file or folder of OpenCLIP (and OpenAI), Hugging Face or"
        " big_vision, or hf-hub:NAME. To mmjax: a workdir that `mmjax eval` and config.init_from read.",
    )
    parser.epilog = None
    parser.add_argument("src", metavar="SRC")
    parser.add_argument("dst", metavar="DST", help="folder, made here")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=" | ".join(FORMATS))
    parser.add_argument("--step", type=int, help="checkpoint of a workdir; the latest by default")
    parser.add_argument("--tokenizer", metavar="SPEC", help="clip, bytes, sentencepiece:FILE, json:FILE; as SRC has it")
    runtime.add_model_config_flag(parser, "what SRC does not hold, e.g. activation=quick_gelu or image.heads=16")
    runtime.add_plugins_flag(parser)

    def command(options, overrides):
        runtime.refuse_overrides(overrides)
        runtime.import_plugins(options)
        convert(
            options.src,
            options.dst,
            to=options.to,
            step=options.step,
            tokenizer=options.tokenizer,
            settings=model_settings.parse_flags(options.model_config),
        )
        return 0

    return runtime.run(parser, argv, command)
