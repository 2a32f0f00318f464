"""The page of what loads: it is what the readers' tables give, and every family has a test that is there."""

import re

from mmjax.interop import named_models
from scripts import loads_page
from tests.helpers import runs


def test_the_page_is_what_the_tables_give():
    assert loads_page.PAGE.read_text() == loads_page.page(), "run python scripts/loads_page.py"


def test_every_test_is_there():
    tests = set(re.findall(r"`(tests/[^`]*)`", loads_page.page()))
    assert len(tests) > 4 and all((runs.ROOT / test).is_file() for test in tests), tests


def test_every_name_of_openclip_is_on_the_page():
    page = loads_page.page()
    assert all(f"`{name}`" in page for name in named_models.configs())
