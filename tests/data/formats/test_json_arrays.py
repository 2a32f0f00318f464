import json

import numpy as np
import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.json_arrays import inputs_of_fields
from mmjax.data.sources.wds import WebDataset
from mmjax.errors import UserError
from tests.helpers.source_checks import png
from tests.helpers.tar_sets import options, write_tar


@pytest.mark.parametrize(
    ("content", "fields", "name", "array"),
    [
        ({"a": 1, "b": -2.5}, "a,b", "table", [1, -2.5]),
        ({"a": 1, "b": None}, "b,a,c", "table", [np.nan, 1, np.nan]),
        ({"a": [1, 2, 3], "b": [4, None, 6]}, "a,b", "series", [[1, 4], [2, np.nan], [3, 6]]),
        ({"a": [1, 2]}, "a,b", "series", [[1, np.nan], [2, np.nan]]),
        ({"a": {"b": [[1, 2], [3, 4]]}}, "a.b", "series", [[1, 2], [3, 4]]),
        ({"a": True}, "a", "table", [1]),
    ],
)
def test_numbers_are_arrays(content, fields, name, array):
    made = inputs_of_fields(json.dumps(content).encode(), fields.split(","))
    assert made.keys() == {name} and made[name].dtype == np.float32
    np.testing.assert_array_equal(made[name], array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": "x"}', "other: field 'a' of its .json is .*, no number and no list of them; data.table.columns reads"),
        ('{"a": ["1"]}', "other: field 'a' of its .json is .*, no number"),
        ('{"a": {"c": 1}}', "other: field 'a' of its .json is .*, no number"),
        ('{"a": [[1], [1, 2]]}', "other: field 'a' of its .json is .*, no number"),
        ('{"a": [1], "b": [1, 2]}', "other: field 'b' of its .json is .2., others .1."),
        ('{"a": []}', "other: field 'a' of its .json is .0.; give numbers, or lists of them"),
        ('{"a": [[1]], "b": [[1]]}', "other: field 'a' of its .json is .1, 1.; give numbers"),
        ("{", "corrupt: its .json is no JSON"),
    ],
)
def test_what_is_no_array_is_a_bad_example(content, message):
    with pytest.raises(BadExample, match=message):
        inputs_of_fields(content.encode(), ["a", "b"])


def test_members_of_tars(tmp_path):
    """Fields of a member beside an image; one that is missing is a modality that is missing."""
    members = []
    for i, content in enumerate(['{"a": 1, "caption": "one"}', '{"caption": "none"}', '{"a": "x", "caption": "bad"}']):
        members += [(f"{i}.jpg", png(i)), (f"{i}.json", content.encode())]
    write_tar(tmp_path / "set.tar", members)
    source = WebDataset(f"{tmp_path}/set.tar", options=options(tmp_path, image_key="jpg;json:a"))
    assert source[0]["modalities"]["table"].tolist() == [1] and source[0]["captions"] == ["one"]
    assert source[1]["image"] == png(1) and "modalities" not in source[1]
    with pytest.raises(BadExample, match="set.tar/2: field 'a' of its .json"):
        source[2]
    with pytest.raises(UserError, match="data.image_key='jpg;json:': 'json:' names no field"):
        WebDataset(f"{tmp_path}/set.tar", options=options(tmp_path, image_key="jpg;json:"))
