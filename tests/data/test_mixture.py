import io
import re
import sys

import numpy as np
import pytest
from fsspec.registry import _registry
from PIL import Image

from mmjax import registry, tasks
from mmjax.config import parse
from mmjax.config.schema import base_config
from mmjax.data.mixture import open_source, parse_eval, parse_mixture
from mmjax.data.record import stable_id
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.sources.digits import Digits
from mmjax.data.sources.folder import Folder
from mmjax.data.sources.pairs import Pairs
from mmjax.data.sources.shapes import Shapes
from mmjax.errors import UserError
from tests.helpers.source_checks import png


@pytest.fixture
def table(tmp_path):
    """A table and a class folder whose paths hold every separator of the grammar."""
    folder = tmp_path / "a+b@2x" / "cats+dogs@3"
    (folder / "cat").mkdir(parents=True)
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(file, "PNG")
    for path in (folder / "cat" / "0.png", folder / "0.png"):
        path.write_bytes(file.getvalue())
    path = folder.parent / "t+1@0.5.tsv"
    path.write_text("image\tcaption\ncats+dogs@3/cat/0.png\ta cat\n")
    return str(path)


def kinds_and_weights(mixture):
    return [(type(source).__name__, weight) for source, weight in mixture]


def test_embedded_sources_and_splits():
    assert isinstance(open_source("digits"), Digits) and isinstance(open_source("shapes/test"), Shapes)
    assert open_source("shapes").split == "train" and open_source("digits/test").split == "test"


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("shapes@0.5+digits@0.5", [0.5, 0.5]),
        ("shapes+digits@2", [1.0, 2.0]),
        ("shapes/train@1e-2 + digits/train", [0.01, 1.0]),
    ],
)
def test_mixtures_have_weights(text, weights):
    assert kinds_and_weights(parse_mixture(text)) == list(zip(["Shapes", "Digits"], weights, strict=True))


def test_options_and_weights_reach_every_kind_of_source():
    (first, weight), (second, other) = parse_mixture("synthetic/9@3+synthetic", SourceOptions(image_size=8))
    assert (len(first), weight, len(second), other) == (9, 3.0, 1_000_000, 1.0)
    assert first[0]["image"].shape == second[0]["image"].shape == (8, 8, 3)


def test_the_usage_line_tells_every_kind_of_source():
    with pytest.raises(UserError) as error:
        open_source("")
    forms = re.split(", | or ", str(error.value).partition("write ")[2])
    assert [re.split("[:[]", form)[0] for form in forms] == list(registry.sources)


def test_separators_inside_paths_are_left_alone(table):
    mixture = parse_mixture(f"pairs:{table}@3+digits+folder:{table.rpartition('/')[0]}/cats+dogs@3@.25+shapes@2")
    assert kinds_and_weights(mixture) == [("Pairs", 3.0), ("Digits", 1.0), ("Folder", 0.25), ("Shapes", 2.0)]
    assert mixture[0][0][0]["captions"] == ["a cat"] and mixture[2][0].class_names == ["cat"]
    assert isinstance(open_source(f"pairs:{table}"), Pairs) and kinds_and_weights(parse_mixture(f"pairs:{table}"))


def test_evaluation_sources_are_told_apart(table):
    sources = parse_eval("shapes/test+digits/test")
    assert [source.name for source in sources] == ["shapes", "digits"] and [len(s) for s in sources] == [1000, 355]
    folder = table.rpartition("/")[0]
    sources = parse_eval(f"folder:{folder}/cats+dogs@3/+folder:{folder}+shapes/test")
    assert [type(s) for s in sources] == [Folder, Folder, Shapes]
    same = parse_eval(f"pairs:{table}+pairs:{folder}/./t+1@0.5.tsv")
    assert len({source.name for source in same}) == 2 and all(s.name.startswith("pairs:") for s in same)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["''", "digits[/SPLIT]"]),
        ("digits+", ["''", "digits[/SPLIT]"]),
        ("pairs:", ["'pairs:'", "pairs:FILE"]),
        ("shapes+digts", ["'digts'", "unknown source", "did you mean 'digits'"]),
        ("pears:x.csv", ["'pears'", "did you mean 'pairs'"]),
        ("webdataset:{0..9}.tar", ["unknown source 'webdataset'", "folder:DIR"]),
        ("parquets:x.parquet", ["'parquets'", "did you mean 'parquet'"]),
        ("synthetic:9", ["':9' cannot follow 'synthetic'", "synthetic[/N]"]),
        ("wds", ["'wds' says no path; write wds:PATTERN"]),
        ("pairs+digits", ["'pairs' says no path; write pairs:FILE"]),
        ("WDS:a", ["unknown source 'WDS'", "did you mean 'wds'"]),
        ("Shapes", ["unknown source 'Shapes'", "did you mean 'shapes'"]),
        ("wds:none@half", ["if '@half' is meant for a weight, write a number, such as none@0.5"]),
        ("pairs:none.csv@0,5", ["if '@0,5' is meant for a weight"]),
        ("wds:foo://bucket/{0..9}.tar", ["foo:// is no storage that is known"]),
        ("pairs:htps://host/a.csv", ["htps:// is no storage that is known (did you mean 'https'?)"]),
        ("wds:a::foo://b", ["foo:// is no storage that is known"]),
        ("digits/tset", ["'digits/tset'", "split", "did you mean 'test'"]),
        ("digits:test", ["':test' cannot follow 'digits'", "digits[/SPLIT]"]),
        ("shapes@half", ["'half'", "not a number"]),
        ("shapes@0+digits", ["'shapes@0'", "positive"]),
        ("shapes@-1", ["weight -1", "positive"]),
        ("pairs:none.csv+digits", ["'pairs:none.csv'", "no such file"]),
        ("folder:none", ["'folder:none'", "no such file or folder"]),
    ],
)
def test_mistakes_are_named(text, words):
    for read, field in ((parse_mixture, "data.train"), (parse_eval, "data.eval")):
        with pytest.raises(UserError) as error:
            read(text)
        message = str(error.value)
        assert message.startswith(field) and "\n" not in message
        if parse is parse_mixture:
            assert all(word in message for word in words), message


@pytest.mark.parametrize(("scheme", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs")])
@pytest.mark.parametrize("name", ["wds", "pairs", "parquet", "folder", "karpathy"])
def test_a_missing_package_for_a_storage_is_named_with_what_installs_it(monkeypatch, name, scheme, package, extra):
    monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    monkeypatch.delitem(_registry, scheme, raising=False)
    with pytest.raises(UserError, match=f"{scheme}:// cannot be read .*{package}.*pip install 'mmjax.{extra}.'"):
        open_source(f"{name}:{scheme}://bucket/x")


@pytest.fixture
def two_tables(tmp_path):
    """Tables whose columns have different names."""
    images = [tmp_path / name for name in ("a.png", "b.png")]
    for value, path in enumerate(images):
        path.write_bytes(png(value))
    (tmp_path / "1.csv").write_text("image,title\na.png,one\n")
    (tmp_path / "2.csv").write_text("photo,alt,path\na.png,two,b.png\n")
    return f"pairs:{tmp_path}/1.csv+pairs:{tmp_path}/2.csv"


def test_keys_may_have_a_part_for_each_source(two_tables):
    chosen = SourceOptions(image_key="|photo", caption_keys="title | alt@2")
    for sources in ([source for source, _ in parse_mixture(two_tables, chosen)], parse_eval(two_tables, chosen)):
        assert [source[0]["captions"] for source in sources] == [["one"], ["two"]]
        assert [source[0]["image"] for source in sources] == [png(0), png(0)]
    (first, _), (second, _) = parse_mixture(two_tables, SourceOptions(caption_keys="|alt"))
    assert first[0]["captions"] == ["one"] and second[0]["image"] == png(1)  # an empty part finds the field


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caption_keys": "title"}, "2.csv': data.caption_keys='title': no field 'title', found 'photo'"),
        ({"caption_keys": "title|alt|x"}, "data.caption_keys='title|alt|x' has 3 parts for 2 sources; write one"),
        ({"image_key": "a|b|c", "keys_field": "eval"}, "eval.image_key='a|b|c' has 3 parts for 2 sources"),
        ({"caption_keys": "|alt@0", "keys_field": "eval"}, "eval.caption_keys='alt@0'"),
    ],
)
def test_keys_that_do_not_fit_their_sources_are_refused(two_tables, options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse_mixture(two_tables, SourceOptions(**options))
    with pytest.raises(UserError, match="has 2 parts for 1 sources"):
        open_source(two_tables.partition("+")[0], SourceOptions(caption_keys="title|alt"))


def test_evaluation_has_keys_of_its_own():
    config = base_config()
    config.data.update(image_key="a", caption_keys="b")
    config.eval.update(image_key="c", caption_keys="d")
    train, evaluation = (tasks.source_options(parse(config), evaluation=is_eval) for is_eval in (False, True))
    assert (train.image_key, train.caption_keys, train.keys_field) == ("a", "b", "data")
    assert (evaluation.image_key, evaluation.caption_keys, evaluation.keys_field) == ("c", "d", "eval")
    assert (train.max_bad_fraction, evaluation.max_bad_fraction) == (config.data.max_bad_fraction, 0.0)


def test_evaluation_takes_no_weights_and_no_repeats():
    with pytest.raises(UserError, match="data.eval='digits/test@0.5' has a weight"):
        parse_eval("shapes/test+digits/test@0.5")
    with pytest.raises(UserError, match="'digits/test' twice"):
        parse_eval("digits/test+digits/test")


def test_stable_ids_are_64_bit_and_never_change():
    assert stable_id("digits", "seven") == stable_id("digits", "seven") < 2**64
    assert stable_id("ab", "c") != stable_id("a", "bc") and stable_id("a") != stable_id("a", "")
    assert stable_id("image", 7) == 9692492806356241785
