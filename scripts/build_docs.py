"""Builds the site: pages from README, docs/ and linked sources; then zensical; then every link and resource is checked.

  python scripts/build_docs.py [--tool=zensical|mkdocs]

README.md, CHANGELOG.md and their like lie beside docs/, and link to files of the repository. The pages, in build/docs,
are copies whose links lead to pages: README.md becomes index.md, a linked source file a page that shows it. A link that
leads nowhere ends the build, as does any warning. Needs the extra `docs` of pyproject.toml alone, see `make docs`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts import check_docs  # noqa: E402

PAGES, SITE = ROOT / "build" / "docs", ROOT / "build" / "site"
# Files beside docs/ that are pages of their own.
TOP = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CODE_OF_CONDUCT.md": "code_of_conduct.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
LANGUAGES = {".py": "python", ".sh": "sh", ".toml": "toml", ".yml": "yaml", ".cff": "yaml", ".json": "json"}
COMMANDS = {"zensical": ("build", "--strict", "--clean"), "mkdocs": ("build", "--strict", "--clean", "--quiet")}
_LINK = re.compile(r"(?<=\]\()(?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?(?=\))")
_WARNING = re.compile(r"\bwarn|\berror\b|griffe:", re.IGNORECASE)
# Addresses in the theme's scripts of what no page here has: diagrams, viewers of images, stars of a repository.
_ADDRESS = re.compile(r"""https://(?:unpkg\.com|cdn\.jsdelivr\.net|api\.github\.com|\$\{\w+\}/api)[^"'`]*""")
_FENCE = re.compile(r"^ *(```+|~~~+)")


class BrokenLink(Exception):
    """A link of a page to a file that there is not."""


def page_of(path: str) -> str:
    """The page of a file of the repository; both are relative paths.

    Raises:
      BrokenLink: there is no such file.
    """
    if path in TOP:
        return TOP[path]
    if path.startswith("docs/") and (ROOT / path).is_file():
        return path.removeprefix("docs/")
    if (ROOT / path).is_file():
        return f"source/{path}.md"
    if (ROOT / path).is_dir():
        return f"source/{path}/index.md"
    raise BrokenLink(path)


def with_page_links(text: str, path: str) -> tuple[str, set[str]]:
    """The text of a file with links between pages in place of links between files, and the files that it links to.

    Args:
      text: Markdown.
      path: of the file, relative to the repository.

    Raises:
      BrokenLink: names file, line and link.
    """
    page, targets, lines, fence = PurePosixPath(page_of(path)), set(), [], ""
    for number, line in enumerate(text.splitlines(), start=1):
        if mark := _FENCE.match(line):
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]

        def relink(match: re.Match[str], number: int = number) -> str:
            target = os.path.normpath(PurePosixPath(path).parent / match["path"])
            try:
                linked = page_of(target)
            except BrokenLink:
                raise BrokenLink(f"{path}:{number}: the link to {match['path']} leads nowhere") from None
            targets.add(target)
            return os.path.relpath(linked, page.parent) + (match["anchor"] or "")

        lines.append(line if fence else _LINK.sub(relink, line))
    return "\n".join(lines) + "\n", targets


def source_page(path: str) -> str:
    """A page that shows a file, or all tracked files of a folder."""
    if path.endswith(".ipynb"):
        return notebook_page((ROOT / path).read_text())
    if (ROOT / path).is_file():
        language = LANGUAGES.get(Path(path).suffix, "text")
        return f"# {path}\n\n````{language}\n{(ROOT / path).read_text()}````\n"
    files = [file for file in sorted((ROOT / path).rglob("*")) if file.suffix in LANGUAGES]
    parts = [f"## {file.relative_to(ROOT / path)}\n\n" + source_page(str(file.relative_to(ROOT))) for file in files]
    return f"# {path}\n\n" + "\n".join(re.sub(r"(?m)\A(## .*\n\n)# .*\n\n", r"\1", part) for part in parts)


def notebook_page(text: str) -> str:
    """A notebook with its outputs as Markdown; pictures are data URIs."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f'<img alt="output" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">')
            else:
                shown = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"````text\n{shown.rstrip()}\n````")
    return "\n\n".join(parts) + "\n"


def write_pages() -> None:
    """Writes all pages to build/docs."""
    shutil.rmtree(PAGES, ignore_errors=True)
    documents = [*TOP, *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md")))]
    targets = set()
    for path in documents:
        text, linked = with_page_links((ROOT / path).read_text(), path)
        targets |= linked
        _write(page_of(path), text)
    for path in sorted((ROOT / "docs").rglob("*")):
        if path.is_file() and path.suffix != ".md":
            copy = PAGES / page_of(str(path.relative_to(ROOT)))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    for path in sorted(targets):
        if page_of(path).startswith("source/"):
            _write(page_of(path), source_page(path))


def _write(page: str, text: str) -> None:
    (PAGES / page).parent.mkdir(parents=True, exist_ok=True)
    (PAGES / page).write_text(text)


def cut_addresses() -> None:
    """Takes the addresses of other servers out of the theme's scripts, so that none can be asked for anything."""
    for path in SITE.rglob("*.js"):
        path.write_text(_ADDRESS.sub("#", path.read_text()))


def main() -> int:
    tool = "zensical"
    for argument in sys.argv[1:]:
        name, _, tool = argument.partition("=")
        if name != "--tool" or tool not in COMMANDS:
            print(f"{argument}: the only argument is --tool=zensical or --tool=mkdocs", file=sys.stderr)
            return 2
    try:
        write_pages()
    except BrokenLink as error:
        print(error, file=sys.stderr)
        return 1
    shutil.rmtree(SITE, ignore_errors=True)
    program = Path(sysconfig.get_path("scripts")) / tool
    # mkdocs-material warns of its own end; pages are what is warned of here.
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run([program, *COMMANDS[tool]], cwd=ROOT, env=environment, capture_output=True, text=True)
    output = built.stdout + built.stderr
    if built.returncode or _WARNING.search(output):
        print(output, file=sys.stderr)
        print(f"{tool} failed or warned; see above", file=sys.stderr)
        return 1
    cut_addresses()
    return check_docs.main([str(SITE)])


if __name__ == "__main__":
    sys.exit(main())
