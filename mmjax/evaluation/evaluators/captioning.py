"""Captions written by a model, against those that people wrote."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mmjax.data.loading.example_transforms import id_words
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.evaluation.embedding.batched_apply import Feeder, Row
from mmjax.evaluation.example_sampler import Shown
from mmjax.evaluation.metric_columns import CAPTIONING
from mmjax.evaluation.results import Evaluation, lacking_pair
from mmjax.metrics import caption_metrics
from mmjax.metrics import meteor as meteor_lib
from mmjax.metrics.classification import perplexity
from mmjax.parallel import process_agreement


class CaptionEvaluation:
    """Writes a caption of every image.

    Gives BLEU, ROUGE-L, CIDEr-D and the share of captions that are exactly one of the references (`references` of the
    record, where it has them: all wordings that are right; else its captions), and the perplexity of the first caption.

    Args:
      task: gives `write` and `write_loss`.
      feeder: runs it on the mesh.
      tokenizer: of the captions.
      meteor: also METEOR, see `meteor.meteor`; the first process runs its program.

    Raises:
      UserError: METEOR is asked for and cannot be run here.
    """

    lacking = staticmethod(lacking_pair)

    def __init__(self, task: Any, feeder: Feeder, tokenizer: Tokenizer, *, meteor: bool = False):
        self.task, self.feeder, self.tokenizer, self.meteor = task, feeder, tokenizer, meteor
        if meteor:
            process_agreement.run_on_process_0(meteor_lib.check)
        decoding = task.decoding(tokenizer)

        def run(params, image, ids, text, mask):
            written = task.generate(params, image, text[:, :1], mask[:, :1], decoding, ids=ids)
            loss = task.caption_loss(params, {"image": image, "text": text, "text_mask": mask})
            return written.tokens, written.scores, loss.total, loss.count

        self.run = feeder.compiled(run)

    def __call__(self, params: Any, source: Any, examples: Iterable[Any], *, keep: bool) -> Evaluation:
        """Evaluates a source."""
        references: list[list[str]] = []

        def rows() -> Iterator[Row]:
            for example in examples:
                references.append(list(example.extras.get("references", example.captions)))
                ids, mask = self.tokenizer([example.captions[0]])
                yield example.image, id_words(example.id), ids[0], mask[0]

        tokens, scores, total, count = self.feeder.run(self.run, params, rows())
        self.tokens = tokens
        texts = [self.tokenizer.decode(row.tolist()) for row in tokens]
        scored = caption_metrics.score_captions(texts, references)
        metrics = scored.metrics | {"perplexity": perplexity(float(total.sum()), float(count.sum()))}
        if self.meteor:
            metrics["meteor"] = process_agreement.run_on_process_0(lambda: meteor_lib.meteor(texts, references)[0])
        shown = Shown(keep, "captions written")
        exact = scored.examples["exact_match"]
        outcomes = zip(references, texts, scores.tolist(), exact.tolist(), strict=True)
        for place, (told, text, score, right) in enumerate(outcomes):
            shown.add(place, told, [(text, score, bool(right))])
        return Evaluation(source.name, CAPTIONING, len(texts), metrics, shown.artifacts(examples))

    def written(self, place: int, example: Any) -> tuple[np.ndarray, int]:
        """What the last call wrote about an example: ids with the prompt in front, and the prompt's length."""
        del example
        return np.array([self.tokenizer.bos_id, *self.tokens[place]], np.int32), 1
