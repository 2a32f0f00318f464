"""Captions that a model generates of images, videos or sounds, against those that people wrote."""

from typing import Any

import numpy as np

from mmjax.data.loading.example_transforms import id_words
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.evaluation.embedding.batched_apply import BatchRunner, Row
from mmjax.evaluation.evaluation_task import EvaluatedSource, EvaluationTask, Outcome
from mmjax.evaluation.example_sampler import ExampleSampler
from mmjax.evaluation.results import missing_pair_fields
from mmjax.metrics import caption_metrics
from mmjax.metrics import meteor as meteor_lib
from mmjax.metrics.classification import perplexity
from mmjax.parallel import process_agreement


class CaptioningEvaluator:
    """Generates a caption of every image, or of what a model sees in its place, and scores it.

    Gives BLEU, ROUGE-L, CIDEr-D and the share of captions that are exactly one of the references (`references` of the
    record, where it has them: all wordings that are right; else its captions), and the perplexity of the first caption.

    Args:
      task: gives `generate` and `caption_loss`.
      runner: runs it on the mesh.
      tokenizer: of the captions.
      meteor: also METEOR, see `meteor.meteor`; the first process runs its program.

    Raises:
      UserError: METEOR is wanted and cannot be run here.
    """

    def __init__(self, task: Any, runner: BatchRunner, tokenizer: Tokenizer, *, meteor: bool = False):
        self.task, self.runner, self.tokenizer, self.meteor = task, runner, tokenizer, meteor
        if meteor:
            process_agreement.run_on_process_0(meteor_lib.check_available)
        decoding = task.decoding(tokenizer)

        def run(params, image, ids, text, mask):
            generated = task.generate(params, image, text[:, :1], mask[:, :1], decoding, ids=ids)
            loss = task.caption_loss(params, {task.seen: image, "text": text, "text_mask": mask})
            return generated.tokens, generated.scores, loss.total, loss.count

        self.run = runner.compile(run)

    def __call__(self, data: EvaluatedSource) -> Outcome:
        """Evaluates a source."""
        stream = data.stream(keep=lambda e: list(e.extras.get("references", e.captions)))
        tokens, scores, total, count = self.runner.run(self.run, data.params, map(self._row, stream))
        references = stream.kept
        self.tokens = tokens
        texts = [self.tokenizer.decode(row.tolist()) for row in tokens]
        scored = caption_metrics.score_captions(texts, references)
        metrics = scored.metrics | {"perplexity": perplexity(float(total.sum()), float(count.sum()))}
        if self.meteor:
            metrics["meteor"] = process_agreement.run_on_process_0(lambda: meteor_lib.meteor(texts, references)[0])
        sampler = ExampleSampler(data.keep, "captions written")
        exact = scored.examples["exact_match"]
        outcomes = zip(references, texts, scores.tolist(), exact.tolist(), strict=True)
        for index, (labels, text, score, right) in enumerate(outcomes):
            sampler.add(index, labels, [(text, score, bool(right))])
        return Outcome(metrics, len(texts), sampler.artifacts(data.examples))

    def _row(self, example: Any) -> Row:
        ids, mask = self.tokenizer([example.captions[0]])
        return example.seen, id_words(example.id), ids[0], mask[0]

    def generated_text(self, index: int, example: Any) -> tuple[np.ndarray, int]:
        """Ids that the last call generated for an example with the prompt in front, and the prompt's length."""
        del example
        return np.array([self.tokenizer.bos_id, *self.tokens[index]], np.int32), 1


def _captioning(title: str, unit: str, *sees: str) -> EvaluationTask:
    """The evaluation of captions of what a model sees."""
    return EvaluationTask(
        title=title,
        evaluator=lambda model: CaptioningEvaluator(
            model.task, model.runner, model.text_tokenizer, meteor=model.meteor
        ),
        unit=unit,
        needs=("caption",),
        sees=sees,
        missing_fields=missing_pair_fields,
        reads_of_run=("decoding", "eval.meteor"),
        by_default="always",
        has_plain_metrics=True,
    )


IMAGE_CAPTIONING = _captioning("captioning", "images", "image", "series", "table")
VIDEO_CAPTIONING = _captioning("captioning of videos", "videos", "video")
AUDIO_CAPTIONING = _captioning("captioning of sounds", "sounds", "audio")
