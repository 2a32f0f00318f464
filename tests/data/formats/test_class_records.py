"""CLIP_benchmark's multi-label tars: `.npy` vectors, read without pickle."""

import io

import numpy as np
import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.class_records import read_labels
from mmjax.data.mixture import open_source
from mmjax.data.source_protocols import SourceOptions
from tests.helpers.tar_sets import jpeg, write_tar


def npy(values, dtype=np.int64, **settings):
    file = io.BytesIO()
    np.save(file, np.array(values, dtype), **settings)
    return file.getvalue()


def test_a_folder_of_tars(tmp_path):
    (tmp_path / "test").mkdir()
    shown = [[0, 2], [1], []]
    vectors = [
        npy(np.isin(range(3), marked), dtype) for marked, dtype in zip(shown, (np.int64, bool, np.float32), strict=True)
    ]
    members = [pair for i, v in enumerate(vectors) for pair in ((f"s{i}.webp", jpeg(i)), (f"s{i}.npy", v))]
    write_tar(tmp_path / "test" / "0.tar", members)
    for name, text in (
        ("test/nshards.txt", "1"),
        ("dataset_type.txt", "multilabel\n"),
        ("classnames.txt", "cat\ndog\nsheep"),
        ("zeroshot_classification_templates.txt", "a {c}"),
    ):
        (tmp_path / name).write_text(text)
    source = open_source(f"wds:{tmp_path}/test", SourceOptions(cache=str(tmp_path / "cache")), field="data.eval")
    assert source.class_names == ["cat", "dog", "sheep"] and source.is_multilabel
    assert [source[i]["labels"] for i in range(3)] == shown and "label" not in source[0]
    assert [source[i]["captions"] for i in range(3)] == [["a cat", "a sheep"], ["a dog"], [""]]
    assert source[0]["image"] == jpeg(0) and len({source[i]["id"] for i in range(3)}) == 3


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"PK\x03\x04",
        npy([0, 1, 1])[:-3],
        npy([0, 1]),
        npy([[0, 1, 1]]),
        npy([0, 1, 2]),
        npy([0, 1, np.nan], np.float32),
        npy(["0", "1", "1"], str),
        npy([None, 1, 1], object),
        npy([0, 1, 1]).replace(b"(3,)", b"(9999999999999,)"),
    ],
)
def test_what_is_no_vector_of_the_classes_is_a_bad_example(content):
    with pytest.raises(BadExample, match=r"x\.tar/a: "):
        read_labels(content, 3, "x.tar/a")
    assert read_labels(npy([0, 1, 1]), 3, "x.tar/a") == [1, 2]
