import pytest

from mmjax.data.formats.json_fields import number_field, text_field
from mmjax.errors import UserError


@pytest.mark.parametrize("value", [None, 5, True, ["x"], {"raw": "x"}, "", " \n"])
def test_only_a_text_is_a_text(value):
    with pytest.raises(UserError, match="^file: entry 3 has caption=.*each needs caption") as error:
        text_field({"caption": value}, "caption", "file: entry 3", "caption")
    assert "\n" not in str(error.value)
    if isinstance(value, str):
        assert text_field({"caption": value}, "caption", "file", "caption", may_be_blank=True) == value
    assert text_field({"caption": " None "}, "caption", "file", "caption") == " None "


@pytest.mark.parametrize("value", [None, True, 1.5, "x", "9" * 30, [1]])
def test_only_an_integer_is_a_number(value):
    with pytest.raises(UserError, match="has id="):
        number_field({"id": value}, "id", "entry 3", "id")
    assert number_field({"id": "12"}, "id", "entry 3", "id") == number_field({"id": 12}, "id", "entry 3", "id")


@pytest.mark.parametrize(
    ("entry", "words"), [({}, "lacks 'id'"), ([1], "is [1]"), (None, "is None"), ("id", "is 'id'")]
)
def test_what_lacks_a_field_is_named(entry, words):
    for field in (text_field, number_field):
        with pytest.raises(UserError) as error:
            field(entry, "id", "entry 3", "id and name")
        assert str(error.value).startswith(f"entry 3 {words}") and str(error.value).endswith("each needs id and name")
