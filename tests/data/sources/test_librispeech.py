"""LibriSpeech's folders: utterances with their transcripts, and what lacks its other half."""

import pickle

import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.record import record_mistake
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.sources.librispeech import LibriSpeech
from mmjax.errors import UserError
from tests.helpers.media import make_sound

FLAC = make_sound("flac")


def write(folder, name, sounds, lines):
    chapter = folder / name
    chapter.mkdir(parents=True)
    for sound in sounds:
        (chapter / f"{sound}.flac").write_bytes(FLAC)
    (chapter / f"{name.replace('/', '-')}.trans.txt").write_text("\n".join(lines))
    return chapter


def test_utterances(tmp_path, caplog):
    write(
        tmp_path,
        "84/121123",
        ["84-121123-0001", "84-121123-0000"],
        ["84-121123-0000 GO DO YOU HEAR", "84-121123-0001 "],
    )
    write(tmp_path, "7/1", ["7-1-0000", "7-1-0002"], ["7-1-0000 BUT IN LESS THAN FIVE", "7-1-0001 NOBODY"])
    source = pickle.loads(pickle.dumps(LibriSpeech(str(tmp_path))))
    assert len(source) == 3 and "2 sounds or transcripts have no other half" in caplog.text
    first = source[0]
    assert first["captions"] == ["BUT IN LESS THAN FIVE"] and first["modalities"] == {"audio": FLAC}
    assert first["path"] == f"{tmp_path}/7/1/7-1-0000.flac" and not record_mistake(first)
    assert source[1]["captions"] == ["GO DO YOU HEAR"] and source[1]["id"] != first["id"]
    with pytest.raises(BadExample, match="no_caption: .*84-121123-0001.flac: its transcript is blank"):
        source[2]
    with pytest.raises(UserError, match="2 sounds or transcripts have no other half; evaluation is on all of a set"):
        LibriSpeech(str(tmp_path), options=SourceOptions(keys_field="eval"), field="data.eval")


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="librispeech:.*nowhere': cannot be listed"):
        LibriSpeech(str(tmp_path / "nowhere"))
    write(tmp_path / "a", "1/2", ["1-2-0000"], [])
    with pytest.raises(UserError, match="no sound with a line in a .trans.txt beside it; give LibriSpeech's folder"):
        LibriSpeech(str(tmp_path / "a"))
    (tmp_path / "a" / "1/2/1-2.trans.txt").write_bytes(b"1-2-0000 \xff")
    with pytest.raises(UserError, match="1/2/1-2.trans.txt .*; set data.encoding"):
        LibriSpeech(str(tmp_path / "a"))
