"""`mmjax list`: the models that `mmjax.create_model` makes by OpenCLIP's names of them."""

from collections.abc import Sequence

from mmjax.cli import runtime
from mmjax.errors import UserError
from mmjax.interop import named_models
from mmjax.models.image_config import CONV_STRIDE
from mmjax.utils import terminal


def main(argv: Sequence[str] | None = None) -> int:
    """`list [PATTERN]`."""
    parser = runtime.make_parser(
        "list", "Lists the models that mmjax.create_model makes by OpenCLIP's names, or those that match a PATTERN."
    )
    parser.epilog = "example: mmjax list 'ViT-B*'"
    parser.add_argument(
        "pattern", nargs="?", default="*", metavar="PATTERN", help="such as 'ViT-B*'; whatever the case"
    )

    def command(options, overrides):
        runtime.refuse_fields(overrides)
        names = named_models.names(options.pattern)
        if not names:
            raise UserError(f"PATTERN={options.pattern}: no model has such a name; mmjax list prints them all")
        terminal.show(_table(names))
        return 0

    return runtime.run(parser, argv, command)


def _table(names: Sequence[str]) -> str:
    rows = [("name", "image", "patch", "image tower", "text", "text tower", "embedding"), *map(_row, names)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        [*lines, "", "Towers are layers x width, of convolutional ones blocks x the last stage's; texts are in tokens."]
    )


def _row(name: str) -> tuple[str, ...]:
    settings = named_models.find(name).settings
    image, text = settings["image"], settings["text"]
    if "blocks" in image:  # of a convolutional tower
        width = image["widths"][-1] if "widths" in image else CONV_STRIDE * image["stem_width"]
        sizes = image["image_size"], CONV_STRIDE, f"{sum(image['blocks'])} x {width}"
    else:
        sizes = image["image_size"], image["patch_size"], f"{image['depth']} x {image['width']}"
    return (
        name,
        *map(str, sizes),
        str(text["context_length"]),
        f"{text['depth']} x {text['width']}",
        str(settings["embed_dim"]),
    )
