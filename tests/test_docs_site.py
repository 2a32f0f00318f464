"""Pages before a site is made of them: links, names of the API, navigation; and what the check of a site sees."""

import importlib
import json
import re
from pathlib import Path

import pytest

from mmjax import plugin, registry
from scripts import build_docs, check_docs

ROOT = Path(__file__).parent.parent
API = sorted((ROOT / "docs" / "api").glob("*.md"))
TARGETS = {target for path in API for target in re.findall(r"(?m)^::: (\S+)$", path.read_text())}


def resolve(name):
    """A module, class or function by its full name."""
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("path", API, ids=lambda path: path.stem)
def test_names_of_an_api_page_are_there(path):
    names = re.findall(r"(?m)^::: (\S+)$", path.read_text())
    assert names or path.stem == "index"
    for name in names:
        assert resolve(name).__doc__, name


def test_the_stable_surface_is_documented():
    missing = []
    for name in dir(plugin):
        full = f"{plugin._MODULES[name]}.{name}"
        if full not in TARGETS and plugin._MODULES[name] not in TARGETS and isinstance(getattr(plugin, name), type):
            missing.append(full)
    assert not missing


def test_every_evaluation_has_a_row():
    rows = set(re.findall(r"(?m)^\| `(\w+)` \|", (ROOT / "docs/evaluation.md").read_text()))
    ours = set(registry.evaluations) - set(registry.evaluations.added())
    assert ours and not ours - rows


def test_pages_link_to_pages_and_each_is_in_the_navigation(monkeypatch, tmp_path):
    monkeypatch.setattr(build_docs, "PAGES", tmp_path)
    build_docs.write_pages()
    pages = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.md")}
    named = set(re.findall(r"(?m)^ *- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text()))
    assert named == {page for page in pages if not page.startswith("source/")}
    assert "source/configs/clip.py.md" in pages
    assert "configs/clip.py)" not in (tmp_path / "index.md").read_text().replace("source/configs/clip.py.md)", "")
    assert (tmp_path / "quickstart.png").is_file()


def test_links_are_those_between_pages():
    text = "[a](docs/data.md#order) [b](configs/eval.py)\n```sh\n[c](docs/data.md)\n```\n[d](https://example.org/x.md)"
    linked, targets = build_docs.with_page_links(text, "README.md")
    assert linked.splitlines() == [
        "[a](data.md#order) [b](source/configs/eval.py.md)",
        "```sh",
        "[c](docs/data.md)",
        "```",
        "[d](https://example.org/x.md)",
    ]
    assert targets == {"docs/data.md", "configs/eval.py"}
    assert build_docs.with_page_links("[a](../README.md)", "docs/data.md")[0] == "[a](index.md)\n"


def test_a_link_that_leads_nowhere_is_named():
    with pytest.raises(build_docs.BrokenLink, match=r"README\.md:2: the link to docs/dta\.md leads nowhere"):
        build_docs.with_page_links("a\n[b](docs/dta.md)", "README.md")


def test_a_notebook_is_a_page_with_its_outputs():
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": "1 + 1",
            "outputs": [
                {"output_type": "stream", "text": ["a\n", "b\n"]},
                {"output_type": "display_data", "data": {"image/png": "QUJD\n", "text/plain": "<Figure>"}},
                {"output_type": "execute_result", "data": {"text/plain": ["2"]}},
            ],
        },
    ]
    page = build_docs.notebook_page(json.dumps({"cells": cells}))
    assert page.split("\n\n") == [
        "# Title\ntext",
        "```python\n1 + 1\n```",
        "````text\na\nb\n````",
        '<img alt="output" src="data:image/png;base64,QUJD">',
        "````text\n2\n````\n",
    ]


def site(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in {"index.html": "<h1 id=top>x</h1>", **files}.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"a.html": "<a href='b.html'>"}, "a.html: the link to b.html leads nowhere"),
        ({"a.html": "<a href='index.html#bottom'>"}, "index.html#bottom names a heading that is not there"),
        ({"a.html": "<img src='//example.org/a.png'>"}, "asks another server for //example.org/a.png"),
        ({"a.html": "<link rel=stylesheet href='https://example.org/a.css'>"}, "https://example.org/a.css"),
        ({"a.html": "<script src=a.js></script>"}, "a.html: a.js is not there"),
        ({"a.html": "<style>@import 'https://example.org/a.css'</style>"}, "https://example.org/a.css"),
        ({"a.css": "a{background:url(https://example.org/a.png)}"}, "a.css: asks another server"),
        ({"a.js": "fetch('https://example.org/a.json')"}, "a.js: asks another server for https://example.org/a.json"),
    ],
)
def test_what_is_wrong_in_a_site_is_named(tmp_path, files, problem):
    (line,) = check_docs.problems(site(tmp_path / "site", **files))
    assert problem in line


def test_links_of_readers_and_names_of_languages_are_no_requests(tmp_path):
    files = {
        "a.html": "<a href='https://example.org'>x</a><a href='index.html#top'>y</a><link rel=canonical href='https://example.org/a'>",
        "b.html": "<img src='data:image/png;base64,QUJD'>",
        "a.js": "/* https://example.org/licence */ x='http://www.w3.org/2000/svg'",
    }
    assert check_docs.problems(site(tmp_path / "site", **files)) == []
