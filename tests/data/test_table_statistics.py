import collections
import itertools
import json
import math
import random
import statistics
from fractions import Fraction

import numpy as np
import pytest

from mmjax.data.table_columns import CategoryColumn, NumberColumn, TableColumns, TextColumn
from mmjax.data.table_statistics import MAX_VALUES, TableStatistics
from mmjax.errors import UserError


def columns_of(rows, max_categories=256, **kinds):
    table = TableStatistics(kinds)
    table.add(rows)
    return table.columns(max_categories)


def only(columns):
    (column,) = (*columns.numbers, *columns.categories, *columns.texts)
    return column


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 2, 7],
        [0.1, 0.2, 0.3],
        [1e9 + 0.1, 1e9 + 0.2, 1e9 + 0.4],  # whose squares differ in digits that floats have not
        [1e150 / 3, -1e149, 1.0],
        [5e-324, 1e-300, -3.0],
        [4.0],
        [1700000000, 1700000001],
    ],
)
def test_mean_and_std_are_those_of_exact_arithmetic(values):
    column = only(columns_of([{"x": value} for value in values], x="number"))
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    assert column.mean == float(mean)
    variance = sum((value - mean) ** 2 for value in exact) / len(exact)
    assert column.std == pytest.approx(math.sqrt(variance), rel=1e-15)
    assert column.std == pytest.approx(statistics.pstdev(exact), rel=1e-15)


def test_large_samples_are_those_of_float64_and_of_any_order():
    values = np.random.default_rng(0).lognormal(3, 2, 20_000).tolist()
    rows = [{"x": value} for value in values]
    column = only(columns_of(rows, x="auto"))
    assert column.mean == float(sum(map(Fraction, values)) / len(values)) and column.count == 20_000
    assert column.std == pytest.approx(np.std(values), rel=1e-12)
    random.Random(1).shuffle(rows)
    assert only(columns_of(iter(rows), x="auto")) == column


def brute_force(rows, name):
    """Mean, standard deviation and missing of a column of numbers, or categories in their order, from a list."""
    values = [row.get(name) for row in rows]
    values = [v for v in values if v is not None and v == v and str(v).strip() not in ("", "NA")]
    return values, len(rows) - len(values)


def test_a_table_of_all_kinds_equals_brute_force_however_it_is_divided():
    draw = random.Random(0)
    jobs = ["nurse", "cook", "pilot", "smith"]
    rows = [
        {
            "age": draw.choice([draw.randint(1, 99), str(draw.randint(1, 99)), None, "NA", " 7 ", math.nan]),
            "job": draw.choice([*jobs, "", None, " nurse "]),
            "code": draw.choice([1, 2.0, "3"]),
            "name": f"{draw.random()}x",
            "unread": 1,
        }
        for _ in range(1000)
    ]
    kinds = {"name": "auto", "age": "auto", "code": "category", "job": "auto"}
    columns = columns_of(rows, **kinds)
    ages, missing = brute_force(rows, "age")
    numbers = [float(age) for age in ages]
    (age,) = columns.numbers
    assert (age.name, age.count, age.missing) == ("age", len(numbers), missing)
    assert (age.mean, age.std) == pytest.approx((np.mean(numbers), np.std(numbers)))
    code, job = columns.categories
    values, missing = brute_force(rows, "job")
    counted = collections.Counter(value.strip() for value in values)
    assert job == CategoryColumn("job", tuple(v for v, _ in counted.most_common()), len(values), missing)
    assert set(code.values) == {"1", "2", "3"} and columns.texts == (TextColumn("name", 1000, 0),)
    assert (columns.names, columns.sizes) == (("age", "code", "job"), (4, 5))

    for count in (2, 3):  # processes that see a part each, and put together what they have seen in another order
        parts = [TableStatistics(kinds) for _ in range(count)]
        for i, part in enumerate(parts):
            part.add(rows[i::count])
        for order in itertools.permutations(range(count)):
            together = TableStatistics(kinds)
            for i in order:
                together.merge(parts[i])
            assert together.columns() == columns and together.rows == 1000


def test_columns_are_the_same_through_json():
    rows = [{"x": 0.1 * i, "c": "ä" if i % 2 else None, "t": f"text {i}"} for i in range(50)]
    columns = columns_of(rows, x="auto", c="auto", t="auto")
    assert TableColumns.from_dict(json.loads(json.dumps(columns.to_dict())), where="meta.json") == columns


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "2", None], NumberColumn),
        (["1", "-.5e3", "+7.", "nan", "NA", "?"], NumberColumn),
        ([True, False] * 3, CategoryColumn),
        (["a", "b", "1"] * 2, CategoryColumn),
        (["a", "b", "c", "a"], TextColumn),  # hardly one twice
        (["1_000", "1_000"], CategoryColumn),  # Python's own writing of numbers is nobody's table's
        (["0x10", "inf"] * 2, CategoryColumn),
        ([str(i) + "a" for i in range(257)] * 2, TextColumn),
        (["NA", "null"] * 2, CategoryColumn),
        ([math.inf, math.inf], CategoryColumn),
        ([10**400, 10**400], CategoryColumn),
        ([b"a", "a"], CategoryColumn),
    ],
)
def test_kinds_are_inferred(values, kind):
    assert isinstance(only(columns_of([{"x": value} for value in values], x="auto")), kind)


def test_the_most_frequent_categories_come_first_and_the_alphabetically_first_of_those_as_frequent():
    rows = [{"x": value} for value in "ddccccbbaa"]
    assert only(columns_of(rows, x="category")).values == ("c", "a", "b", "d")
    assert only(columns_of(rows[::-1], x="category")).values == ("c", "a", "b", "d")


def test_mistakes_are_one_line():
    rows = [{"age": "old", "job": "cook"}, {"age": "3", "job": None}, {"age": "ancient"}]
    with pytest.raises(UserError, match="data.table.columns: age@number, but 'ancient' is none; make it age@category"):
        columns_of(rows, age="number")
    with pytest.raises(UserError, match="data.table.columns: none of 3 rows has a value of 'jobs' .did you mean 'job'"):
        columns_of(rows, jobs="auto")
    with pytest.raises(UserError, match="data.table.columns: age@KIND='nubmer' is not known .did you mean 'number'"):
        TableStatistics({"age": "nubmer"})
    with pytest.raises(UserError, match="columns: none is named"):
        TableStatistics({})
    with pytest.raises(UserError, match="'job' has no number in 3 rows .such as 'cook'.; make it job@category"):
        columns_of(rows, job="number")
    with pytest.raises(UserError, match="'age' has no number in 2 rows .such as NA.; make it age@category"):
        columns_of([{"age": "NA"}, {"age": "nan"}], age="number")
    with pytest.raises(
        UserError, match="'age' has 3 categories, more than data.table.max_categories=2; set that higher"
    ):
        columns_of(rows, max_categories=2, age="category")
    with pytest.raises(UserError, match="data.table.max_categories=0 must be from 1 to"):
        columns_of(rows, max_categories=0, age="category")
    with pytest.raises(ValueError, match="statistics of other columns"):
        TableStatistics({"a": "auto"}).merge(TableStatistics({"b": "auto"}))


def test_a_column_of_too_many_values_is_no_category(monkeypatch):
    monkeypatch.setattr("mmjax.data.table_statistics.MAX_VALUES", 20)
    rows = [{"x": f"value {i}"} for i in range(21)]
    with pytest.raises(UserError, match="'x' has more than 20 categories, more than data.table.max_categories=20"):
        columns_of(rows, max_categories=20, x="category")
    assert len(only(columns_of(rows[1:], max_categories=20, x="category")).values) == 20 and MAX_VALUES == 100_000
    first, second = TableStatistics({"x": "category"}), TableStatistics({"x": "category"})
    first.add(rows[:11])
    second.add(rows[11:])
    first.merge(second)
    with pytest.raises(UserError, match="more than 20 categories"):
        first.columns(20)
