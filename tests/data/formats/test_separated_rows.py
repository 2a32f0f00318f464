import csv
import io
import random

import pytest

from mmjax.data.formats.separated_rows import RowProblems, find_separator, read_rows
from mmjax.errors import UserError


def lines_of(text):
    return io.StringIO(text, newline="")


def parse(text, separator=","):
    problems = RowProblems()
    rows = list(read_rows(lines_of(text), separator, problems))
    return [cells for _, cells in rows], [line for line, _ in rows], problems


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_what_a_csv_writer_writes_is_read(separator, line_end):
    random.seed(0)
    alphabet = ["a", "dog", " ", ",", "\t", ";", "|", '"', "\n", "\n\n", "ü", "'", "x.jpg"]
    rows = [["image", "caption"]]
    rows += [[f"{i}.png", "a" + "".join(random.choices(alphabet, k=12))] for i in range(200)]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, lineterminator=line_end).writerows(rows)
    cells, _, problems = parse(file.getvalue(), separator)
    assert cells == rows and problems == RowProblems(rows=200)
    assert find_separator(lambda: lines_of(file.getvalue()), ",") == separator


def test_a_cell_may_be_longer_than_csv_allows():
    long = "x" * 1_000_000
    cells, _, problems = parse(f'image,caption\na.png,"{long}, {long}"\nb.png,{long}\n')
    assert cells[1:] == [["a.png", f"{long}, {long}"], ["b.png", long]] and not problems.unusable


@pytest.mark.parametrize(
    ("row", "first"),
    [
        ("b.png,a dog, brown", "line 3 has 3 cells, the header 2"),
        ("b.png", "line 3 has 1 cells, the header 2"),
        ('b.png,"a dog', "line 3 opens a quotation mark"),
        ('b.png,"a 5" by 6" pipe', "line 3 opens a quotation mark"),
    ],
)
@pytest.mark.parametrize("after", ["", 'd.png,"y"\n', 'd.png,the 5" pipe\n'])
def test_a_broken_row_costs_no_other(row, first, after):
    cells, lines, problems = parse(f"image,caption\na.png,x\n{row}\nc.png,z\n{after}")
    assert [image for image, _ in cells[1:]] == ["a.png", "c.png", *(["d.png"] if after else [])]
    assert lines == [1, 2, 4, *([5] if after else [])]
    assert problems.unusable == 1 and first in problems.first_unusable and problems.rows == len(lines)


def test_marks_that_enclose_no_whole_cell_are_characters():
    cells, _, problems = parse('image,caption\na.png,"Hello" he said\nb.png,5" or 6"\n')
    assert cells[1:] == [["a.png", '"Hello" he said'], ["b.png", '5" or 6"']]
    assert (problems.literal, problems.first_literal, problems.unusable) == (1, 2, 0)
    cells, _, problems = parse('url\tcaption\na.png\t"open\nb.png\tx\n', "\t")  # nothing is quoted in most of these
    assert cells[1:] == [["a.png", '"open'], ["b.png", "x"]] and problems.literal == 1


def test_a_mark_too_many_that_another_one_closes_swallows_no_rows():
    cells, _, problems = parse('image,caption\na.png,"one\nb.png,two\nc.png,three"\nd.png,four\n')
    assert [image for image, _ in cells[1:]] == ["b.png", "c.png", "d.png"]
    assert problems.unusable == 1 and "line 2" in problems.first_unusable


def test_a_separator_is_found_by_the_header_and_the_rows():
    find = lambda text, usual=",": find_separator(lambda: lines_of(text), usual)
    assert find("image,caption\na.png,a dog, brown\n") == ","  # refused later, with its line
    assert find("image;caption, in English\na.png;a dog, brown, wet\n") == ";"
    assert find("image,caption\na.png,x|y\n", "\t") == ","
    assert find("image\tcaption\na.png\ta, b\n") == "\t"
    assert find("caption\nx\n") == "," and find("") == ","


def test_marks_that_never_close_take_no_quadratic_time():
    chain = 'x","y\n' * 20_000
    with pytest.raises(UserError, match="t.csv: line .*quotation mark"):
        list(read_rows(lines_of(f'image,caption\n"{chain}'), ",", RowProblems(), where="t.csv"))
