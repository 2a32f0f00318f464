import os
import socket

import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.image.image_file import read_image
from mmjax.data.mixture import open_source
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import UserError
from mmjax.io.reader import Reader
from mmjax.io.regular_file import NotReadableError, check_regular
from tests.helpers import runs


@pytest.fixture
def special(tmp_path):
    """Paths of what is no file, by kind; opening the pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(tmp_path)  # paths of sockets are short
    listening.bind("socket")
    os.chdir(here)
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(20 << 30)
    (tmp_path / "link").symlink_to("pipe")
    yield {
        "pipe": tmp_path / "pipe",
        "socket": tmp_path / "socket",
        "device": "/dev/zero",
        "sparse": tmp_path / "sparse",
    }
    listening.close()


def test_what_is_no_file_is_refused_by_its_kind(special):
    for kind, path in special.items():
        with pytest.raises(NotReadableError, match=kind):
            Reader().read(str(path))
        with pytest.raises(BadExample, match=kind) as caught:
            read_image(Reader(), str(path))
        assert caught.value.reason == ("too_large" if kind == "sparse" else "read")
        if kind != "sparse":
            with pytest.raises(NotReadableError, match=kind):
                Reader().read_range(str(path), 0, 10)
    with pytest.raises(NotReadableError, match="pipe"):
        Reader().read(str(special["pipe"].with_name("link")))


def test_a_part_of_a_sparse_file_is_read_and_a_large_one_is_not(special, tmp_path):
    assert Reader().read_range(str(special["sparse"]), 1 << 33, 4) == bytes(4)
    (tmp_path / "a").write_bytes(b"abc")
    with pytest.raises(NotReadableError, match="has 3 bytes, at most 2"):
        Reader().read(str(tmp_path / "a"), limit=2)
    assert check_regular(str(tmp_path / "a"), 3).st_size == 3


@pytest.mark.parametrize(
    "spec", ["pairs:{}.csv", "wds:{}.tar", "parquet:{}.parquet", "karpathy:{}.json/test", "vqa:{}.jsonl"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
def test_sources_refuse_it_in_one_line(special, tmp_path, spec, kind):
    path = str(tmp_path / "data")
    os.symlink(special[kind], f"{path}.{spec.rpartition('.')[2].partition('/')[0]}")
    with pytest.raises(UserError) as caught:
        open_source(spec.format(path))
    message = str(caught.value)
    assert message.startswith(f"data.train='{spec.format(path)}'") and "\n" not in message
    assert kind in message or spec.startswith(("wds", "parquet"))


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse"])
def test_tokenizers_refuse_it(special, kind):
    with pytest.raises(UserError, match=f"data.tokenizer='words:.*{'at most' if kind == 'sparse' else kind}"):
        make_tokenizer(f"words:{special[kind]}", 16)


def test_a_table_s_row_that_names_it_is_a_bad_example(special, tmp_path):
    table = runs.write_pairs(tmp_path / "pairs", count=3)
    with open(table, "a") as file:
        file.writelines(f"{path}\tx\n" for path in special.values())
    source = open_source(f"pairs:{table}")
    for index in range(3, 7):
        with pytest.raises(BadExample):
            source[index]
