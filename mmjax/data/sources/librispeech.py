"""LibriSpeech's folders of utterances with their transcripts (`librispeech:`)."""

import logging
import posixpath
from typing import Any

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.input_files import inputs_of_file, read_input, record_fields, suffix_of
from mmjax.data.record import Record, check_index, stable_id
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.data.text.text_encoding import decode_text
from mmjax.errors import UserError
from mmjax.io.listing import list_folder
from mmjax.io.patterns import error_reason
from mmjax.io.reader import Reader
from mmjax.utils.string_array import StringArray, StringArrayBuilder

_TRANSCRIPTS = ".trans.txt"
_DEEPEST = 4  # folders in folders: SPLIT/SPEAKER/CHAPTER, of one split or of several

log = logging.getLogger("mmjax.data")


class LibriSpeech:
    """Utterances of a folder and of those in it, by the lines "NAME TEXT" of the `.trans.txt` beside them.

    `84/121123/84-121123.trans.txt` has the transcripts of `84-121123-0000.flac` and others. Folders, files and lines
    are in alphabetical order. `task` and `language` of the records are `transcribe` and `en`. Sounds without a
    transcript, and lines without a sound, are left out and logged.

    Args:
      path: a split's folder or one of several, local or an fsspec URL.
      options: `encoding` and `retry_seconds`.
      field: config field to name in errors.

    Raises:
      UserError: on a folder that is missing or has no transcripts, a text that is not in its encoding; in evaluation,
        on sounds and lines that have no other half, too.
    """

    class_names = None
    templates = None

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        self._where, self._reader = f"{field}='librispeech:{path}'", Reader(options.retry_seconds)
        self._path = path.rstrip("/") or "/"
        self.name = posixpath.basename(self._path)
        files, texts = StringArrayBuilder(), StringArrayBuilder()
        self._lacking = 0
        try:
            self._add(self._path, "", files, texts, options.encoding)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"{self._where}: cannot be listed ({error_reason(error)}); give LibriSpeech's folder of a split"
            ) from error
        self._files, self._texts = StringArray.of(files), StringArray.of(texts)
        if not len(self):
            raise UserError(
                f"{self._where}: no sound with a line in a {_TRANSCRIPTS} beside it; give LibriSpeech's folder of a"
                " split, such as LibriSpeech/train-clean-100"
            )
        if self._lacking and options.keys_field == "eval":
            raise UserError(
                f"{self._where}: {self._lacking:,} sounds or transcripts have no other half; evaluation is on all of a"
                " set: complete or remove them"
            )
        if self._lacking:
            log.warning("%s: %s sounds or transcripts have no other half, and are left out", self._where, self._lacking)

    def _add(self, path: str, inside: str, files, texts, encoding: str) -> None:
        """Adds the utterances of a folder and of those in it."""
        folders, names = list_folder(path)
        sounds = {name.rpartition(".")[0]: name for name in names if name.endswith((".flac", ".wav", ".mp3", ".ogg"))}
        lines: dict[str, str] = {}
        for name in filter(lambda name: name.endswith(_TRANSCRIPTS), names):
            try:
                content = decode_text(self._reader.read(f"{path}/{name}"), encoding)
            except BadExample as error:
                raise UserError(f"{self._where}: {inside}{name} {error.detail}; set data.encoding") from error
            for line in filter(None, map(str.strip, content.splitlines())):
                utterance, _, text = line.partition(" ")
                lines[utterance] = text.strip()
        shared = sorted(sounds.keys() & lines.keys())
        self._lacking += len(sounds.keys() ^ lines.keys()) if lines else 0
        files.extend(inside + sounds[utterance] for utterance in shared)
        texts.extend(lines[utterance] for utterance in shared)
        if inside.count("/") < _DEEPEST:
            for folder in folders:
                self._add(f"{path}/{folder}", f"{inside}{folder}/", files, texts, encoding)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        path, text = f"{self._path}/{self._files[index]}", self._texts[index]
        if not text:
            raise BadExample("no_caption", f"{path}: its transcript is blank")
        inputs = inputs_of_file(read_input(self._reader, path), suffix_of(path))
        spoken: dict[str, Any] = dict(captions=[text], task="transcribe", language="en")
        return Record(**record_fields(inputs), **spoken, id=stable_id("image", path), path=path)
