"""Transcripts that a model writes of sounds, against what was said: word and character error rates."""

from mmjax.errors import UserError
from mmjax.evaluation.evaluation_task import EvaluatedModel, EvaluatedSource, EvaluationTask, Outcome
from mmjax.evaluation.evaluators.captioning import CaptionWriter, prompts_of
from mmjax.evaluation.example_sampler import ExampleSampler
from mmjax.evaluation.results import missing_pair_fields
from mmjax.metrics.word_errors import score_transcripts


class SpeechRecognitionEvaluator(CaptionWriter):
    """Transcribes every sound and scores the transcripts, see `word_errors.score_transcripts`.

    The first caption is what was said. A sound that is longer than the model's window is heard from its beginning to
    the window's end, and what is said after that counts as deleted.

    Args:
      model: its task writes, and its settings have the normalization.
    """

    def __init__(self, model: EvaluatedModel):
        super().__init__(model.task, model.runner, model.text_tokenizer, prompts_of(model.task))
        self.normalization = model.settings.speech_recognition.normalization

    def __call__(self, data: EvaluatedSource) -> Outcome:
        """Evaluates a source."""
        written = self.write(data, keep=lambda example: example.captions[0])
        try:
            scored = score_transcripts(written.kept, written.texts, self.normalization)
        except ValueError as error:
            raise UserError(f"data.eval: {data.source.name!r}: {error}; give sounds with transcripts") from error
        sampler = ExampleSampler(data.keep, "transcripts written, word by word beside what was said")
        outcomes = zip(written.kept, written.texts, written.scores, scored.alignments, strict=True)
        for index, (spoken, text, score, alignment) in enumerate(outcomes):
            right = all(reference == word for reference, word in alignment)
            sampler.add(index, [spoken], [(text, score, right)], alignment)
        metrics = scored.metrics | {"perplexity": written.perplexity}
        return Outcome(metrics, len(written.texts), sampler.artifacts(data.examples))


SPEECH_RECOGNITION = EvaluationTask(
    title="speech recognition",
    evaluator=SpeechRecognitionEvaluator,
    unit="sounds",
    needs=("transcribe",),
    sees=("audio",),
    missing_fields=missing_pair_fields,
    reads_of_run=("decoding",),
)
