import json

import fsspec
import pytest

from mmjax.data.source_protocols import SourceOptions
from mmjax.data.sources.files import Files
from mmjax.data.sources.folder import Folder
from mmjax.errors import UserError
from tests.helpers.media import make_sound, make_video
from tests.helpers.source_checks import check_source, png, reasons


def write(folder, number: int, *, image: str = "png", **members: str) -> None:
    """An example as img2dataset's layout `files` has it."""
    folder.mkdir(exist_ok=True, parents=True)
    if image:
        (folder / f"{number:09d}.{image}").write_bytes(png(number))
    for ending, text in members.items():
        (folder / f"{number:09d}.{ending}").write_text(text, encoding="utf-8")


@pytest.fixture
def downloads(tmp_path):
    root = tmp_path / "cc3m"
    for i in range(5):
        write(root / f"{i // 3:05d}", i, txt=f" caption {i}\n", json=json.dumps({"caption": f"alt {i}"}))
    (root / "00000_stats.json").write_text("{}")
    (root / "00000.parquet").write_bytes(b"")
    return root


def test_captions_are_those_beside_the_images(downloads):
    source = Files(f"{downloads}/")
    assert source.name == "cc3m" and source.class_names is None
    assert [source[i]["captions"] for i in range(5)] == [[f"caption {i}"] for i in range(5)]
    assert source[3]["path"] == f"{downloads}/00001/000000003.png"
    assert len({source[i]["id"] for i in range(5)}) == 5
    check_source(source, list(range(5)))
    mixed = Files(str(downloads), options=SourceOptions(caption_keys="json:caption@3+txt@1", image_key="png"))
    assert mixed[4]["captions"] == ["alt 4", "caption 4"] and mixed[4]["caption_weights"] == [3, 1]


def test_one_folder_with_endings_in_any_case(tmp_path, caplog):
    write(tmp_path, 1, image="PNG", TXT="one")
    write(tmp_path, 2, txt=" ")
    write(tmp_path, 3)
    write(tmp_path, 4, image="", txt="alone")
    write(tmp_path, 5, caption="five")
    source = Files(str(tmp_path))
    assert reasons(source) == ["ok", "no_caption", "no_caption", "ok"]
    assert [source[0]["captions"], source[3]["captions"]] == [["one"], ["five"]]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and "1 texts have no image" in messages[0] and "1 of 4 examples lack" in messages[1]
    with pytest.raises(UserError, match="^data.eval='files:.*1 of 4 examples lack"):
        Files(str(tmp_path), options=SourceOptions(keys_field="eval"), field="data.eval")


def test_a_folder_on_another_file_system(downloads):
    fs = fsspec.filesystem("memory")
    fs.put(str(downloads), "/files-test", recursive=True)
    try:
        check_source(Files("memory://files-test"), list(range(5)))
    finally:
        fs.rm("/files-test", recursive=True)


def test_mistakes_are_named(downloads, tmp_path):
    def error(*args, **options):
        with pytest.raises(UserError) as raised:
            Files(*args, field="data.eval", options=SourceOptions(**options))
        return str(raised.value)

    message = error(f"{tmp_path}/none")
    assert message.startswith(f"data.eval='files:{tmp_path}/none'") and "no such file or folder" in message
    assert "no images" in error(str(downloads), image_key="webp")
    assert "none has 'text'" in error(str(downloads), caption_keys="text+txt")
    message = error(str(downloads), caption_keys="json:title")
    assert "json:title" in message and "json:caption" in message
    for i in range(2):
        write(tmp_path / "classes" / f"class{i}", i)
    message = error(f"{tmp_path}/classes")
    assert "2 images" in message and f"folder:{tmp_path}/classes" in message


def test_folder_names_the_source_that_reads_captions(downloads, tmp_path, caplog):
    with pytest.raises(UserError, match=f"folder:.*3 of 3 images in '00000' .*write files:{downloads}"):
        Folder(str(downloads))
    with pytest.raises(UserError, match=f"no sub-folders.*write files:{downloads}/00000"):
        Folder(f"{downloads}/00000")
    write(tmp_path / "classes" / "cat", 0, txt="0 0.5 0.5 1 1")  # boxes
    assert len(Folder(f"{tmp_path}/classes")) == 1
    assert "files:" in caplog.records[-1].getMessage()
    write(tmp_path / "table", 0)
    (tmp_path / "table" / "metadata.csv").write_text("file_name,text\n000000000.png,x\n")
    with pytest.raises(UserError, match=f"write pairs:{tmp_path}/table/metadata.csv"):
        Folder(f"{tmp_path}/table")


def test_videos_and_sounds_with_captions_beside_them(tmp_path):
    mp4, flac = make_video(), make_sound("flac")
    for name, content in (("1.mp4", mp4), ("1.txt", b"a video"), ("2.flac", flac), ("2.txt", b"a sound")):
        (tmp_path / name).write_bytes(content)
    source = Files(str(tmp_path))
    assert source[0]["modalities"] == {"video": mp4, "audio": mp4} and source[0]["captions"] == ["a video"]
    assert source[1]["modalities"] == {"audio": flac} and source[1]["path"] == f"{tmp_path}/2.flac"
