"""`mmjax completion`: a script by which a shell completes commands, flags, names of recipes and fields."""

from collections.abc import Iterator, Mapping, Sequence

from mmjax.cli import runtime
from mmjax.config import recipe, schema, serialize
from mmjax.errors import validate_choice
from mmjax.utils import terminal

# Flags by command, those with a value with a `=`; tests compare them with the parsers, most of which import jax.
_MODEL = ("--workdir=", "--step=", "--model=", "--tokenizer=", "--model-config=", "--plugins=")
_CLUSTER = ("--coordinator=", "--processes=", "--process=", "--join-timeout=")
FLAGS: Mapping[str, tuple[str, ...]] = {
    "train": (
        *("--config=", "--workdir=", "--print-config", "--dry-run", "--resume=", "--overwrite", "--plugins="),
        *_CLUSTER,
    ),
    "eval": (*_MODEL, "--config=", "--overwrite", "--output=", *_CLUSTER),
    "plan": (
        *("--config=", "--topology=", "--budget=", "--sweep", "--max-compiles=", "--text-length=", "--output="),
        "--plugins=",
    ),
    "index": ("--output=", "--workers=", "--force", "--cache=", "--retry-seconds="),
    "convert": ("--to=", "--architecture=", "--step=", "--tokenizer=", "--model-config=", "--plugins="),
    "push": (*("--to=", "--license=", "--private", "--step=", "--tokenizer=", "--model-config=", "--plugins="),),
    "export": ("--platforms=", "--step=", "--tokenizer=", "--model-config=", "--plugins="),
    "info": ("--step=", "--model-config=", "--json", "--plugins="),
    "list": (),
    "search": (
        "--images=",
        "--image=",
        "--videos=",
        "--video=",
        "--sounds=",
        "--sound=",
        *_MODEL,
        "--top=",
        "--output=",
        "--index=",
        "--rebuild",
    ),
    "recipes": (),
    "completion": (),
}
RESUME = ("auto", "must", "never")
FORMATS = ("mmjax", "openclip", "hf", "big_vision")
_WITH_FIELDS = ("train", "eval", "plan", "search")

_BASH = """\
_mmjax() {
    local token="${COMP_LINE:0:COMP_POINT}" words
    token="${token##*[[:space:]]}"
    case "$COMP_CWORD:${COMP_WORDS[1]}" in
        1:*) words="@COMMANDS@" ;;
@CASES@
    esac
    COMPREPLY=($(compgen -W "$words" -- "$token"))
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    # Readline replaces what stands behind the last = or : alone.
    COMPREPLY=("${COMPREPLY[@]#"${token%"${token##*[=:]}"}"}")
}
complete -o default -F _mmjax mmjax"""
_BASH_CASE = '        *:{command}) words="{words}" ;;'

_ZSH = """\
_mmjax() {
    local -a candidates
    if (( CURRENT == 2 )); then
        compadd -- @COMMANDS@
        return
    fi
    case $words[2] in
@CASES@
    esac
    compadd -S '' -- ${(M)candidates:#*=} && local matched=1
    compadd -- ${candidates:#*=} && local matched=1
    (( matched )) && return
    compset -P '*='
    _files
}
compdef _mmjax mmjax"""
_ZSH_CASE = "        {command}) candidates=({words}) ;;"

SHELLS = ("bash", "zsh", "fish")


def main(argv: Sequence[str] | None = None) -> int:
    """`completion bash|zsh|fish`."""
    parser = runtime.make_parser("completion", "Prints a script by which a shell completes what follows `mmjax`.")
    parser.epilog = "bash, zsh: source <(mmjax completion bash); fish: mmjax completion fish | source"
    parser.add_argument("shell", metavar="SHELL", help=", ".join(SHELLS))

    def command(options, overrides):
        runtime.refuse_fields(overrides)
        validate_choice("SHELL", options.shell, SHELLS)
        terminal.show(script(options.shell))
        return 0

    return runtime.run(parser, argv, command)


def script(shell: str) -> str:
    """The script for a shell, one of `SHELLS`."""
    if shell == "fish":
        return "\n".join(_fish_lines())
    frame, case = (_BASH, _BASH_CASE) if shell == "bash" else (_ZSH, _ZSH_CASE)
    cases = "\n".join(case.format(command=command, words=" ".join(words(command))) for command in FLAGS)
    return frame.replace("@COMMANDS@", " ".join(FLAGS)).replace("@CASES@", cases)


def _fish_lines() -> Iterator[str]:
    """fish wants a line a flag, with its values."""
    yield f'complete -c mmjax -f -n __fish_use_subcommand -a "{" ".join(FLAGS)}"'
    for command in FLAGS:
        line = f'complete -c mmjax -n "__fish_seen_subcommand_from {command}"'
        values: dict[str, list[str]] = {}
        for word in words(command):
            flag, equals, value = word.partition("=")
            values.setdefault(flag + equals, []).extend([value] if value else [])
        for flag, known in values.items():
            if not flag.startswith("--"):
                yield f"{line} -f -a {flag}"
            elif known:
                yield f'{line} -l {flag[2:-1]} -x -a "{" ".join(known)}"'
            else:
                yield f"{line} -l {flag[2:].removesuffix('=')}" + " -r" * flag.endswith("=")


def words(command: str) -> Iterator[str]:
    """What may follow a command: its flags, with their values where these are few, names, and fields of the config."""
    recipes = [name for name in recipe.names() if name != "eval"]
    values = {"--config=": ["eval"] if command == "eval" else recipes, "--resume=": RESUME, "--to=": FORMATS}
    for flag in FLAGS[command]:
        yield flag
        yield from (flag + value for value in values.get(flag, ()))
    yield "--help"
    if command == "recipes":
        yield from recipe.names()
    if command == "completion":
        yield from SHELLS
    if command in _WITH_FIELDS:
        yield from (f"--config.{field}=" for field in serialize.flatten(schema.base_config()))
