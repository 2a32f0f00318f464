import subprocess

import pytest

from mmjax.errors import UserError
from mmjax.io.patterns import expand_braces, list_files, pattern_name
from mmjax.io.reader import Reader


@pytest.mark.parametrize(
    "pattern",
    ["a/{00..11}.tar", "{3..1}{a,b}", "x{08..12}y{1..2}z", "{0..9}-{,s}", "plain", "{a}{}", "{1..a}", "{2..002}"],
)
def test_braces_expand_as_in_bash(pattern):
    expected = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    assert expand_braces(pattern) == expected.stdout.splitlines()


def test_wildcards_are_looked_up_within_each_choice(tmp_path):
    for name in ("b1", "b2", "a1", "c1"):
        (tmp_path / name).touch()
    paths = list_files(f"{tmp_path}/{{b,a}}*", reader=Reader(), where="x")
    assert [path.rpartition("/")[2] for path in paths] == ["b1", "b2", "a1"]
    with pytest.raises(UserError, match="data.train='x': no file matches .*'.*/d.'"):
        list_files(f"{tmp_path}/{{a,d}}?", reader=Reader(), where="data.train='x'")
    with pytest.raises(UserError, match="more than"):
        list_files("{0..99999999}", reader=Reader(), where="x")


def test_names_are_what_file_names_have_in_common():
    patterns = {
        "data/cc3m-train-{0000..0575}.tar": "cc3m-train",
        "data/coco.parquet": "coco",
        "s3://b/laion/{00000..00099}.parquet": "laion",
        "x/*.parquet": "x",
    }
    assert {pattern: pattern_name(pattern) for pattern in patterns} == patterns
