import pickle
import shutil
import sys

import pytest

from mmjax.data.mixture import open_source
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.sources.hf import HuggingFace
from mmjax.errors import UserError
from tests.helpers.media import make_sound
from tests.helpers.source_checks import check_source, count_substitutions, png, reasons

N = 12


def test_without_the_package_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"data.train='hf:x': needs datasets.*pip install 'mmjax\[hf\]'"):
        open_source("hf:x")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Data sets that the package has saved."""
    import datasets

    datasets.disable_progress_bars()
    folder = tmp_path_factory.mktemp("hf")
    images = [{"bytes": png(i), "path": None} for i in range(N)]
    captioned = datasets.Dataset.from_dict(
        {
            "image": images,
            "url": ["x"] * N,
            "caption": [[f"a {i}", f"b {i}"] for i in range(N)],
            "sentences": [[{"raw": f"raw {i}", "id": i}] for i in range(N)],
        }
    ).cast_column("image", datasets.Image())
    captioned.save_to_disk(folder / "captioned", num_shards=3)
    labels = datasets.ClassLabel(names=["cat", "dog"])
    classes = datasets.Dataset.from_dict({"img": images[:4], "label": [0, 1, 1, None]})
    classes = classes.cast_column("img", datasets.Image()).cast_column("label", labels)
    datasets.DatasetDict({"train": classes, "test": classes.select([1, 2])}).save_to_disk(folder / "classes")
    bad = datasets.Dataset.from_dict(
        {"image": [None, *images[1:3], {"bytes": b"", "path": None}], "text": ["x", None, " ", "y"]},
        features=datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")}),
    )
    datasets.concatenate_datasets(
        [
            bad,
            bad.select([3]),
            datasets.Dataset.from_dict({"image": images[:1], "text": ["good"]}, features=bad.features),
        ]
    ).save_to_disk(folder / "bad")
    return str(folder)


@pytest.mark.full
def test_rows_are_as_the_package_reads_them(saved):
    import datasets

    source = open_source(f"hf:{saved}/captioned")
    check_source(source, list(range(N)))
    theirs = datasets.load_from_disk(f"{saved}/captioned")
    assert [source[i]["captions"] for i in range(N)] == theirs["caption"][:]
    assert source.name == "captioned" and len({source[i]["id"] for i in range(N)}) == N
    options = SourceOptions(caption_keys="sentences.raw@1+caption@4")
    record = open_source(f"hf:{saved}/captioned", options)[2]
    assert record["captions"] == ["raw 2", "a 2", "b 2"] and record["caption_weights"] == [1, 2, 2]


@pytest.mark.full
def test_classes_have_names_and_make_captions(saved):
    source = open_source(f"hf:{saved}/classes/train")
    assert source.class_names == ["cat", "dog"] and [source[i]["label"] for i in range(3)] == [0, 1, 1]
    assert source[0]["captions"] == [template.format(c="cat") for template in source.templates]
    assert source[1]["id"] == source[2]["id"] != source[0]["id"]
    assert reasons(source) == ["ok"] * 3 + ["no_caption"]
    check_source(open_source(f"hf:{saved}/classes/test"), [1, 2])


@pytest.mark.full
def test_bad_rows_are_counted(saved):
    source = open_source(f"hf:{saved}/bad")
    assert reasons(source) == ["no_image", "no_caption", "no_caption", "ok", "ok", "ok"]
    assert count_substitutions(source) == {"no_image": 1, "no_caption": 2, "empty": 2, "ok": 1}


@pytest.mark.full
def test_mistakes_are_named(saved, tmp_path):
    for path, words in {
        "captioned/train": "no data set in there; give a folder .* save_to_disk",
        "nowhere": "no data set in there",
        "classes": f"has splits; choose one of: hf:{saved}/classes/train, hf:{saved}/classes/test",
        "classes/tain": r"no split 'tain' in there \(did you mean 'train'\?\); choose one of: test, train",
    }.items():
        with pytest.raises(UserError, match=words) as error:
            HuggingFace(f"{saved}/{path}", field="data.eval")
        assert str(error.value).startswith(f"data.eval='hf:{saved}/{path}'") and "\n" not in str(error.value)
    with pytest.raises(
        UserError,
        match="data.caption_keys='captoin': no field 'captoin', found 'image', 'url'.*did you mean 'caption'",
    ):
        HuggingFace(f"{saved}/captioned", options=SourceOptions(caption_keys="captoin"))
    with pytest.raises(UserError, match="field 'url' holds no encoded images, but 'image' could"):
        HuggingFace(f"{saved}/captioned", options=SourceOptions(image_key="url"))
    shutil.copytree(f"{saved}/captioned", tmp_path / "x")
    arrow = sorted((tmp_path / "x").glob("*.arrow"))
    arrow[0].write_bytes(arrow[0].read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be opened .*save the data set again"):
        HuggingFace(str(tmp_path / "x"))
    arrow[0].unlink()
    with pytest.raises(UserError, match="hf:.*x': "):
        HuggingFace(str(tmp_path / "x"))


@pytest.mark.full
def test_sounds_are_left_as_they_are(tmp_path):
    import datasets

    flac = make_sound("flac")
    table = datasets.Dataset.from_dict({"audio": [{"bytes": flac, "path": None}] * 2, "text": ["a sound", "another"]})
    table.cast_column("audio", datasets.Audio(sampling_rate=16000)).save_to_disk(tmp_path / "sounds")
    source = pickle.loads(pickle.dumps(open_source(f"hf:{tmp_path}/sounds")))
    assert source[1]["modalities"] == {"audio": flac} and source[1]["captions"] == ["another"]
