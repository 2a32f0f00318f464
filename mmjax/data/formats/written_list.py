"""Lists of captions that stand in a table as text, as pandas, NumPy and JSON write them."""

import ast
import re

_QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
_ITEM = re.compile(_QUOTED, re.DOTALL)
_LIST = re.compile(rf"\s*\[\s*(?:{_QUOTED})(?:(?:\s*,\s*|\s+)(?:{_QUOTED}))*\s*,?\s*\]\s*", re.DOTALL)


def parse_list(text: str) -> list[str] | None:
    """The texts of "['a dog', 'a cat']"; None where a text is no list of quoted texts."""
    if not text.lstrip().startswith("[") or not _LIST.fullmatch(text):
        return None
    try:
        return [ast.literal_eval(item.replace("\r", "\\r").replace("\n", "\\n")) for item in _ITEM.findall(text)]
    except (ValueError, SyntaxError):
        return None
