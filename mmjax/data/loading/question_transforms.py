"""Transforms of questions about images: with the scores of a list of answers, or with one answer as a text."""

import bisect
import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Int32

from mmjax.data.bad_example import BadExample
from mmjax.data.loading.example_transforms import Arrays, TextTransform, add_path_to_errors, id_words
from mmjax.data.record import Record
from mmjax.errors import UserError
from mmjax.metrics.vqa_answers import answer_index, soft_scores

QUESTION = "{question}"  # in a template


@dataclasses.dataclass(frozen=True)
class QuestionTransform(TextTransform):
    """An image and a question whose answer is one of a list: VQA as classification.

    Gives `image` uint8 [H,W,3], `text` int32 [L] and `text_mask` bool [L] of the question, `answer` float32 [A], the
    soft score of each answer (all 0 where people gave others), and `id` uint32 [2].

    Attributes:
      inputs: size and crop of the images, and how other modalities are prepared.
      tokenizer: for the questions; None as `PairTransform` has it.
      answers: the list.
    """

    answers: tuple[str, ...]

    def __call__(self, record: Record, rng: np.random.Generator) -> Arrays:
        with add_path_to_errors(record):
            question, answers = _question_and_answers(record)
            image = self.input_arrays(record, rng)
        scores = soft_scores(answers, self._answer_indices)
        return {**image, **self.tokenize(question), "answer": scores, "id": id_words(record["id"])}

    def text_arrays(self, record: Record, rng: np.random.Generator) -> Arrays:
        """As `PairTransform` has it."""
        del rng
        with add_path_to_errors(record):
            question, _ = _question_and_answers(record)
        return self.tokenize(question)

    @functools.cached_property
    def _answer_indices(self) -> dict[str, int]:
        return answer_index(self.answers)


@dataclasses.dataclass(frozen=True)
class AnswerTransform(TextTransform):
    """An image, a question and one of its answers as one text: VQA as generation.

    Gives `image` uint8 [H,W,3], `id` uint32 [2], and

    - `text` int32 [L]: bos question sep answer eos, padded; without bos or sep where the tokenizer has none;
    - `text_mask` bool [L]: all but the padding;
    - `target_mask` bool [L]: the answer's ids and eos, which are to be predicted.

    The answer is drawn among those given, so more frequent ones come more often. A question that leaves no room for the
    answer is cut at its end.

    Attributes:
      inputs: size and crop of the images, and how other modalities are prepared.
      tokenizer: for questions and answers; None as `PairTransform` has it.
      template: what a question is put in, in the place of `{question}`.

    Raises:
      UserError: the template has no such place, or several.
    """

    template: str = QUESTION

    def __post_init__(self):
        if (count := self.template.count(QUESTION)) != 1:
            raise UserError(
                f"data.question_template={self.template!r} has {QUESTION} {count} times; write it once, where the"
                " question stands"
            )

    def __call__(self, record: Record, rng: np.random.Generator) -> Arrays:
        with add_path_to_errors(record):
            question, answer = _draw_answer(record, rng.random())
            image = self.input_arrays(record, rng)
        text, mask, targets = self._row(question, answer)
        return {
            **image,
            "text": text,
            "text_mask": mask,
            "target_mask": targets,
            "id": id_words(record["id"]),
        }

    def text_arrays(self, record: Record, rng: np.random.Generator) -> Arrays:
        """As `PairTransform` has it."""
        with add_path_to_errors(record):
            question, answer = _draw_answer(record, rng.random())
        text, mask, _ = self._row(question, answer)
        return {"text": text, "text_mask": mask}

    def prompt(self, question: str) -> tuple[Int32[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
        """The prompt of an answer: ids of bos question sep, padded, and a mask that is False on padding."""
        ids, mask, _ = self._row(question, None)
        return ids, mask

    def fits(self, question: str) -> bool:
        """Whether all of a question stands in its prompt."""
        tokenizer = self.require_tokenizer()
        length = tokenizer.context_length
        room = length - 1 - (tokenizer.bos_id is not None) - (tokenizer.sep_id is not None)
        count = len(tokenizer.words(self.template.replace(QUESTION, question)))
        return count <= room and count < length - 2  # a tokenizer cuts what is longer to this

    def _row(
        self, question: str, answer: str | None
    ) -> tuple[Int32[np.ndarray, " L"], Bool[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
        tokenizer = self.require_tokenizer()
        length = tokenizer.context_length
        bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        sep = [] if tokenizer.sep_id is None else [tokenizer.sep_id]
        end: list[int] = []
        if answer is not None:
            end = [*tokenizer.words(answer)[: length - len(bos) - len(sep) - 1], tokenizer.eos_id]
        room = length - len(bos) - len(sep) - max(len(end), 1)  # a prompt leaves room for an answer, too
        row = [*bos, *self._question_words(question, room), *sep, *end]
        ids = np.full(length, tokenizer.pad_id, np.int32)
        ids[: len(row)] = row
        positions = np.arange(length)
        return ids, positions < len(row), (positions >= len(row) - len(end)) & (positions < len(row))

    def _question_words(self, question: str, room: int) -> list[int]:
        """Ids of the question in its template, at most `room`."""
        words = self.require_tokenizer().words
        if self.template == QUESTION:
            return words(question)[:room]
        # What stands behind the question stays, so that is cut before its ids are made.
        make, parts = lambda text: words(self.template.replace(QUESTION, text)), question.split(" ")
        fits = lambda count: len(make(" ".join(parts[:count]))) <= room
        count = bisect.bisect(range(len(parts)), False, key=lambda count: not fits(count + 1))
        return make(" ".join(parts[:count]))[:room]


def _draw_answer(record: Record, draw: float) -> tuple[str, str]:
    """A record's question and the answer that a draw from [0, 1) stands for."""
    question, answers = _question_and_answers(record)
    return question, answers[min(int(draw * len(answers)), len(answers) - 1)]


def _question_and_answers(record: Record) -> tuple[str, list[str]]:
    """A record's question and the answers to it that are not blank."""
    question = record.get("question", "")
    answers = [answer for answer in record.get("answers", ()) if answer.strip()]
    if not question.strip() or not answers:
        raise BadExample("no_caption", "no question" if not question.strip() else "no answer that is not blank")
    return question, answers
