"""Image-text matching on held-out pairs: each pair as it is, and with either side exchanged for a hard negative."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmjax.data.tokenizers import Tokenizer
from mmjax.evaluation.feeding import Feeder, Row
from mmjax.evaluation.metrics import matching_metrics
from mmjax.evaluation.shown import Shown
from mmjax.evaluation.suite import Evaluation
from mmjax.evaluation.tables import MATCHING

_ROWS = 1024  # of a block of similarities


class MatchEvaluation:
    """Tells true pairs from false ones.

    False ones are the hardest where the model has embeddings: for each image the most similar caption of another id,
    and for each caption the most similar image; else drawn uniformly, the same ones every time.

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
        """Evaluates a source; its images are read once to embed them and three times in pairs."""
        texts, found = [], []

        def note(example: Any) -> np.ndarray:
            texts.append(example.captions[0])
            found.append(example.id)
            return example.image

        images = (note(example) for example in examples)
        if self.task.embeds:
            image = self.feeder.run(self.embed_images, params, ((each,) for each in images))
            tokens, mask = self.tokenizer(texts)
            text = self.feeder.run(self.embed_text, params, zip(tokens, mask, strict=True))
        else:
            for _ in images:
                pass
            tokens, mask = self.tokenizer(texts)
            image = text = None
        ids = np.array(found, np.uint64)
        other_text, other_image = hardest(image, text, ids), hardest(text, image, ids)
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
        shown = Shown(keep, "is it a match? (logit)")
        kept: dict[int, np.ndarray] = {}
        wanted = set(np.random.default_rng(0).choice(len(labels), min(len(labels), 200), replace=False).tolist())

        def rows() -> Iterator[Row]:
            # Read by every process: a pair's image may be any.
            pictures = examples.read(image_at.tolist())
            for place, (example, at) in enumerate(zip(pictures, text_at.tolist(), strict=True)):
                if keep and place in wanted:
                    kept[place] = example.image
                yield example.image, tokens[at], mask[at]

        scores = self.feeder.run(self.match, params, rows())
        for place, picture in kept.items():
            right = bool((scores[place] > 0) == labels[place])
            belongs = "belongs to the image" if labels[place] else "belongs to another image"
            given = "match" if scores[place] > 0 else "no match"
            shown.add(picture, [texts[text_at[place]], belongs], [(given, float(scores[place]), right)])
        return Evaluation(source.name, MATCHING, len(ids), matching_metrics(scores, labels), shown.artifacts())


def hardest(queries: np.ndarray | None, gallery: np.ndarray | None, ids: np.ndarray) -> np.ndarray:
    """For each query the place of its most similar negative, one with another id; -1 where there is none.

    Args:
      queries, gallery: [N, E], rows of one example each; None to draw uniformly.
      ids: [N].
    """
    chosen = np.full(len(ids), -1, np.int64)
    rng = np.random.default_rng(0)
    for start in range(0, len(ids), _ROWS):
        stop = min(start + _ROWS, len(ids))
        scores = rng.random((stop - start, len(ids))) if queries is None else queries[start:stop] @ gallery.T
        scores = np.where(ids[start:stop, None] == ids, -np.inf, scores)
        best = scores.argmax(axis=1)
        chosen[start:stop] = np.where(np.isfinite(scores.max(axis=1)), best, -1)
    return chosen
