import math
import re

import numpy as np
import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.table_columns import (
    CategoryColumn,
    NumberColumn,
    TableColumns,
    TextColumn,
    category_text,
    parse_columns,
    parse_number,
)
from mmjax.errors import UserError

COLUMNS = TableColumns(
    (NumberColumn("age", 40.0, 10.0, 8, 2), NumberColumn("flat", 3.0, 0.0, 10, 0)),
    (CategoryColumn("job", ("cook", "3"), 9, 1),),
    (TextColumn("title", 10, 0), TextColumn("notes", 5, 5)),
)


@pytest.mark.parametrize(
    ("row", "array"),
    [
        ({"age": "50", "flat": 3, "job": "cook"}, [1, 0, 1]),
        ({"age": 25.0, "flat": 9, "job": 3}, [-1.5, 0, 2]),
        ({"age": " 4e1 ", "flat": "NA", "job": "smith"}, [0, math.nan, 0]),
        ({"age": None, "job": " "}, [math.nan] * 3),
        ({"age": math.nan, "flat": "", "job": math.nan}, [math.nan] * 3),
        ({"age": np.float32(30), "flat": np.int64(3), "job": 3.0, "other": 1}, [-1, 0, 2]),
    ],
)
def test_rows_become_standardised_numbers_and_numbers_of_categories(row, array):
    result = COLUMNS.array(row)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.array(array, np.float32))


@pytest.mark.parametrize("value", ["old", "1_0", math.inf, True, "1e999", [1], 10**400])
def test_what_is_no_number_is_a_bad_example(value):
    with pytest.raises(BadExample, match=re.escape("other: column 'age': ")) as error:
        COLUMNS.array({"age": value})
    assert "is no number" in str(error.value) and len(str(error.value)) < 130


def test_texts_are_joined_with_their_names():
    assert COLUMNS.text({"title": " red shoe ", "notes": "wool"}) == "title: red shoe; notes: wool"
    assert COLUMNS.text({"title": "red shoe", "notes": None}) == "title: red shoe" and COLUMNS.text({}) == ""
    assert TableColumns((), (), COLUMNS.texts[:1]).text({"title": "red shoe"}) == "red shoe"
    assert TableColumns((), (), ()).text({"title": "red shoe"}) == ""


def test_what_counts_as_missing():
    assert [category_text(value) for value in (None, math.nan, " ", 3.0, 3, "3 ", 0.5, True, b"caf\xc3\xa9")] == [
        "", "", "", "3", "3", "3", "0.5", "True", "café",
    ]  # fmt: skip
    assert [parse_number(value) for value in (7, "7", " -7.5 ", "x", True, math.inf)] == [7, 7, -7.5, None, None, None]
    assert all(math.isnan(parse_number(value)) for value in (None, "", "NA", "n/a", "NaN", "null", math.nan))


def test_columns_describe_themselves():
    assert COLUMNS.describe() == [
        "age: number, mean 40, std 10, 2 of 10 missing",
        "flat: number, mean 3, std 0, 0 of 10 missing",
        "job: category, 2 and one for others, 1 of 10 missing",
        "title: text, 0 of 10 missing",
        "notes: text, 5 of 10 missing",
    ]
    assert COLUMNS.sizes == (3,) and COLUMNS.names == ("age", "flat", "job")


AGE = COLUMNS.to_dict()["columns"][0]
JOB = COLUMNS.to_dict()["columns"][2]


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ([], "meta.json: 'columns' is no list"),
        ({"columns": "age"}, "meta.json: 'columns' is no list"),
        ({"columns": [3]}, "meta.json: column 0 has kind=None; it must be one of: number, category, text"),
        ({"columns": [AGE, {**AGE, "kind": "auto"}]}, "meta.json: column 1 has kind='auto'; it must be one of"),
        ({"columns": [{**AGE, "median": 1}]}, "meta.json: column 0: 'median' is missing, or no field of a number col"),
        ({"columns": [{k: v for k, v in AGE.items() if k != "std"}]}, "column 0: 'std' is missing"),
        ({"columns": [{**AGE, "mean": math.nan}]}, "column 0: mean=nan is not what a number column has there"),
        ({"columns": [{**AGE, "mean": "3"}]}, "column 0: mean='3' is not what"),
        ({"columns": [{**AGE, "std": True}]}, "column 0: std=True is not what"),
        ({"columns": [{**JOB, "values": ["a", 1]}]}, "column 0: values=.* is not what a category column has"),
        ({"columns": [{**JOB, "values": ["a", "a"]}]}, "column 0: values=.* is not what"),
        ({"columns": [{**JOB, "values": "ab"}]}, "column 0: values='ab' is not what"),
        ({"columns": [{**JOB, "name": None}]}, "column 0: name=None is not what"),
    ],
)
def test_stored_columns_that_are_none_are_named(stored, message):
    with pytest.raises(UserError, match=message) as error:
        TableColumns.from_dict(stored, where="meta.json")
    assert "\n" not in str(error.value)


def test_stored_columns_are_read():
    assert TableColumns.from_dict(COLUMNS.to_dict(), where="meta.json") == COLUMNS


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", {}),
        ("age, job@category,notes@text", {"age": "auto", "job": "category", "notes": "text"}),
        ("json:age,meta:height@number", {"age": "auto", "meta:height": "number"}),
        ("a@b@number", {"a@b": "number"}),
    ],
)
def test_columns_are_parsed(text, columns):
    assert parse_columns(text) == columns


def test_rows_are_prepared_by_name_or_in_order():
    by_name = COLUMNS.prepare({"age": "50", "job": "cook", "notes": "any"}, None)
    np.testing.assert_array_equal(by_name, np.array([1, math.nan, 1], np.float32))
    np.testing.assert_array_equal(COLUMNS.prepare([50, None, "cook"], None), by_name)
    assert COLUMNS.prepare(np.array([50, 3, 3]), None).tolist() == [1, 0, 2] and COLUMNS.shape == (3,)
    for wrong, message in [
        ({"agee": 3}, "other: a row has no column 'agee' .did you mean 'age'..; it has age, flat, job"),
        ([1, 2], "other: .1, 2. is no row: give values of age, flat, job"),
        ("age", "other: 'age' is no row"),
        (b"age", "other: b'age' is no row"),
        ({"age": "NA", "notes": "any"}, "no_input: a row without a value of age, flat, job"),
    ]:
        with pytest.raises(BadExample, match=message):
            COLUMNS.prepare(wrong, None)
