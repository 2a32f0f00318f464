"""Questions about images, answered by choosing among a list of answers or in words."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mmjax.data.loading.example_transforms import AnswerPreparer, id_words
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.evaluation.embedding.batched_apply import Feeder, Row
from mmjax.evaluation.example_sampler import Shown
from mmjax.evaluation.metric_columns import QUESTIONS
from mmjax.evaluation.results import Evaluation
from mmjax.metrics import vqa_accuracy
from mmjax.metrics.vqa_answers import main_answer

_NEAREST = 3  # answers shown


class _Questions:
    """What both ways of answering have in common: questions in, VQA accuracy out."""

    def lacking(self, record: Mapping[str, Any]) -> str:
        """What a record has not that this needs."""
        return "" if record.get("question") and record.get("answers") else "question with answers"

    def __call__(self, params: Any, source: Any, examples: Iterable[Any], *, keep: bool) -> Evaluation:
        """Evaluates a source; answers given as one alone are compared as VQA v2's ten are."""
        questions: list[str] = []
        people: list[list[str]] = []
        types: list[str | None] = []

        def rows() -> Iterator[Row]:
            for example in examples:
                questions.append(example.extras["question"])
                people.append(list(example.extras["answers"]))
                types.append(example.extras.get("answer_type"))
                yield example.image, id_words(example.id), *self._encode(example.extras["question"])

        given = self._answers(params, rows())
        how = "official" if _come_normalized(source) else "both"
        chosen = [each[0][0] for each in given]
        scored = vqa_accuracy.score_answers(chosen, people, types if all(types) else None, normalize=how)
        shown = Shown(keep, "answers given")
        outcomes = zip(questions, people, given, scored.accuracies.tolist(), strict=True)
        for place, (question, own, answers, score) in enumerate(outcomes):
            marked = [(text, value, rank == 0 and score >= 0.5) for rank, (text, value) in enumerate(answers)]
            shown.add(place, [question, f"answer: {main_answer(own)}"], marked)
        return Evaluation(source.name, QUESTIONS, len(given), scored.metrics, shown.artifacts(examples))

    def _encode(self, question: str) -> Row:
        raise NotImplementedError

    def _answers(self, params: Any, rows: Iterator[Row]) -> list[list[tuple[str, float]]]:
        raise NotImplementedError


def _come_normalized(source: Any) -> bool:
    """Whether a source, or the one that it wraps, says that its answers are as VQA v2's are stored."""
    while source is not None:
        if hasattr(source, "answers_normalized"):
            return source.answers_normalized
        source = getattr(source, "source", None)
    return False


class AnswerEvaluation(_Questions):
    """Chooses among the answers that the model was trained with.

    Args:
      task: gives `answer`, and `answers`, the list.
      feeder: runs it on the mesh.
      tokenizer: of the questions.
    """

    def __init__(self, task: Any, feeder: Feeder, tokenizer: Tokenizer):
        self.task, self.feeder, self.tokenizer = task, feeder, tokenizer

        def run(params, image, ids, text, mask):
            del ids
            return jax.lax.top_k(task.answer(params, image, text, mask), min(_NEAREST, task.config.model.answers))

        self.run = feeder.compiled(run)

    def _encode(self, question: str) -> Row:
        ids, mask = self.tokenizer([question])
        return ids[0], mask[0]

    def _answers(self, params: Any, rows: Iterator[Row]) -> list[list[tuple[str, float]]]:
        scores, places = self.feeder.run(self.run, params, rows)
        names = self.task.answers
        chances = 1 / (1 + np.exp(-scores.astype(np.float64)))
        return [
            [(names[place], float(chance)) for place, chance in zip(row, own, strict=True)]
            for row, own in zip(places.tolist(), chances, strict=True)
        ]


class WrittenAnswers(_Questions):
    """Writes the answer after the question.

    Args:
      task: gives `write`.
      feeder: runs it on the mesh.
      tokenizer: of questions and answers.
    """

    def __init__(self, task: Any, feeder: Feeder, tokenizer: Tokenizer):
        self.task, self.feeder, self.tokenizer = task, feeder, tokenizer
        self.preparer = AnswerPreparer(task.image_spec, tokenizer)
        decoding = task.decoding(tokenizer)

        def run(params, image, ids, text, mask):
            written = task.generate(params, image, text, mask, decoding, ids=ids)
            return written.tokens, written.scores

        self.run = feeder.compiled(run)

    def _encode(self, question: str) -> Row:
        return self.preparer.prompt(question)

    def _answers(self, params: Any, rows: Iterator[Row]) -> list[list[tuple[str, float]]]:
        tokens, scores = self.feeder.run(self.run, params, rows)
        self.tokens = tokens
        return [
            [(self.tokenizer.decode(row.tolist()), score)] for row, score in zip(tokens, scores.tolist(), strict=True)
        ]

    def written(self, place: int, example: Any) -> tuple[np.ndarray, int]:
        """What the last call wrote about an example: ids with the prompt in front, and the prompt's length."""
        ids, mask = self._encode(example.extras["question"])
        return np.concatenate([ids[mask], self.tokens[place]]), int(mask.sum())
