"""Patterns of paths, and spans of seconds."""

import math

import numpy as np
import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.table_inputs import PathPattern, parse_spans, read_span
from mmjax.errors import UserError


def test_patterns():
    pattern = PathPattern.parse("/data/clips/{split}/{youtube_id}_{start}-{youtube_id}.flac")
    assert pattern.folder == "/data/clips/" and pattern.columns == ["split", "youtube_id", "start"]
    assert pattern.fill(["train", " x{y} ", 30]) == "train/x{y}_30-x{y}.flac"
    assert pattern.fill(["train", "", 30]) == "" == pattern.fill(["train", None, 30])
    assert PathPattern.parse("/data/clips") is None
    assert PathPattern.parse("{a}.wav").folder == ""


def test_a_column_that_is_not_there():
    pattern = PathPattern.parse("{youtub_id}.wav")
    with pytest.raises(UserError, match="names {youtub_id}, and the table has 'youtube_id', 'caption'.*'youtube_id'"):
        pattern.check(["youtube_id", "caption"], "data.train='pairs:a.csv'")
    PathPattern.parse("{caption}/{youtube_id}.wav").check(["youtube_id", "caption"], "")


def test_spans():
    starts, ends = (
        ["0", " 1.5 ", "", None, "x", 3, 2.0, "-1", "nan", "1"],
        ["2.5", "2", "", None, "3", 1, 2.0, "1", "2", "inf"],
    )
    spans = parse_spans(starts, ends)
    np.testing.assert_array_equal(spans[:2], [[0, 2.5], [1.5, 2]])
    assert np.isnan(spans[2:4]).all() and np.isinf(spans[4:]).all()
    assert read_span(1.5, 2.0, "row 1") == (1.5, 2.0) and read_span(math.nan, math.nan, "row 1") is None
    with pytest.raises(BadExample, match="other: row 5: its start and end are no seconds"):
        read_span(math.inf, math.inf, "row 5")
    assert parse_spans([], []).shape == (0, 2)


def test_cells_of_a_pattern_are_filled_up_with_zeros():
    pattern = PathPattern.parse("clips/{youtube_id}_{time_start:06}_{time_end:06}.mp4")
    assert pattern.columns == ["youtube_id", "time_start", "time_end"] and pattern.folder == "clips/"
    assert pattern.fill(["-a", "7", 17]) == "-a_000007_000017.mp4"
    assert pattern.fill(["-a", "1234567", " 17 "]) == "-a_1234567_000017.mp4"
    assert pattern.fill(["-a", "", 17]) == ""
