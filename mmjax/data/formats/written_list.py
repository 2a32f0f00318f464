"""Lists of captions that stand in a table as text, as pandas, NumPy and JSON write them."""

import re

from mmjax.utils.python_literals import parse_literal

# Blanks, a text in quotation marks, and what is between it and the next one.
_ITEM = re.compile(r"\s*(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')(\s*,|\s+|(?=\]))", re.DOTALL)


def parse_list(text: str) -> list[str] | None:
    """The texts of "['a dog', 'a cat']"; None where a text is no list of quoted texts. Takes linear time."""
    text = text.strip()
    if not text.startswith("[") or not text.endswith("]"):
        return None
    items, position = [], 1
    while match := _ITEM.match(text, position):
        items.append(match[1])
        position = match.end()
    if not items or text[position:].lstrip() != "]":
        return None
    try:
        return [parse_literal(item.replace("\r", "\\r").replace("\n", "\\n")) for item in items]
    except (ValueError, SyntaxError):
        return None
