import pytest

from mmjax.data.source_protocols import Source, SourceOptions
from mmjax.data.sources.folder import Folder
from mmjax.errors import UserError
from tests.helpers.media import make_sound, make_video
from tests.helpers.source_checks import check_source, png


def write(root, *folders):
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        (root / folder / "0.png").write_bytes(png(number))
    return str(root)


def test_folder_has_classes_labels_and_captions(tmp_path):
    for folder, files in {
        "b_dog": ["2.PNG", "1.jpg", "notes.txt"],
        "a_cat": ["x.png", ".hidden.png"],
        ".git": [],
    }.items():
        (tmp_path / folder).mkdir()
        for i, file in enumerate(files):
            (tmp_path / folder / file).write_bytes(png(10 * len(files) + i))
    source = Folder(f"{tmp_path}/")
    assert isinstance(source, Source) and source.name == tmp_path.name
    assert source.class_names == ["a cat", "b dog"] and len(source) == 3
    assert [source[i]["label"] for i in range(3)] == [0, 1, 1]
    assert [source[i]["image"] for i in range(3)] == [png(20), png(31), png(30)]
    assert source[1]["captions"] == [t.format(c="b dog") for t in source.templates]
    check_source(source, [20, 31, 30])
    assert "a photo of a b dog." in source[1]["captions"]
    assert source[1]["id"] == source[2]["id"] != source[0]["id"]


def test_mistakes_in_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="data.eval='folder:.*none'.*no such file or folder"):
        Folder(str(tmp_path / "none"), field="data.eval")
    (tmp_path / "x.png").write_bytes(png(0))
    with pytest.raises(UserError, match="no sub-folders"):
        Folder(str(tmp_path))
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match=r"class folder 'cat' has no images.*\.jpg"):
        Folder(str(tmp_path))
    with pytest.raises(UserError, match="'train' has no images but folders, such as 'cat'; write folder:.*/in/train"):
        Folder(write(tmp_path / "in", "train/cat", "val/cat").rpartition("/")[0] + "/in")


def test_imagenets_ids_have_its_names(tmp_path, caplog):
    source = Folder(write(tmp_path / "val", "n04008634", "n01440764", "n03773504", "n01443537"))
    assert source.class_names == ["tench", "goldfish", "missile", "missile"]
    assert source.class_codes == ["n01440764", "n01443537", "n03773504", "n04008634"]
    assert "a photo of a tench." in source[0]["captions"] and source[0]["label"] == 0
    assert source[2]["id"] != source[3]["id"]  # two classes of one name
    assert not caplog.records


def test_other_ids_are_refused_unless_they_have_names(tmp_path):
    folder = write(tmp_path / "val", "n01440764", "n02084071", "n99999999")
    with pytest.raises(UserError) as error:
        Folder(folder, field="data.eval")
    for word in ("data.eval='folder:", "2 of 3", "'n02084071'", "ImageNet-1k", "classnames.txt"):
        assert word in str(error.value)
    (tmp_path / "val" / "classnames.txt").write_text("tench\ndog\nthing\n")
    source = Folder(folder)
    assert source.class_names == ["tench", "dog", "thing"] and source.class_codes is None


def test_folders_of_numbers_are_logged_in_training(tmp_path, caplog):
    folder = write(tmp_path / "train", "0", "1", "10")
    Folder(folder, field="data.eval")  # which may know the data set's names
    assert not caplog.records
    assert Folder(folder).class_names == ["0", "1", "10"]
    (record,) = caplog.records
    assert all(word in record.getMessage() for word in ("a photo of a 0.", "classnames.txt", "folder:"))


def test_folders_that_systems_make_are_no_classes(tmp_path, caplog):
    source = Folder(write(tmp_path / "set", "b", "__MACOSX", "a", "@eaDir", ".ipynb_checkpoints"))
    assert source.class_names == ["a", "b"] and len(source) == 2
    (record,) = caplog.records
    assert "@eaDir, __MACOSX" in record.getMessage() and "left out" in record.getMessage()


@pytest.mark.parametrize("by_file", [False, True])
def test_classes_of_one_name_are_told(tmp_path, caplog, by_file):
    folder = write(tmp_path / "set", *(["a", "b"] if by_file else ["a b", "a_b"]))
    if by_file:
        (tmp_path / "set" / "classnames.txt").write_text("a b\na b\n")
    assert Folder(folder).class_names == ["a b", "a b"]
    (record,) = caplog.records
    assert "same name ('a b')" in record.getMessage() and "classnames.txt" in record.getMessage()


@pytest.mark.parametrize("between", "_- ")
def test_ids_with_more_behind_them_are_told(tmp_path, caplog, between):
    names = [f"n01440764{between}tench", f"n01443537{between}goldfish"]
    source = Folder(write(tmp_path / "set", *names))
    assert source.class_codes is None and len(source.class_names) == 2
    (record,) = caplog.records
    assert all(word in record.getMessage() for word in (repr(names[0]), "WordNet id", "classnames.txt"))


def test_folders_of_videos_and_of_sounds(tmp_path, caplog):
    mp4, avi, wav = make_video(), make_video("mpeg4.avi"), make_sound("wav")
    for number, (folder, files) in enumerate(
        {"dog": {"a.mp4": mp4, "b.AVI": avi, "t.wav": wav}, "cat": {"c.mp4": mp4}}.items()
    ):
        for kind in ("videos", "sounds"):
            (tmp_path / kind / folder).mkdir(parents=True)
        for name, content in files.items():
            (tmp_path / "videos" / folder / name).write_bytes(content)
        (tmp_path / "sounds" / folder / f"{number}.wav").write_bytes(wav)
    source = Folder(f"{tmp_path}/videos")
    assert "1 files are no videos, as the first class has, and left out" in caplog.text
    assert [source[i]["modalities"]["video"] for i in range(3)] == [mp4, mp4, avi] and len(source) == 3
    assert source[0]["captions"][0] == "a video of cat." and source[0]["label"] == 0 and "image" not in source[0]
    source = Folder(f"{tmp_path}/sounds")
    assert source[1]["modalities"] == {"audio": wav} and source[1]["captions"][0] == "the sound of dog."
    with pytest.raises(UserError, match="class folder 'cat' has no sounds; remove it or fill it .* .wav$"):
        Folder(f"{tmp_path}/videos", options=SourceOptions(image_key="wav"))


def test_a_list_of_examples(tmp_path):
    """UCF101's split files: CLASS/NAME, a number behind it in the lists of training."""
    for name in ("cat/a.png", "cat/b.png", "dog/c.png", "yak/d.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(png(0))
    file = tmp_path / "trainlist01.txt"
    file.write_text("dog/c.png 2\r\ncat/b.png 1\r\n\r\n")
    source = Folder(f"{tmp_path}/data,list={file}")
    assert source.class_names == ["cat", "dog", "yak"] and source.name == "data"
    assert [source[i]["path"].rpartition("/")[2] for i in range(len(source))] == ["b.png", "c.png"]
    assert [source[i]["label"] for i in range(2)] == [0, 1]
    for lines, message in (
        ("cat/e.png 1\n", "data/cat/e.png is listed, and is not there"),
        ("emu/a.png 1\n", "has emu/a.png, and there is no folder"),
        ("a.png\n", "has 'a.png', which is no CLASS/NAME"),
        ("\n", "there is no list .*trainlist01.txt, or it is empty"),
    ):
        file.write_text(lines)
        with pytest.raises(UserError, match=message) as error:
            Folder(f"{tmp_path}/data,list={file}")
        assert "\n" not in str(error.value)
