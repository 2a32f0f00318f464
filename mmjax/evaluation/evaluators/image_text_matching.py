"""Image-text matching on held-out pairs: each pair as it is, and with either side exchanged for a negative."""

from typing import Any

import numpy as np

from mmjax.data.text.tokenizer import Tokenizer
from mmjax.evaluation.embedding.batched_apply import Feeder
from mmjax.evaluation.embedding.sharded_examples import fed_images, without_images
from mmjax.evaluation.example_sampler import Shown
from mmjax.evaluation.metric_columns import MATCHING
from mmjax.evaluation.results import Evaluation, lacking_pair
from mmjax.metrics import exact_dot
from mmjax.metrics.classification import matching_metrics

_ROWS = 1024  # of a block of similarities


class MatchEvaluation:
    """Tells true pairs from false ones.

    For each image a false caption, and for each caption a false image, always of another id. Where training
    contrasts they are chosen twice: drawn by similarity among a batch of the training's size, as there (`itm_...`),
    and the most similar of the whole set (`itm_hardest_...`). Else they are drawn uniformly, the same ones every time
    (`itm_uniform_...`).

    Args:
      task: gives `match`, and `embed_images` and `embed_text` where it `contrasts`.
      feeder: runs it on the mesh.
      tokenizer: of the captions.
    """

    lacking = staticmethod(lacking_pair)

    def __init__(self, task: Any, feeder: Feeder, tokenizer: Tokenizer):
        self.task, self.feeder, self.tokenizer = task, feeder, tokenizer
        self.match = feeder.compiled(task.match)
        if task.is_contrastive:
            self.embed_images, self.embed_text = feeder.compiled(task.embed_images), feeder.compiled(task.embed_text)

    def __call__(self, params: Any, source: Any, examples: Any, *, keep: bool) -> Evaluation:
        """Evaluates a source; its images are decoded three times in pairs, and before, where they are embedded."""
        texts: list[str] = []
        found: list[int] = []

        def note(example: Any) -> tuple[Any]:
            texts.append(example.captions[0])
            found.append(example.id)
            return (example.image,)

        image = text = None
        if self.task.is_contrastive:
            image = self.feeder.run(self.embed_images, params, map(note, examples))
        else:
            for example in without_images(examples):
                note(example)
        tokens, mask = self.tokenizer(texts)
        if self.task.is_contrastive:
            text = self.feeder.run(self.embed_text, params, zip(tokens, mask, strict=True))
        ids = np.array(found, np.uint64)
        kinds = self._negatives(image, text, ids, params)
        own = np.arange(len(ids))
        parts = [("", own, own, 1)]
        for kind, other_text, other_image in kinds:
            # Pairs of a negative that there is not, all examples sharing one id, are left out.
            parts.append((kind, own[other_text >= 0], other_text[other_text >= 0], 0))
            parts.append((kind, other_image[other_image >= 0], own[other_image >= 0], 0))
        image_at = np.concatenate([part[1] for part in parts])
        text_at = np.concatenate([part[2] for part in parts])
        labels = np.concatenate([np.full(len(part[1]), part[3]) for part in parts])
        names = np.concatenate([np.full(len(part[1]), part[0], object) for part in parts])
        pictures = fed_images(examples, image_at.tolist(), self.feeder)
        rows = ((picture, tokens[at], mask[at]) for picture, at in zip(pictures, text_at.tolist(), strict=True))
        scores = self.feeder.run(self.match, params, rows)
        metrics: dict[str, float] = {}
        for kind, _, _ in kinds:
            wanted = (names == "") | (names == kind)
            told = matching_metrics(scores[wanted], labels[wanted])
            metrics |= {name.replace("itm", kind, 1): value for name, value in told.items()}
        shown = Shown(keep, "is it a match? (logit)")
        for place, at, label, score in zip(image_at.tolist(), text_at.tolist(), labels, scores.tolist(), strict=True):
            belongs = "belongs to the image" if label else "belongs to another image"
            given = "match" if score > 0 else "no match"
            shown.add(place, [texts[at], belongs], [(given, score, bool((score > 0) == label))])
        return Evaluation(source.name, MATCHING, len(ids), metrics, shown.artifacts(examples))

    def _negatives(
        self, image: np.ndarray | None, text: np.ndarray | None, ids: np.ndarray, params: Any
    ) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """How negatives are chosen, and the texts and images so chosen."""
        if image is None:
            return [("itm_uniform", hardest(None, None, ids, seed=0), hardest(None, None, ids, seed=1))]
        scale, batch = float(np.exp(params["logit_scale"])), self.task.config.batch_size
        return [
            ("itm", drawn(image, text, ids, scale, batch, seed=0), drawn(text, image, ids, scale, batch, seed=1)),
            ("itm_hardest", hardest(image, text, ids), hardest(text, image, ids)),
        ]


def drawn(
    queries: np.ndarray, gallery: np.ndarray, ids: np.ndarray, scale: float, batch: int, *, seed: int
) -> np.ndarray:
    """For each query the place of a negative drawn with probability softmax(scale * similarity) among its batch.

    Args:
      queries, gallery: [N, E] or [N, V, E], rows of one example each.
      ids: [N]; a negative has another one. Where there is none in the batch the place is -1.
      scale: the multiplier of similarities.
      batch: examples of a fixed shuffle that are among one another's negatives.
      seed: of the draw.
    """
    chosen = np.full(len(ids), -1, np.int64)
    order, rng = np.random.default_rng(0).permutation(len(ids)), np.random.default_rng(seed)
    for start in range(0, len(ids), batch):
        own = order[start : start + batch]
        scores = scale * exact_dot.similarity(queries[own], gallery[own]) + rng.gumbel(size=(len(own), len(own)))
        scores = np.where(ids[own, None] == ids[own], -np.inf, scores)
        chosen[own] = np.where(np.isfinite(scores.max(axis=1)), own[scores.argmax(axis=1)], -1)
    return chosen


def hardest(queries: np.ndarray | None, gallery: np.ndarray | None, ids: np.ndarray, seed: int = 0) -> np.ndarray:
    """For each query the place of its most similar negative, one with another id; -1 where there is none.

    Args:
      queries, gallery: [N, E] or [N, V, E], rows of one example each; None to draw uniformly.
      ids: [N].
      seed: of what is drawn.
    """
    chosen = np.full(len(ids), -1, np.int64)
    rng = np.random.default_rng(seed)
    similar = None if queries is None else exact_dot.Scores(queries, gallery)
    for start in range(0, len(ids), _ROWS):
        stop = min(start + _ROWS, len(ids))
        if similar is None:
            scores = rng.random((stop - start, len(ids)))
        else:
            scores = similar.approximate(slice(start, stop), slice(0, len(ids)))
        scores = np.where(ids[start:stop, None] == ids, -np.inf, scores)
        best = scores.argmax(axis=1)
        chosen[start:stop] = np.where(np.isfinite(scores.max(axis=1)), best, -1)
    return chosen
