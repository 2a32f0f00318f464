"""Image-text matching on held-out pairs: each pair as it is, and with either side exchanged for a negative."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt64

from mmjax.data.text.tokenizer import Tokenizer
from mmjax.evaluation.embedding.batched_apply import BatchRunner
from mmjax.evaluation.embedding.sharded_examples import sharded_inputs, without_inputs
from mmjax.evaluation.evaluation_task import EvaluatedSource, EvaluationTask, Outcome
from mmjax.evaluation.example_sampler import ExampleSampler
from mmjax.evaluation.results import missing_pair_fields
from mmjax.metrics import exact_dot
from mmjax.metrics.classification import matching_metrics

_ROWS = 1024  # of a block of similarities


class _Pairs(NamedTuple):
    """Pairs of the examples' images and texts.

    Attributes:
      kind: prefix of the metrics that they count in; "" where they count in all.
      images, texts: [P] indices of examples.
      is_match: whether they belong together.
    """

    kind: str
    images: Int64[np.ndarray, " P"]
    texts: Int64[np.ndarray, " P"]
    is_match: bool


class ImageTextMatchingEvaluator:
    """Accuracy of telling true pairs from false ones.

    For each image a false caption, and for each caption a false image, always of another id. Where training
    contrasts they are chosen twice: drawn by similarity among a batch of the training's size, as there (`itm_...`),
    and the most similar of the whole set (`itm_hardest_...`). Else they are drawn uniformly, the same ones every time
    (`itm_uniform_...`).

    Args:
      task: gives `match`, and `embed_images` and `embed_text` where it `is_contrastive`.
      runner: runs it on the mesh.
      tokenizer: of the captions.
    """

    def __init__(self, task: Any, runner: BatchRunner, tokenizer: Tokenizer):
        self.task, self.runner, self.tokenizer = task, runner, tokenizer
        self.match = runner.compile(task.match)
        if task.is_contrastive:
            self.embed_images, self.embed_text = runner.compile(task.embed_images), runner.compile(task.embed_text)

    def __call__(self, data: EvaluatedSource) -> Outcome:
        """Evaluates a source.

        Images are decoded three times in pairs, and once before where they are embedded.
        """
        params, examples = data.params, data.examples
        caption_and_id = lambda example: (example.captions[0], example.id)
        if self.task.is_contrastive:
            stream = data.stream(caption_and_id, examples)
            images = self.runner.run(self.embed_images, params, ((example.seen,) for example in stream))
            captions, ids = zip(*stream.kept, strict=True)
        else:
            captions, ids = zip(*map(caption_and_id, without_inputs(examples)), strict=True)
        ids = np.array(ids, np.uint64)
        tokens, mask = self.tokenizer(list(captions))
        if self.task.is_contrastive:
            texts = self.runner.run(self.embed_text, params, zip(tokens, mask, strict=True))
            negatives = self._negatives_by_similarity(images, texts, ids, float(np.exp(params["logit_scale"])))
        else:
            negatives = _uniform_negatives(ids)
        every = np.arange(len(ids))
        pairs = [_Pairs("", every, every, True), *negatives]
        image_index = np.concatenate([part.images for part in pairs])
        text_index = np.concatenate([part.texts for part in pairs])
        labels = np.concatenate([np.full(len(part.images), int(part.is_match)) for part in pairs])
        pixels = sharded_inputs(examples, image_index.tolist(), self.runner)
        rows = ((image, tokens[text], mask[text]) for image, text in zip(pixels, text_index.tolist(), strict=True))
        scores = self.runner.run(self.match, params, rows)
        metrics = _metrics_by_kind(scores, labels, pairs)
        sampler = ExampleSampler(data.keep, "is it a match? (logit)")
        outcomes = zip(image_index.tolist(), text_index.tolist(), labels, scores.tolist(), strict=True)
        for image, text, label, score in outcomes:
            truth = "belongs to the image" if label else "belongs to another image"
            prediction = "match" if score > 0 else "no match"
            sampler.add(image, [captions[text], truth], [(prediction, score, bool((score > 0) == label))])
        return Outcome(metrics, len(ids), sampler.artifacts(examples))

    def _negatives_by_similarity(
        self, images: np.ndarray, texts: np.ndarray, ids: np.ndarray, scale: float
    ) -> list[_Pairs]:
        batch = self.task.config.batch_size
        return [
            *_false_pairs(
                "itm",
                texts=sample_negatives(images, texts, ids, scale, batch, seed=0),
                images=sample_negatives(texts, images, ids, scale, batch, seed=1),
            ),
            *_false_pairs(
                "itm_hardest",
                texts=hardest_negatives(images, texts, ids),
                images=hardest_negatives(texts, images, ids),
            ),
        ]


def _uniform_negatives(ids: np.ndarray) -> list[_Pairs]:
    texts, images = (uniform_negatives(ids, seed=seed) for seed in (0, 1))
    return _false_pairs("itm_uniform", texts, images)


def _false_pairs(kind: str, texts: Int64[np.ndarray, " N"], images: Int64[np.ndarray, " N"]) -> list[_Pairs]:
    """Every example's image with its negative text, and its text with its negative image.

    An example without a negative, because all share its id, is left out.
    """
    has_text, has_image = np.flatnonzero(texts >= 0), np.flatnonzero(images >= 0)
    return [_Pairs(kind, has_text, texts[has_text], False), _Pairs(kind, images[has_image], has_image, False)]


def _metrics_by_kind(
    scores: Float[np.ndarray, " P"], labels: Int64[np.ndarray, " P"], pairs: Sequence[_Pairs]
) -> dict[str, float]:
    """The metrics of the true pairs with each kind of negatives, prefixed by it."""
    kinds = np.concatenate([np.full(len(part.images), part.kind, object) for part in pairs])
    metrics: dict[str, float] = {}
    for kind in dict.fromkeys(part.kind for part in pairs if part.kind):
        chosen: Bool[np.ndarray, " P"] = (kinds == "") | (kinds == kind)
        values = matching_metrics(scores[chosen], labels[chosen])
        metrics |= {name.replace("itm", kind, 1): value for name, value in values.items()}
    return metrics


def sample_negatives(
    queries: Float[np.ndarray, "N *V E"],
    gallery: Float[np.ndarray, "N *W E"],
    ids: UInt64[np.ndarray, " N"],
    scale: float,
    batch: int,
    *,
    seed: int,
) -> Int64[np.ndarray, " N"]:
    """For each query a negative drawn with probability softmax(scale * similarity) among its batch.

    Args:
      queries, gallery: rows of one example each.
      ids: a negative has another one.
      scale: the multiplier of similarities.
      batch: examples of a fixed shuffle that are among one another's negatives.
      seed: of the draw.

    Returns:
      Indices of the gallery; -1 where there is no negative in the batch.
    """
    negatives = np.full(len(ids), -1, np.int64)
    order, rng = np.random.default_rng(0).permutation(len(ids)), np.random.default_rng(seed)
    for start in range(0, len(ids), batch):
        rows = order[start : start + batch]
        scores = scale * exact_dot.similarity(queries[rows], gallery[rows]) + rng.gumbel(size=(len(rows), len(rows)))
        scores = np.where(ids[rows, None] == ids[rows], -np.inf, scores)
        negatives[rows] = np.where(np.isfinite(scores.max(axis=1)), rows[scores.argmax(axis=1)], -1)
    return negatives


def hardest_negatives(
    queries: Float[np.ndarray, "N *V E"], gallery: Float[np.ndarray, "N *W E"], ids: UInt64[np.ndarray, " N"]
) -> Int64[np.ndarray, " N"]:
    """For each query its most similar negative, one with another id.

    Args:
      queries, gallery: rows of one example each.
      ids: a negative has another one.

    Returns:
      Indices of the gallery; -1 where there is no negative.
    """
    similarities = exact_dot.Scores(queries, gallery)
    return _highest_negatives(lambda rows: similarities.approximate(rows, slice(0, len(ids))), ids)


def uniform_negatives(ids: UInt64[np.ndarray, " N"], *, seed: int) -> Int64[np.ndarray, " N"]:
    """For each example a negative, one with another id, all as likely; -1 where there is none."""
    rng = np.random.default_rng(seed)
    return _highest_negatives(lambda rows: rng.random((rows.stop - rows.start, len(ids))), ids)


def _highest_negatives(
    scores_of: Callable[[slice], Float[np.ndarray, "R N"]], ids: UInt64[np.ndarray, " N"]
) -> Int64[np.ndarray, " N"]:
    """For each example the negative of the highest score; -1 where there is none."""
    negatives = np.full(len(ids), -1, np.int64)
    for rows in exact_dot.blocks(len(ids), _ROWS):
        scores = np.where(ids[rows, None] == ids, -np.inf, scores_of(rows))
        negatives[rows] = np.where(np.isfinite(scores.max(axis=1)), scores.argmax(axis=1), -1)
    return negatives


IMAGE_TEXT_MATCHING = EvaluationTask(
    title="image-text matching",
    evaluator=lambda model: ImageTextMatchingEvaluator(model.task, model.runner, model.text_tokenizer),
    needs=("match",),
    missing_fields=missing_pair_fields,
    reads_of_run=("batch_size",),
    by_default="always",
    has_plain_metrics=True,
)
