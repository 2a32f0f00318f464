"""Search over a folder of images: exact answers, an index that follows the folder, clear mistakes."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mmjax.cli import main
from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.inference import checkpoint_source, eval_model
from mmjax.search import index as index_lib
from mmjax.search import searcher as searcher_lib
from mmjax.search.gallery import INDEX_FOLDER, KINDS, FolderGallery
from tests.helpers import runs


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("search") / "run"
    assert runs.train(runs.config(steps=2, data__eval=""), workdir) is None
    return workdir


@pytest.fixture
def folder(tmp_path):
    for i in range(11):  # more than a batch of eight, in two folders
        write_image(tmp_path / "images" / ("a" if i % 2 else "b/c") / f"{i}.png", i)
    return tmp_path / "images"


def search(*argv, devices=1):
    with runs.shared_compilation(), runs.on_devices(devices):
        return main.main(["search", *map(str, argv)])


def parse(out):
    """The printed results: {query: [(score, path)]}."""
    results, query = {}, None
    for line in out.splitlines():
        words = line.split()
        if query and len(words) == 3 and words[0].isdecimal():
            results[query].append((float(words[1]), words[2]))
        elif line:
            query = line
            results[query] = []
    return results


def embeddings(trained, folder):
    """All images and a text by the model itself, without an index."""
    gallery = FolderGallery(KINDS["image"], str(folder))
    paths = list(gallery.entries)
    run = checkpoint_source.RunCheckpoint(trained)
    with runs.shared_compilation(), runs.on_devices(1):
        searcher = searcher_lib.Searcher(eval_model.open_workdir(run))
        source = searcher_lib._Entries(gallery, paths)
        images = searcher.embed(example.image for example in EvalExamples(source, searcher.specs))
        return paths, images, searcher.embed_texts(["a red circle"])


def test_answers_are_the_nearest_images(trained, folder, capsys):
    flags = [f"--workdir={trained}", f"--images={folder}", f"--image={folder / 'a' / '3.png'}", "--top=4"]
    assert search("a red circle", *flags) == 0
    results = parse(capsys.readouterr().out)
    paths, images, text = embeddings(trained, folder)
    for query, vector in (("a red circle", text[0]), (str(folder / "a" / "3.png"), images[paths.index("a/3.png")])):
        scores = images.astype(np.float64) @ vector.astype(np.float64)
        best = np.argsort(-scores, kind="stable")[:4]
        assert [path for _, path in results[query]] == [paths[i] for i in best]
        np.testing.assert_allclose([score for score, _ in results[query]], scores[best], atol=1e-4)
    assert results[str(folder / "a" / "3.png")][0] == (1.0, "a/3.png")


def test_the_index_follows_the_folder(trained, folder, capsys):
    flags = [f"--workdir={trained}", f"--images={folder}", "red"]

    def search_index():
        assert search(*flags, "--top=99") == 0
        out, err = capsys.readouterr()
        return out.splitlines()[0].partition(": ")[2], parse(out)["red"], err

    first = search_index()
    assert first[0] == "11 new, 0 removed or changed" and "embedding" in first[2]
    again = search_index()
    assert again[0] == "0 new, 0 removed or changed" and again[1] == first[1] and "embedding" not in again[2]
    (folder / "a" / "1.png").unlink()
    write_image(folder / "b" / "c" / "2.png", 99).touch()
    write_image(folder / "new.png", 3)  # the same picture as a/3.png
    (folder / "broken.jpg").write_bytes(b"no picture")
    changed, answers, err = search_index()
    assert changed == "3 new, 2 removed or changed"
    assert "1 cannot be read, such as broken.jpg" in err
    scores = {path: score for score, path in answers}
    assert len(scores) == 11 and "a/1.png" not in scores and scores["new.png"] == scores["a/3.png"]
    assert scores["b/c/2.png"] != {path: score for score, path in first[1]}["b/c/2.png"]
    # What cannot be read is not tried again.
    assert search_index()[0] == "0 new, 0 removed or changed"


def test_an_index_of_another_model_is_kept_until_told(trained, folder, tmp_path, capsys):
    other = tmp_path / "other"
    assert runs.train(runs.config(steps=2, seed=5, data__eval=""), other) is None
    where = f"--index={tmp_path / 'index'}"
    assert search(f"--workdir={trained}", f"--images={folder}", where, "x") == 0
    before = runs.snapshot(tmp_path / "index")
    assert search(f"--workdir={other}", f"--images={folder}", where, "x") == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert "made with another model" in err and "--rebuild" in err and str(trained) in err
    assert runs.snapshot(tmp_path / "index") == before
    assert search(f"--workdir={other}", f"--images={folder}", where, "--rebuild", "x") == 0
    assert search(f"--workdir={other}", f"--images={folder}", where, "x") == 0
    assert ": 0 new, 0 removed" in capsys.readouterr().out
    assert not (folder / INDEX_FOLDER).exists()


class _Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.sources, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def test_contact_sheets(trained, folder, tmp_path, capsys):
    flags = [f"--workdir={trained}", f"--images={folder}", "a <b> & c", "two", "--top=6"]
    for kind in ("html", "png", "json"):
        assert search(*flags, f"--output={tmp_path / 'out' / f'sheet.{kind}'}") == 0
    answers = json.loads((tmp_path / "out" / "sheet.json").read_text())
    assert [match["query"] for match in answers] == ["a <b> & c", "two"]
    assert [len(match["results"]) for match in answers] == [6, 6]
    page = _Page((tmp_path / "out" / "sheet.html").read_text())
    assert len(page.sources) == 12 and all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "a <b> & c" in page.text and answers[0]["results"][0]["path"] in page.text
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.size[0] > 5 * 192 and sheet.size[1] > 4 * 192  # two queries of two rows
        assert len(np.unique(np.asarray(sheet))) > 200


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images=nowhere", "--workdir=W"], "--images=nowhere: there is no such folder"),
        (["--images=EMPTY", "--workdir=W"], "no images there"),
        (["--images=F", "--workdir=W", "--model=M"], "give one of them"),
        (["--images=F", "--workdir=W", "--top=0"], "--top=0 must be at least 1"),
        (["--images=F", "--workdir=W", "--output=sheet.pdf"], "choose one of: html, png, json"),
        (
            ["--images=F", "--workdir=W", "--image=gone.png"],
            "--image=gone.png: cannot be read as an image (no such file)",
        ),
        (["--images=F", "--workdir=gone"], "give the --workdir of a training run"),
        (["--images=F", "--workdir=W", "--config.model.image.width=3"], "belongs to the trained model"),
        (["--images=F", "--workdir=W", "--model-config=heads=2"], "--model-config heads=2 needs --model"),
        (["--images=F", "--workdir=W", "--set=heads=2"], "--model-config heads=2 needs --model"),  # as 0.1 has it
        (["--images=F", "--workdir=W", "--tokenizer=clip"], "--tokenizer=clip needs --model"),
    ],
)
def test_mistakes_are_one_line(trained, folder, tmp_path, capsys, flags, message):
    (tmp_path / "empty").mkdir()
    folders = {"=W": f"={trained}", "=F": f"={folder}", "=EMPTY": f"={tmp_path / 'empty'}"}
    flags = [next((flag[: -len(k)] + v for k, v in folders.items() if flag.endswith(k)), flag) for flag in flags]
    assert search("red", *flags) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("queries", "message"), [([], "nothing to search for: give a TEXT"), ([""], "a TEXT is empty; give words")]
)
def test_no_query_is_a_mistake(trained, folder, capsys, queries, message):
    assert search(*queries, f"--workdir={trained}", f"--images={folder}") == 2
    assert message in capsys.readouterr().err


def test_images_that_cannot_be_written_to_are_indexed_elsewhere(trained, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: str(folder) not in str(path))
    assert search("red", f"--workdir={trained}", f"--images={folder}") == 2
    err = capsys.readouterr().err
    assert "name another folder for it with --index=DIR" in err and len(err.splitlines()) == 1
    assert search("red", f"--workdir={trained}", f"--images={folder}", f"--index={tmp_path / 'index'}") == 0


def test_an_update_that_was_killed_goes_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(index_lib, "_PART", 4)
    images = FolderGallery(KINDS["image"], str(folder)).entries
    embedded = []

    def embed(paths):
        if len(embedded) == 8:
            raise KeyboardInterrupt
        embedded.extend(paths)
        return np.array([[len(embedded) + i, 1] for i in range(len(paths))], np.float32), range(len(paths)), {}

    with pytest.raises(KeyboardInterrupt):
        index_lib.Index(tmp_path / "i", {"name": "m"}).update(images, embed)
    (tmp_path / "i" / "part-000009.npz").write_bytes(b"cut off")  # damaged: embedded again
    index = index_lib.Index(tmp_path / "i", {"name": "m"})
    assert len(index.gallery()[0]) == 8
    again = []
    assert index.update(images, lambda paths: (again.extend(paths), embed_all(paths))[1]) == (0, 3)
    assert sorted(embedded + again) == sorted(images)


def embed_all(paths):
    return np.ones((len(paths), 2), np.float32) * len(paths), range(len(paths)), {}


def test_small_parts_are_made_one(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(index_lib, "_SMALL_PARTS", 3)
    images = FolderGallery(KINDS["image"], str(folder)).entries
    index = index_lib.Index(tmp_path / "i", {"name": "m"})
    for count in (2, 5, 9, 11):
        index.update(dict(list(images.items())[:count]), embed_all)
    assert len(index.parts) == 2  # three were made one, and one came after
    again = index_lib.Index(tmp_path / "i", {"name": "m"})
    assert again.gallery()[0] == sorted(images)
    np.testing.assert_array_equal(again.gallery()[1], index.gallery()[1])


@pytest.mark.full
def test_eight_devices_find_the_same(trained, folder, tmp_path, capsys):
    flags = [f"--workdir={trained}", f"--images={folder}", "red", "--top=99"]
    assert search(*flags, f"--index={tmp_path / '1'}") == 0
    one = parse(capsys.readouterr().out)["red"]
    assert search(*flags, f"--index={tmp_path / '8'}", "--config.eval.batch_size=16", devices=8) == 0
    eight = parse(capsys.readouterr().out)["red"]
    assert {path for _, path in one} == {path for _, path in eight}
    np.testing.assert_allclose(sorted(s for s, _ in one), sorted(s for s, _ in eight), atol=1.01e-4)
