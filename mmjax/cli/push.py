"""`mmjax push`: a model with its card, to the Hub or into a folder."""

from collections.abc import Sequence

from mmjax.cli import runtime
from mmjax.inference.push import FORMATS, push
from mmjax.interop import model_settings


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
    parser.add_argument("--step", type=int, help="checkpoint of a workdir; the latest by default")
    parser.add_argument("--tokenizer", metavar="SPEC", help="clip, bytes, sentencepiece:FILE, json:FILE; as SRC has it")
    runtime.add_model_config_flag(parser, "what SRC does not hold, e.g. activation=quick_gelu or image.heads=16")
    runtime.add_plugins_flag(parser)

    def command(options, overrides):
        runtime.refuse_overrides(overrides)
        runtime.import_plugins(options)
        push(
            options.src,
            options.dst,
            to=options.to,
            license=options.license,
            private=options.private,
            step=options.step,
            tokenizer=options.tokenizer,
            settings=model_settings.parse_flags(options.model_config),
        )
        return 0

    return runtime.run(parser, argv, command)
