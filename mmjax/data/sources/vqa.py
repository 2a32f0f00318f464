"""Questions about images, videos or sounds with people's answers: VQA v2's own layout, JSON Lines, or a JSON array.

`vqa:v2_OpenEnded_mscoco_train2014_questions.json` reads the questions; the answers are in
`v2_mscoco_train2014_annotations.json` beside it, or where `,annotations=FILE` says; the images
`COCO_train2014_000000000009.jpg` beside it, in `images`, in `train2014` there or a folder above, or where `,images=DIR`
says. `vqa:FILE.jsonl` has one object a line: `image` (or `video`, or `audio`), `question`, and `answers` or `answer`; a
JSON array has the same objects, such as MSRVTT-QA's, whose videos `,images=msrvtt/videos/video{video_id}.mp4` names.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mmjax.data.formats.input_files import inputs_of_file, read_input, record_fields, suffix_of
from mmjax.data.formats.json_fields import field_of, number_field, shorten, text_field
from mmjax.data.formats.table_file import Table
from mmjax.data.formats.table_inputs import PathPattern
from mmjax.data.record import Record, check_index, stable_id, texts_of
from mmjax.data.source_protocols import DEFAULT_OPTIONS, SourceOptions
from mmjax.data.sources.karpathy import locate_images, read_json
from mmjax.errors import UserError, did_you_mean
from mmjax.io.reader import Reader
from mmjax.metrics.vqa_answers import HUMANS, answer_type, common_answers, main_answer
from mmjax.utils.string_array import StringArray

_OPTION = re.compile(r",(images|annotations)=")
_SEPARATOR = "\0"  # answers of one question
_USAGE = "write vqa:FILE.json[,annotations=FILE][,images=DIR] or vqa:FILE.jsonl[,images=DIR]"
_FILE_COLUMNS = ("image", "video", "audio")


class _Entry(NamedTuple):
    image: str
    question: str
    answers: list[str]
    answer_type: str
    question_type: str
    question_id: int


class Vqa:
    """Images, videos or sounds, each with a question and what people answered; files are read on demand.

    Records have `question`, `answers` with repetitions (one that stands alone counts as ten people's), `answer_type`,
    `question_type` where the file says it, `question_id` (in JSON Lines the line's number where it says none) and the
    image's path as `id`. There are no captions.

    Args:
      path: see the module.
      options: how to read it.
      field: config field to name in errors.

    Attributes:
      answer_names: the 3,129 answers that most questions have as their most frequent one, sorted; or fewer.
      answers_normalized: whether the answers come as VQA v2's own, ten a question and mostly normalised already, and
        so are scored as the challenge does.

    Raises:
      UserError: on a file that is missing or is not of this form, a question without an answer, or images that are not
        there.
    """

    class_names = None
    templates = None

    def __init__(self, path: str, *, options: SourceOptions = DEFAULT_OPTIONS, field: str = "data.train"):
        where = f"{field}='vqa:{path}'"
        file, *rest = _OPTION.split(path)
        files = dict(zip(rest[::2], rest[1::2], strict=True))
        if not file.endswith((".json", ".jsonl")) or not all(files.values()) or len(files) < len(rest) // 2:
            raise UserError(f"{where}: cannot be read; {_USAGE}")
        self._reader = Reader(options.retry_seconds)
        folder = file[: file.rfind("/") + 1]
        content = None if file.endswith(".jsonl") else read_json(self._reader, file, where)
        self.answers_normalized = isinstance(content, dict)
        if not isinstance(content, dict):
            if "annotations" in files:
                raise UserError(f"{where}: JSON Lines have their answers beside the questions; {_USAGE}")
            self.name = posixpath.basename(file).removesuffix(".jsonl").removesuffix(".json")
            pattern = PathPattern.parse(files.get("images", ""))
            table = Table(file, reader=self._reader, where=where, options=options)
            entries = list(_lines(table, pattern, where))
            names, subtype, near = [[entry.image for entry in entries]], "", ["", "images"]
            if pattern is not None:
                files["images"] = pattern.folder or "."
        else:
            base = posixpath.basename(file).removesuffix(".json").removesuffix("_questions").replace("OpenEnded_", "")
            self.name = base
            answers = files.get("annotations", f"{folder}{base}_annotations.json")
            subtype, entries = _official(self._reader, content, file, answers, where)
            # As the images of 2014 are named, and those of 2017.
            names = [[f"COCO_{subtype}_{entry.image}.jpg" for entry in entries], [f"{e.image}.jpg" for e in entries]]
            near = ["", "images", subtype, f"images/{subtype}", f"../{subtype}", "../images"]
        roots = [posixpath.join(folder, name) for name in near]
        if "images" in files:
            roots = [files["images"], posixpath.join(files["images"], subtype)]
        paths = _locate(self._reader, names, roots, where, is_named="images" in files)
        # Several questions are about one image; a million of them are kept in a few arrays.
        self._files, self._file = np.unique(paths, return_inverse=True)
        self._questions = StringArray(entry.question for entry in entries)
        self._answers = StringArray(_SEPARATOR.join(entry.answers) for entry in entries)
        self._types = [(entry.answer_type, entry.question_type) for entry in entries]
        self._ids = np.array([entry.question_id for entry in entries], np.int64)
        self.answer_names = common_answers(main_answer(entry.answers) for entry in entries)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Record:
        index = check_index(index, len(self))
        path = str(self._files[self._file[index]])
        answer_kind, question_kind = self._types[index]
        inputs = inputs_of_file(read_input(self._reader, path), suffix_of(path))
        record = Record(
            **record_fields(inputs),
            id=stable_id("image", path),
            path=path,
            question=self._questions[index],
            answers=self._answers[index].split(_SEPARATOR),
            answer_type=answer_kind,
            question_id=int(self._ids[index]),
        )
        return {**record, "question_type": question_kind} if question_kind else record


def _official(
    reader: Reader, content: dict[str, Any], file: str, annotations: str, where: str
) -> tuple[str, list[_Entry]]:
    """VQA v2's questions with their answers, and what their images' names begin with, such as "train2014"."""
    questions = _list(content, "questions", file, where)
    answered: dict[int, tuple[list[str], Any, Any]] = {}  # answers, their type, the question's type
    annotation_list = _list(read_json(reader, annotations, where), "annotations", annotations, where)
    for number, entry in enumerate(annotation_list):
        what, needs = f"{where}: annotation {number} of {annotations}", "question_id and answers with 'answer'"
        question_id = number_field(entry, "question_id", what, needs)
        listed = field_of(entry, "answers", what, needs)
        if not isinstance(listed, list):
            raise UserError(f"{what} has answers={shorten(listed)}, which is no list; each needs {needs}")
        answers = [_answer(answer, f"{what}: answer {position}") for position, answer in enumerate(listed)]
        answered[question_id] = answers, entry.get("answer_type"), entry.get("question_type", "")
    entries = []
    for position, question in enumerate(questions):
        what, needs = f"{where}: question {position} of {file}", "image_id, question and question_id"
        image, number = (number_field(question, name, what, needs) for name in ("image_id", "question_id"))
        text = text_field(question, "question", what, needs, may_be_blank=True)
        if number not in answered:
            raise UserError(
                f"{where}: question {number} has no answers in {annotations}; give the annotations of the same split"
            )
        name = f"question {number}"
        entries.append(_entry(f"{image:012d}", text, *answered[number], number, name, where))
    return str(content.get("data_subtype", "train2014")), entries


def _answer(entry: Any, what: str) -> str:
    """What one person answered; a number is an answer, too, and so are blanks."""
    value = field_of(entry, "answer", what, "'answer', a text")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text_field(entry, "answer", what, "'answer', a text", may_be_blank=True)


def _lines(table: Table, pattern: PathPattern | None, where: str) -> Iterator[_Entry]:
    named = [name for name in ("answers", "answer") if name in table.columns] or ["answers"]
    file_column = next((name for name in _FILE_COLUMNS if name in table.columns), "image")
    paths = [file_column] if pattern is None else pattern.columns
    if pattern is not None:
        pattern.check(table.columns, where)
    for name in (*([file_column] if pattern is None else []), "question", named[0]):
        if name not in table.columns:
            near = did_you_mean(name, table.columns)
            raise UserError(f"{where}: no line has {name!r}{near}; each needs image, question and answers")
    more = ["answer_type", "question_type", "question_id"]
    for line, question, kind, question_kind, number, *cells in table.rows(["question", *more, *paths, *named]):
        parts, cells = cells[: len(paths)], cells[len(paths) :]
        image = parts[0] if pattern is None else pattern.fill(parts)
        if not isinstance(image, str) or not image.strip():
            raise UserError(f"{where}: line {line} names no image; each needs image, question and answers")
        if not isinstance(question, str):
            raise UserError(f"{where}: line {line} has no question; each needs image, question and answers")
        if number is not None and not isinstance(number, int):
            raise UserError(f"{where}: line {line}: question_id {number!r} is no integer; correct it or leave it out")
        cell = next((cell for cell in cells if cell is not None), None)
        # A number is an answer, too.
        answers = texts_of([str(item) if isinstance(item, int | float) else item for item in _listed(cell)])
        number = line if number is None else number
        yield _entry(image.strip(), question, answers, kind, question_kind, number, f"line {line}", where)


def _entry(
    image: str, question: str, answers: list[str], kind: Any, question_kind: Any, number: int, name: str, where: str
) -> _Entry:
    # A blank answer is one of ten people's all the same: without it three others would be three of nine.
    if not question.strip() or not any(answer.strip() for answer in answers):
        missing = "question" if not question.strip() else "answer"
        raise UserError(f"{where}: {name} has a blank {missing}, or none; remove it or correct the file")
    answers = answers * HUMANS if len(answers) == 1 else answers
    kind = kind if isinstance(kind, str) and kind else answer_type(answers)
    return _Entry(image, question, answers, kind, question_kind if isinstance(question_kind, str) else "", number)


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]


def _list(content: Any, key: str, file: str, where: str) -> list[Any]:
    items = content.get(key) if isinstance(content, dict) else None
    if not isinstance(items, list) or not items:
        raise UserError(f"{where}: {file} has no list {key!r}; give VQA v2's file of {key}")
    return items


def _locate(reader: Reader, candidates: list[list[str]], roots: list[str], where: str, *, is_named: bool) -> list[str]:
    """Full paths of the images, by the first of the ways to name them that gives one that is there."""
    errors: list[UserError] = []
    for names in candidates:
        try:
            return locate_images(reader, names, roots, where, is_named=is_named)
        except UserError as error:
            errors.append(error)
    raise errors[0]
