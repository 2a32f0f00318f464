"""Captions that a model generates of images, videos or sounds, against those that people wrote."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.loading.example_transforms import id_words
from mmjax.data.loading.prompt_transforms import PromptTransform
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.errors import UserError
from mmjax.evaluation.embedding.batched_apply import BatchRunner, Row
from mmjax.evaluation.evaluation_task import EvaluatedModel, EvaluatedSource, EvaluationTask, Evaluator, Outcome
from mmjax.evaluation.example_sampler import ExampleSampler
from mmjax.evaluation.results import missing_pair_fields
from mmjax.metrics import caption_metrics
from mmjax.metrics import meteor as meteor_lib
from mmjax.metrics.classification import perplexity
from mmjax.parallel import process_agreement


class Written(NamedTuple):
    """What a model wrote about the examples of a source.

    Attributes:
      texts: one each.
      scores: their log-probabilities, see `generation.Generated`.
      perplexity: of the first caption's tokens.
      kept: of each example, what was asked for.
    """

    texts: list[str]
    scores: list[float]
    perplexity: float
    kept: list[Any]


class CaptionWriter:
    """Writes a text about every example of a source.

    Args:
      task: gives `generate` and `caption_loss`.
      runner: runs it on the mesh.
      tokenizer: of the texts.
      prompts: what the texts go on from, see `prompts_of`; None for the first token of every text.
    """

    def __init__(self, task: Any, runner: BatchRunner, tokenizer: Tokenizer, prompts: PromptTransform | None = None):
        self.runner, self.tokenizer, self.prompts = runner, tokenizer, prompts
        decoding = task.decoding(tokenizer)

        def run(params, image, ids, text, mask, *prompt):
            targets, *first = prompt or (mask, text[:, :1], mask[:, :1])
            generated = task.generate(params, image, *first, decoding, ids=ids)
            batch = {task.seen: image, "text": text, "text_mask": mask}
            loss = task.caption_loss(params, batch | ({"target_mask": targets} if prompt else {}))
            return generated.tokens, generated.scores, loss.total, loss.count

        self.run = runner.compile(run)

    def write(self, data: EvaluatedSource, keep: Callable[[Any], Any]) -> Written:
        """Writes about a source's examples.

        Args:
          data: the source.
          keep: what is kept of an example.

        Raises:
          UserError: an example lacks what the prompt names, or has what is no token.
        """
        stream = data.stream(keep=keep)
        rows = (self._row(data.source.name, example) for example in stream)
        tokens, scores, total, count = self.runner.run(self.run, data.params, rows)
        self.tokens = tokens
        texts = [self.tokenizer.decode(row.tolist()) for row in tokens]
        return Written(texts, scores.tolist(), perplexity(float(total.sum()), float(count.sum())), stream.kept)

    def _row(self, name: str, example: Any) -> Row:
        first = example.seen, id_words(example.id)
        if self.prompts is None:
            ids, mask = self.tokenizer([example.captions[0]])
            return *first, ids[0], mask[0]
        try:
            text = self.prompts.text(example.extras, example.captions[0])
            return *first, *text, *self.prompts.prompt(example.extras)
        except BadExample as error:
            raise UserError(f"data.eval: {name!r}: {error}") from error

    def generated_text(self, index: int, example: Any) -> tuple[np.ndarray, int]:
        """Ids that the last call generated for an example with the prompt in front, and the prompt's length."""
        prompt = np.array([self.tokenizer.bos_id])
        if self.prompts is not None:
            ids, mask = self.prompts.prompt(example.extras)
            prompt = ids[mask]
        return np.array([*prompt, *self.tokens[index]], np.int32), len(prompt)


def prompts_of(task: Any) -> PromptTransform | None:
    """The prompts of a task with `data.caption_prompt`; None for one without."""
    transform = task.example_transform
    return transform if isinstance(transform, PromptTransform) else None


class CaptioningEvaluator(CaptionWriter):
    """Generates a caption of every image, or of what a model sees in its place, and scores it.

    Gives BLEU, ROUGE-L, CIDEr-D and the share of captions that are exactly one of the references (`references` of the
    record, where it has them: all wordings that are right; else its captions), and the perplexity of the first caption.

    Args:
      task, runner, tokenizer, prompts: see `CaptionWriter`.
      meteor: also METEOR, see `meteor.meteor`; the first process runs its program.

    Raises:
      UserError: METEOR is wanted and cannot be run here.
    """

    def __init__(
        self,
        task: Any,
        runner: BatchRunner,
        tokenizer: Tokenizer,
        prompts: PromptTransform | None = None,
        *,
        meteor: bool = False,
    ):
        self.meteor = meteor
        if meteor:
            process_agreement.run_on_process_0(meteor_lib.check_available)
        super().__init__(task, runner, tokenizer, prompts)

    def __call__(self, data: EvaluatedSource) -> Outcome:
        """Evaluates a source."""
        written = self.write(data, keep=lambda e: list(e.extras.get("references", e.captions)))
        texts, references = written.texts, written.kept
        scored = caption_metrics.score_captions(texts, references)
        metrics = scored.metrics | {"perplexity": written.perplexity}
        if self.meteor:
            metrics["meteor"] = process_agreement.run_on_process_0(lambda: meteor_lib.meteor(texts, references)[0])
        sampler = ExampleSampler(data.keep, "captions written")
        exact = scored.examples["exact_match"]
        outcomes = zip(references, texts, written.scores, exact.tolist(), strict=True)
        for index, (labels, text, score, right) in enumerate(outcomes):
            sampler.add(index, labels, [(text, score, bool(right))])
        return Outcome(metrics, len(texts), sampler.artifacts(data.examples))


def _make_evaluator(model: EvaluatedModel) -> Evaluator:
    parts = model.task, model.runner, model.text_tokenizer, prompts_of(model.task)
    return CaptioningEvaluator(*parts, meteor=model.meteor)


def _captioning(title: str, unit: str, *sees: str) -> EvaluationTask:
    """The evaluation of captions of what a model sees."""
    return EvaluationTask(
        title=title,
        evaluator=_make_evaluator,
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
