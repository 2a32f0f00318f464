import pytest

from mmjax.data.fitting_source import fitting_source
from mmjax.data.mixture import open_source
from mmjax.errors import UserError
from tests.helpers.source_checks import png


@pytest.fixture
def root(tmp_path):
    for file in ("captioned/00000/1.txt", "captioned/00000/1.PNG", "classes/cat/1.png", "flat/1.png", "flat/1.caption"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(png(0) if file.lower().endswith("png") else b"a cat")
    for file in ("tars/00000.tar", "tars/00000.parquet", "rows/00000.parquet", "other/notes.md", "images/1.png"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(png(0))
    return tmp_path


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("captioned", "files"),
        ("flat", "files"),
        ("classes", "folder"),
        ("tars", "wds"),
        ("rows", "parquet"),
        ("rows/*.parquet", "parquet"),
        ("tars/{00000..00004}.tar", "wds"),
        ("captions.TSV", "pairs"),
        ("other", ""),
        ("images", ""),
        ("none", ""),
    ],
)
def test_what_lies_at_a_path_says_its_source(root, path, source):
    assert fitting_source(f"{root}/{path}") == (f"{source}:{root}/{path}" if source else "")


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("wds:{}/captioned", "files:{}/captioned"),
        ("folder:{}/rows", "parquet:{}/rows"),
        ("parquet:{}/tars/00000.tar", "wds:{}/tars/00000.tar"),
        ("pairs:{}/rows/00000.parquet", "parquet:{}/rows/00000.parquet"),
        ("{}/captioned", "files:{}/captioned"),
        ("gs://bucket/{{0..9}}.tar", "wds:gs://bucket/{{0..9}}.tar"),
    ],
)
def test_a_path_of_another_source_is_named(root, spec, meant):
    with pytest.raises(UserError) as error:
        open_source(spec.format(root), field="data.eval")
    assert str(error.value).startswith("data.eval=") and meant.format(root) in str(error.value)


def test_sources_with_files_of_their_kind_name_no_other(root):
    (root / "questions.jsonl").write_text('{"image": "1.png"}')
    for spec in ("vqa:{}/questions.jsonl", "pairs:{}/none.csv", "wds:{}/none.tar", "folder:{}/other"):
        with pytest.raises(UserError) as error:
            open_source(spec.format(root))
        assert "did you mean" not in str(error.value).replace("(did you mean 'image'?)", ""), error.value
