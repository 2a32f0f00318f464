"""Image-text matching on held-out pairs: each pair as it is, and with either side exchanged for a negative."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.data.tokenizers import Tokenizer
from mmjax.evaluation.feeding import Feeder
from mmjax.evaluation.metrics import matching_metrics
from mmjax.evaluation.sharing import fed_images, without_images
from mmjax.evaluation.shown import Shown
from mmjax.evaluation.suite import Evaluation
from mmjax.evaluation.tables import MATCHING

_ROWS = 1024  # of a block of similarities


class MatchEvaluation:
    """Tells true pairs from false ones.

    False ones are the hardest where the model has embeddings: for each image the most similar caption of another id,
    and for each caption the most similar image; else drawn uniformly, the same ones every time. Those are easier, so
    their metrics are called `itm_uniform_...`.

    Args:
      task: gives `match`, and `embed_images` and `embed_text` where `embeds`.
      feeder: runs it on the mesh.
      tokenizer: of the captions.
    """

    def __init__(self, task: Any, feeder: Feeder, tokenizer: Tokenizer):
        self.task, self.feeder, self.tokenizer = task, feeder, tokenizer
        self.match = feeder.compiled(task.match)
        if task.embeds:
            self.embed_images, self.embed_text = feeder.compiled(task.embed_images), feeder.compiled(task.embed_text)

    def lacking(self, record: Mapping[str, Any]) -> str:
        """What a record has not that this needs."""
        return "" if record.get("image") is not None and record.get("captions") else "image with captions"

    def __call__(self, params: Any, source: Any, examples: Any, *, keep: bool) -> Evaluation:
        """Evaluates a source; its images are decoded three times in pairs, and before, where they are embedded."""
        texts: list[str] = []
        found: list[int] = []

        def note(example: Any) -> tuple[Any]:
            texts.append(example.captions[0])
            found.append(example.id)
            return (example.image,)

        image = text = None
        if self.task.embeds:
            image = self.feeder.run(self.embed_images, params, map(note, examples))
        else:
            for example in without_images(examples):
                note(example)
        tokens, mask = self.tokenizer(texts)
        if self.task.embeds:
            text = self.feeder.run(self.embed_text, params, zip(tokens, mask, strict=True))
        ids = np.array(found, np.uint64)
        other_text, other_image = hardest(image, text, ids, seed=0), hardest(text, image, ids, seed=1)
        own = np.arange(len(ids))
        # Pairs of a negative that there is not, all examples sharing one id, are left out.
        pairs = [(own, own, 1)]
        for place, other in ((1, other_text), (0, other_image)):
            there = other >= 0
            pair = [own[there], own[there], 0]
            pair[place] = other[there]
            pairs.append(tuple(pair))
        image_at = np.concatenate([pair[0] for pair in pairs])
        text_at = np.concatenate([pair[1] for pair in pairs])
        labels = np.concatenate([np.full(len(pair[0]), pair[2]) for pair in pairs])
        pictures = fed_images(examples, image_at.tolist(), self.feeder)
        rows = ((picture, tokens[at], mask[at]) for picture, at in zip(pictures, text_at.tolist(), strict=True))
        scores = self.feeder.run(self.match, params, rows)
        metrics = matching_metrics(scores, labels)
        if not self.task.embeds:
            metrics = {name.replace("itm_", "itm_uniform_", 1): value for name, value in metrics.items()}
        shown = Shown(keep, "is it a match? (logit)")
        for place, at, label, score in zip(image_at.tolist(), text_at.tolist(), labels, scores.tolist(), strict=True):
            belongs = "belongs to the image" if label else "belongs to another image"
            given = "match" if score > 0 else "no match"
            shown.add(place, [texts[at], belongs], [(given, score, bool((score > 0) == label))])
        return Evaluation(source.name, MATCHING, len(ids), metrics, shown.artifacts(examples))


def hardest(queries: np.ndarray | None, gallery: np.ndarray | None, ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """For each query the place of its most similar negative, one with another id; -1 where there is none.

    Args:
      queries, gallery: [N, E], rows of one example each; None to draw uniformly.
      ids: [N].
      seed: of what is drawn.
    """
    chosen = np.full(len(ids), -1, np.int64)
    rng = np.random.default_rng(seed)
    for start in range(0, len(ids), _ROWS):
        stop = min(start + _ROWS, len(ids))
        scores = rng.random((stop - start, len(ids))) if queries is None else queries[start:stop] @ gallery.T
        scores = np.where(ids[start:stop, None] == ids, -np.inf, scores)
        best = scores.argmax(axis=1)
        chosen[start:stop] = np.where(np.isfinite(scores.max(axis=1)), best, -1)
    return chosen
