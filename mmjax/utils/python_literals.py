"""Python's literals, parsed by one thread at a time.

CPython 3.11 keeps one depth of nesting for all threads that parse: where garbage is collected meanwhile and another
thread parses too, `ast` raises SystemError for a text that is in order, and a good example would count as a bad one.
"""

import ast
import threading
from typing import Any

# Held around whatever parses Python, such as NumPy's reading of a header. What is collected meanwhile may parse, too.
PARSING = threading.RLock()


def parse_literal(text: str) -> Any:
    """The value of a literal.

    Raises:
      ValueError, SyntaxError: it is none.
    """
    with PARSING:
        return ast.literal_eval(text)
