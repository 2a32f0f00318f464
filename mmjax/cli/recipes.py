"""`mmjax recipes`: the recipes that come with mmjax, and what one of them says of itself."""

from collections.abc import Sequence

from mmjax.cli import runtime
from mmjax.config import recipe
from mmjax.errors import UserError
from mmjax.utils import terminal


def main(argv: Sequence[str] | None = None) -> int:
    """`recipes [NAME]`."""
    parser = runtime.make_parser(
        "recipes", "Lists the recipes; with a NAME prints that recipe's docstring and the arguments that it takes."
    )
    parser.epilog = "example: mmjax recipes clip"
    parser.add_argument("name", nargs="?", metavar="NAME", help="a recipe's, or a .py file")

    def command(options, overrides):
        runtime.refuse_fields(overrides)
        terminal.show(_list() if options.name is None else _show(options.name))
        return 0

    return runtime.run(parser, argv, command)


def _list() -> str:
    names = recipe.names()
    width = max(map(len, names))
    first_lines = {name: _docstring(name).partition("\n")[0] for name in names}
    return "\n".join(f"{name:{width}}  {line}" for name, line in first_lines.items())


def _docstring(name: str) -> str:
    return recipe.describe(recipe.recipe_folder() / f"{name}.py").docstring


def _show(name: str) -> str:
    if ":" in name and not name.endswith(".py"):
        raise UserError(f"NAME={name}: leave out what follows the colon; mmjax train --print-config shows its effect")
    described = recipe.describe(recipe.find(name, f"NAME={name}"))
    lines = [described.docstring or f"{name} has no docstring.", ""]
    if not described.arguments:
        return "\n".join([*lines, "It takes no arguments."])
    lines.append(
        f"Arguments, as in --config={name}:{'='.join(next(iter(described.arguments.items())))}".replace("'", "")
    )
    width = max(map(len, described.arguments))
    lines += [f"  {key:{width}}  default {default}" for key, default in described.arguments.items()]
    return "\n".join(lines)
