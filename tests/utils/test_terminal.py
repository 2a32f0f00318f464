"""Lines for people, with names of others in them."""

import io
import logging
import subprocess
import sys
import unicodedata

import pytest

from mmjax.utils import terminal
from tests.helpers import runs


def test_no_control_character_is_left():
    letters = [chr(code) for code in range(sys.maxunicode + 1)]
    kept = set(terminal.printable("".join(letters)))
    refused = {letter for letter in letters if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")} - {"\n", "\t"}
    assert not kept & refused
    assert len(set(letters) - kept - refused) == 12  # marks of the direction of writing


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("ok\rno", r"ok\rno"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb", r"a\u202eb"),
        ("half \ud83d", r"half \ud83d"),
        ("ein Bär 🐻\tund\nnoch einer", "ein Bär 🐻\tund\nnoch einer"),
    ],
)
def test_escapes(text, shown):
    assert terminal.printable(text) == shown


def test_what_the_encoding_lacks():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    terminal.show("ein Bär", file=stream)
    assert raw.getvalue() == rb"ein B\xe4r" + b"\n"


def test_an_error_of_a_command(capsys):
    """A file's name clears no screen."""
    assert runs.train_cli("--config=no\x1b[2J\x07such.py", "--workdir=w") == 2
    assert r"no\x1b[2J\x07such.py" in (err := capsys.readouterr().err) and "\x1b" not in err and "\x07" not in err


def test_what_is_logged_while_a_command_runs(capsys):
    terminal.format_log()
    terminal.format_log()
    logging.getLogger("mmjax.data").warning("%s is gone", "a\x1b[2J")
    assert capsys.readouterr().err == "a\\x1b[2J is gone\n"


def test_other_libraries_do_not_print_it_again():
    code = (
        "from mmjax.utils.terminal import format_log; format_log(); import logging; from absl import logging as other;"
        "other.vlog(1, 'x'); logging.basicConfig(); logging.getLogger('mmjax.data').warning('one line')"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == "one line\n"
