"""Questions about images, videos or sounds, answered by choosing among a list of answers or by generating text."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from mmjax.data.loading.example_transforms import id_words
from mmjax.data.loading.question_transforms import AnswerTransform
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.evaluation.embedding.batched_apply import BatchRunner, Row
from mmjax.evaluation.evaluation_task import EvaluatedModel, EvaluatedSource, EvaluationTask, Evaluator, Outcome
from mmjax.evaluation.example_sampler import ExampleSampler
from mmjax.metrics import vqa_accuracy
from mmjax.metrics.vqa_answers import main_answer

_TOP_ANSWERS = 3  # shown of each question


class _VqaEvaluator:
    """VQA accuracy, however answers are made."""

    def __call__(self, data: EvaluatedSource) -> Outcome:
        """Evaluates a source.

        Answers of a source with one a question are compared as VQA v2's ten are.
        """
        fields = lambda extras: (extras["question"], list(extras["answers"]), extras.get("answer_type"))
        stream = data.stream(keep=lambda example: fields(example.extras))
        predictions = self._answers(data.params, map(self._row, stream))
        questions, answers, types = map(list, zip(*stream.kept, strict=True))
        normalize = "official" if _has_normalized_answers(data.source) else "both"
        best = [ranked[0][0] for ranked in predictions]
        scored = vqa_accuracy.score_answers(best, answers, types if all(types) else None, normalize=normalize)
        sampler = ExampleSampler(data.keep, "answers given")
        outcomes = zip(questions, answers, predictions, scored.accuracies.tolist(), strict=True)
        for index, (question, people, ranked, score) in enumerate(outcomes):
            marked = [(text, value, rank == 0 and score >= 0.5) for rank, (text, value) in enumerate(ranked)]
            sampler.add(index, [question, f"answer: {main_answer(people)}"], marked)
        return Outcome(scored.metrics, len(predictions), sampler.artifacts(data.examples))

    def _row(self, example: Any) -> Row:
        return example.seen, id_words(example.id), *self._encode(example.extras["question"])

    def _encode(self, question: str) -> Row:
        """Token ids of a question and their mask."""
        raise NotImplementedError

    def _answers(self, params: Any, rows: Iterator[Row]) -> list[list[tuple[str, float]]]:
        """For each question answers with their scores, best first."""
        raise NotImplementedError


def _has_normalized_answers(source: Any) -> bool:
    """Whether a source, or the one that it wraps, has answers as VQA v2 stores them."""
    while source is not None:
        if hasattr(source, "answers_normalized"):
            return source.answers_normalized
        source = getattr(source, "source", None)
    return False


class AnswerClassificationEvaluator(_VqaEvaluator):
    """VQA accuracy of choosing among the answers that the model was trained with.

    Args:
      task: gives `answer`, and `answers`, the list.
      runner: runs it on the mesh.
      tokenizer: of the questions.
    """

    def __init__(self, task: Any, runner: BatchRunner, tokenizer: Tokenizer):
        self.task, self.runner, self.tokenizer = task, runner, tokenizer

        def run(params, image, ids, text, mask):
            del ids
            return jax.lax.top_k(task.answer(params, image, text, mask), min(_TOP_ANSWERS, task.config.model.answers))

        self.run = runner.compile(run)

    def _encode(self, question: str) -> Row:
        ids, mask = self.tokenizer([question])
        return ids[0], mask[0]

    def _answers(self, params: Any, rows: Iterator[Row]) -> list[list[tuple[str, float]]]:
        scores, indices = self.runner.run(self.run, params, rows)
        names = self.task.answers
        probabilities = 1 / (1 + np.exp(-scores.astype(np.float64)))
        return [
            [(names[i], float(probability)) for i, probability in zip(best, values, strict=True)]
            for best, values in zip(indices.tolist(), probabilities, strict=True)
        ]


class AnswerGenerationEvaluator(_VqaEvaluator):
    """VQA accuracy of generating the answer after the question.

    Args:
      task: gives `generate`.
      runner: runs it on the mesh.
      tokenizer: of questions and answers.
    """

    def __init__(self, task: Any, runner: BatchRunner, tokenizer: Tokenizer):
        self.task, self.runner, self.tokenizer = task, runner, tokenizer
        self.example_transform = AnswerTransform(task.input_specs, tokenizer, task.config.data.question_template)
        decoding = task.decoding(tokenizer)

        def run(params, image, ids, text, mask):
            generated = task.generate(params, image, text, mask, decoding, ids=ids)
            return generated.tokens, generated.scores

        self.run = runner.compile(run)

    def _encode(self, question: str) -> Row:
        return self.example_transform.prompt(question)

    def _answers(self, params: Any, rows: Iterator[Row]) -> list[list[tuple[str, float]]]:
        tokens, scores = self.runner.run(self.run, params, rows)
        self.tokens = tokens
        return [
            [(self.tokenizer.decode(row.tolist()), score)] for row, score in zip(tokens, scores.tolist(), strict=True)
        ]

    def generated_text(self, index: int, example: Any) -> tuple[np.ndarray, int]:
        """Ids that the last call generated for an example with the prompt in front, and the prompt's length."""
        ids, mask = self._encode(example.extras["question"])
        return np.concatenate([ids[mask], self.tokens[index]]), int(mask.sum())


def _make_evaluator(model: EvaluatedModel) -> Evaluator:
    """Choosing among a list of answers where the model was trained for that; else writing them."""
    chooses = "answers" in model.task.taught
    make = AnswerClassificationEvaluator if chooses else AnswerGenerationEvaluator
    return make(model.task, model.runner, model.text_tokenizer)


def _missing_fields(record: Mapping[str, Any]) -> str:
    return "" if record.get("question") and record.get("answers") else "question with answers"


def _question_answering(title: str, *sees: str) -> EvaluationTask:
    """The evaluation of answers to questions about what a model sees."""
    return EvaluationTask(
        title=title,
        evaluator=_make_evaluator,
        unit="questions",
        needs=("answer",),
        sees=sees,
        missing_fields=_missing_fields,
        reads_of_run=("decoding",),
        by_default="always",
        has_plain_metrics=True,
    )


VISUAL_QUESTION_ANSWERING = _question_answering("questions about images", "image", "series", "table")
VIDEO_QUESTION_ANSWERING = _question_answering("questions about videos", "video")
AUDIO_QUESTION_ANSWERING = _question_answering("questions about sounds", "audio")
