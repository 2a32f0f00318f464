"""Tables with several columns of files, each another modality of an example."""

import numpy as np
import pytest
from PIL import Image

from mmjax.data.bad_example import BadExample
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.sources.pairs import Pairs
from mmjax.errors import UserError


@pytest.fixture
def table(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full((4, 2), i, np.float32))
        Image.new("RGB", (8, 6), (50 * i, 0, 0)).save(tmp_path / f"{i}.png")
    rows = ["0.npy,0.png,sick,61", "1.npy,,well,40", "2.npy,2.png,sick,55", "2.npy,1.png,well,55"]
    (tmp_path / "stays.csv").write_text("\n".join(["series,image,label,age", *rows]) + "\n")
    return tmp_path / "stays.csv"


def test_further_columns_are_other_modalities_and_may_be_blank(table):
    source = Pairs(str(table), options=SourceOptions(image_key="series+image", classes=2))
    assert source.class_names == ["sick", "well"] and len(source) == 4
    for index, (series, image) in enumerate([(0, 0), (1, None), (2, 2), (2, 1)]):
        record = source[index]
        np.testing.assert_array_equal(record["modalities"]["series"], np.full((4, 2), series))
        assert record.get("image") == (None if image is None else (table.parent / f"{image}.png").read_bytes())
        assert record["label"] == index % 2


def test_further_columns_are_no_columns_of_the_table(table):
    options = SourceOptions(image_key="series+image", classes=2, columns=("age",))
    source = Pairs(str(table), options=options)
    assert source.row(0) == source[0]["modalities"]["table"] == {"age": "61"}
    assert "image" in source[0] and source[1].get("image") is None


def test_a_mistake_names_the_column_or_the_file(table):
    with pytest.raises(UserError, match=r"data.image_key='series\+imgae': no column 'imgae' .did you mean 'image'"):
        Pairs(str(table), options=SourceOptions(image_key="series+imgae", classes=2))
    (table.parent / "0.png").unlink()
    (table.parent / "2.npy").write_bytes(b"no array")
    source = Pairs(str(table), options=SourceOptions(image_key="series+image", classes=2))
    with pytest.raises(FileNotFoundError, match=r"0\.png"):
        source[0]
    source = Pairs(str(table), options=SourceOptions(image_key="image+series", classes=2))
    with pytest.raises(BadExample, match=r"2\.npy"):
        source[2]
