import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.text.text_encoding import check_encoding, decode_text
from mmjax.errors import UserError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "gbk", "shift_jis"])
def test_texts_are_read_by_their_mark_or_by_what_they_are_said_to_be(encoding):
    named = encoding if encoding in ("gbk", "shift_jis") else "utf-8"
    assert decode_text("猫 cat".encode(encoding), named) == "猫 cat"
    assert decode_text("caf\xe9".encode("utf-8-sig"), "latin-1") == "caf\xe9"


@pytest.mark.parametrize("content", ["café".encode("latin-1"), "猫坐在".encode("gbk"), b"\xff\xfea", b"\xed\xa0\xbd"])
def test_a_text_that_is_not_in_its_encoding_is_a_bad_example(content):
    with pytest.raises(BadExample) as caught:
        decode_text(content)
    assert caught.value.reason == "encoding" and "data.encoding" in caught.value.detail


@pytest.mark.parametrize("name", ["utf9", "", "undefined", "base64", "idna", "unicode_escape", "a\0b", "é"])
def test_unknown_encodings_are_refused(name):
    with pytest.raises(UserError, match="data.encoding="):
        check_encoding(name)
