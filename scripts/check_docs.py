"""Checks a built site: every link and anchor leads somewhere, and no page asks another server for anything.

  python scripts/check_docs.py build/site

Links that a reader follows to other sites are no requests of a page, and are not opened.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser loads by itself when it shows a page.
RESOURCES = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "image": ("href", "xlink:href"),
    "img": ("src", "srcset"),
    "input": ("src",),
    "link": ("href",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src", "srcset"),
    "track": ("src",),
    "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
# Of `<link>`, those that name a page and load nothing.
PLAIN_LINKS = {"canonical", "next", "prev", "alternate", "author", "license"}
_IN_CSS = re.compile(r"""(?:url\(\s*|@import\s+)["']?\s*((?:https?:)?//[^"')\s]+)""")
# Addresses in scripts: all but comments, names of XML's languages, and what lunr's messages to programmers point to.
_IN_SCRIPT = re.compile(r"""(?:https?|wss?)://(?!www\.w3\.org/|bit\.ly/)[^\s"'`)]+""")
_LANGUAGES = "lunr"  # mkdocs-material's folder of searches in other languages, which no page here loads
_COMMENT = re.compile(r"/\*.*?\*/|(?:^|\s)//[^\n]*", re.DOTALL | re.MULTILINE)


class Page(HTMLParser):
    """The ids of a page, the links in it, and what a browser loads for it."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = {""}
        self.links: list[str] = []
        self.resources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and PLAIN_LINKS & set(values.get("rel", "").split()):
            return
        for name in RESOURCES.get(tag, ()):
            if name in values:
                # Of several, each with a size; a data URI has a comma, too.
                parts = values[name].split(",") if name == "srcset" else [values[name]]
                self.resources += [part.split()[0] for part in parts if part.strip()]


def is_elsewhere(url: str) -> bool:
    """Whether a URL is of another server."""
    return bool(urlsplit(url).netloc)


def problems(site: Path) -> list[str]:
    """What is wrong in a site, one line each."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    result = []
    for path, page in pages.items():
        name = path.relative_to(site)
        for url in page.resources:
            if is_elsewhere(url):
                result.append(f"{name}: asks another server for {url}")
            elif not urlsplit(url).scheme and not _file_of(site, path, url).is_file():
                result.append(f"{name}: {url} is not there")
        for url in page.links:
            if urlsplit(url).scheme or is_elsewhere(url):
                continue
            target = _file_of(site, path, url)
            anchor = unquote(urlsplit(url).fragment)
            if not target.is_file():
                result.append(f"{name}: the link to {url} leads nowhere")
            elif target in pages and anchor not in pages[target].ids:
                result.append(f"{name}: the link to {url} names a heading that is not there")
        result += [f"{name}: asks another server for {url}" for url in _IN_CSS.findall(path.read_text())]
    scripts = [path for path in site.rglob("*.js") if path.parent.name != _LANGUAGES]
    for path in sorted([*site.rglob("*.css"), *scripts]):
        text = path.read_text()
        urls = _IN_CSS.findall(text) if path.suffix == ".css" else _IN_SCRIPT.findall(_COMMENT.sub("", text))
        result += [f"{path.relative_to(site)}: asks another server for {url}" for url in urls]
    return result


def _file_of(site: Path, page: Path, url: str) -> Path:
    """The file of the site that a URL in a page stands for."""
    path = unquote(urlsplit(url).path)
    if not path:
        return page
    target = (site / path.lstrip("/")) if path.startswith("/") else (page.parent / path)
    target = target.resolve()
    return target / "index.html" if target.is_dir() else target


def main(argv: list[str]) -> int:
    site = Path(argv[0]).resolve()
    lines = problems(site)
    if not (site / "index.html").is_file():
        lines.append(f"{site}: there is no index.html")
    for line in lines:
        print(line, file=sys.stderr)
    if not lines:
        count = len(list(site.rglob("*.html")))
        print(f"{count} pages in {site}: links lead somewhere, nothing is asked of other servers")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
