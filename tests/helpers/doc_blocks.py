"""Code blocks of README.md and docs/: where they stand, the commands in them, and whether these are valid."""

import dataclasses
import importlib
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

from mmjax.cli import main, runtime
from mmjax.config import overrides as overrides_lib
from mmjax.config import recipe, schema, suite_recipe
from mmjax.errors import UserError as UserError
from mmjax.plan import topology

ROOT = Path(__file__).parents[2]
# Weights that stand for those that a recipe starts from, which it reads.
WEIGHTS = ROOT / "tests" / "golden" / "interop" / "openclip-quickgelu"
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = ("sh", "bash", "console")
LANGUAGES = (*SHELL, "python", "toml", "json", "yaml", "text")
# Programs of others whose arguments are not looked at.
OTHERS = ("cd", "git", "mkdir")
_NEEDS = re.compile(r"# needs: (\S.*)")
_FENCE = re.compile(r"^( *)(```+)(\w*)$")


@dataclasses.dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
      file: that it stands in, relative to the repository.
      line: of its first fence.
      language: behind the fence.
      text: without the fences and their indentation.
    """

    file: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def needs(self) -> str:
        """What it says it needs; "" for nothing."""
        match = _NEEDS.search(self.text)
        return match[1] if match else ""

    @property
    def is_in_an_example(self) -> bool:
        """Whether it stands in examples/ word by word, which tests run."""
        return any(self.text.rstrip() in path.read_text() for path in _examples())


def _examples():
    return [path for path in (ROOT / "examples").rglob("*") if path.suffix in (".py", ".toml")]


def blocks() -> list[Block]:
    """All code blocks, in order."""
    result = []
    for path in FILES:
        start, fence, indent, language, lines = 0, "", "", "", []
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            match = _FENCE.match(line)
            if not fence and match:
                start, (indent, fence, language), lines = number, match.groups(), []
            elif fence and line.strip() == fence:
                text = "\n".join(text.removeprefix(indent) for text in lines) + "\n"
                result.append(Block(str(path.relative_to(ROOT)), start, language, text))
                fence = ""
            elif fence:
                lines.append(line)
    return result


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a shell's block, with what it says it needs; "" for nothing."""

    argv: tuple[str, ...]
    needs: str

    @property
    def is_ours(self) -> bool:
        return self.argv[0] == "mmjax" or self.argv[:2] in (("python", "train.py"), ("python", "eval.py"))

    @property
    def ours(self) -> tuple[str, list[str]]:
        """The command of `mmjax`, and its arguments."""
        if self.argv[0] == "mmjax":
            return self.argv[1], list(self.argv[2:])
        return self.argv[1].removesuffix(".py"), list(self.argv[2:])

    @property
    def is_run(self) -> bool:
        """Whether it is run at toy size: it reads a trained run or files, trains nothing and compiles for no device."""
        return self.is_ours and not self.needs and self.ours[0] not in ("train", "plan")


def commands(block: Block) -> list[Command]:
    """The commands of a block. `# needs: X` on a line of its own is for all that follow, behind a command for that."""
    result, variables, needs_below = [], {}, ""
    for line in block.text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ")
        needs = _NEEDS.search(line)
        if line.startswith("#"):
            needs_below = needs[1] if needs else needs_below
            continue
        line = re.sub(r"\$(\w+)", lambda match: variables.get(match[1], match[0]), line)
        words = [re.sub(r"^\.venv/bin/", "", word) for word in shlex.split(line, comments=True)]
        while words and re.match(r"[A-Z_]+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            variables[name] = value
        if words and words[0] == "srun":
            words = words[words.index("python") :]
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            result.append(Command(tuple(words[:end]), needs[1] if needs else needs_below))
            words = words[end + 1 :]
    return result


def check(command: Command) -> None:
    """Fails where a command is no command, or a flag, a field, a target or an extra of it is not there."""
    program, *arguments = command.argv
    if command.is_ours:
        _check_ours(command)
    elif program == "python" and arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]) or command.needs, f"python -m {arguments[1]}"
    elif program == "python" or program.startswith("benchmarks/"):
        path = ROOT / (arguments.pop(0) if program == "python" else program)
        assert path.is_file(), path
        _check_flags_of_script(path, arguments)
    elif program == "make":
        targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text())
        assert arguments and {word for word in arguments if "=" not in word} <= set(targets), arguments
    elif program == "pip":
        _check_install(arguments)
    elif program.startswith("--config."):
        _parse_run("clip", [*command.argv])
    else:
        assert program in OTHERS or command.needs, f"{program}: not known; say `# needs: {program}`"


def _check_ours(command: Command) -> None:
    name, arguments = command.ours
    assert name in main.COMMANDS, name
    if "..." in arguments:  # left out in the docs: what must be there
        arguments.remove("...")
        if not any(word.startswith("--config=") for word in arguments):
            arguments += ["--config=clip", "--config.data.train=shapes"]
    parser = parser_of(name)
    options, rest = parser.parse_known_args(arguments)
    overrides = runtime.parse_overrides(rest, parser)
    if name == "eval" and options.config:
        _, overrides = suite_recipe.load_suite(_recipe(options.config), overrides)
        config = schema.base_config()
        overrides_lib.apply(config, overrides)
    elif name in ("train", "plan"):
        of_checkpoint = options.config.startswith("finetune:model=")  # which a block says that it needs
        assert not of_checkpoint or command.needs, f"{options.config}: say `# needs: ` and the checkpoint"
        config = _parse_run("clip" if of_checkpoint else options.config, rest)
        by_path = [part for part in re.split(r"[@+]", config.data.train) if ":" in part]
        assert name == "plan" or not by_path or command.needs, f"{by_path[0]}: say `# needs: {by_path[0]}`"
        if name == "plan":
            topology.check_name(options.topology)
    else:
        overrides_lib.apply(schema.base_config(), overrides)


def parser_of(name: str):
    """The parser of a command, by a call that goes no further."""
    parsers, run = [], runtime.run
    runtime.run = lambda parser, argv, command: parsers.append(parser) or 0
    try:
        importlib.import_module(f"mmjax.cli.{name}").main([])
    finally:
        runtime.run = run
    return parsers[0]


def _recipe(spec: str) -> str:
    """A recipe's path from the root of the repository, where tests may be run from elsewhere."""
    path = spec.partition(":")[0]
    return str(ROOT / spec) if path.endswith(".py") and (ROOT / path).is_file() else spec


def _parse_run(spec: str, rest: list[str]):
    plugins = ("rings",) if "examples/plugin" in spec else ()
    if plugins:  # tests/test_example_plugin.py runs it where it is installed
        return schema.parse(schema.base_config())
    config = recipe.load_recipe(re.sub(r"\bweights=[^,]+", f"weights={WEIGHTS}", _recipe(spec)))
    overrides_lib.apply(config, runtime.parse_overrides(rest, runtime.make_parser("train", "")))
    return schema.parse(config)


def _check_flags_of_script(path: Path, arguments: list[str]) -> None:
    text = path.read_text()
    for word in arguments:
        flag = word.partition("=")[0]
        if flag.startswith("--config."):
            _parse_run("clip", [word])
        elif flag.startswith("--"):
            assert f'"{flag}"' in text or f"{flag})" in text, f"{path.name} has no flag {flag}"


def _check_install(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert arguments[0] == "install", arguments
    for word in arguments[1:]:
        match = re.fullmatch(r"(?:mmjax|\.)\[([\w,-]+)\]", word)
        assert not match or set(match[1].split(",")) <= set(extras), word
        assert not word.startswith("./") or (ROOT / word).is_dir(), word
