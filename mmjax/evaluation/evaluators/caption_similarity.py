"""Similarities of images and their captions as evaluations: image-caption selection and CLIPScore."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.data.source_protocols import HasImageGroups
from mmjax.errors import UserError
from mmjax.evaluation.evaluation_task import (
    EvaluatedModel,
    EvaluatedSource,
    EvaluationTask,
    Outcome,
    missing_caption,
    without_setup,
)
from mmjax.evaluation.evaluators import retrieval
from mmjax.metrics import bootstrap, clip_score, compositional


def _select_captions(model: EvaluatedModel, data: EvaluatedSource) -> Outcome:
    del model
    test = data.features
    wrong = [i for i, captions in enumerate(test.captions) if len(captions) != 2]
    if wrong:
        raise UserError(
            f"{data.source.name}: image {wrong[0]} has {len(test.captions[wrong[0]])} captions;"
            " image_caption_selection wants two for each, the right one first"
        )
    _, embeddings, index = retrieval.embed_unique(
        data.embedder.texts, [text for captions in test.captions for text in captions]
    )
    positive, negative = embeddings[index[0::2]], embeddings[index[1::2]]
    if isinstance(test.source, HasImageGroups) and test.source.images_per_example == 2:
        # An example's two images are consecutive, each with its own caption first.
        pairs = lambda rows: rows.reshape(-1, 2, rows.shape[-1])
        metrics = compositional.winoground_metrics(pairs(test.embeddings), pairs(positive))
    else:
        metrics = compositional.sugarcrepe_metrics(test.embeddings, positive, negative)
    return Outcome(metrics, len(test))


def _clip_score(model: EvaluatedModel, data: EvaluatedSource) -> Outcome:
    test, settings = data.features, model.settings
    silent = [i for i, captions in enumerate(test.captions) if not captions]
    if silent:
        raise UserError(f"{data.source.name}: image {silent[0]} has no caption; clip_score wants one for each")
    prefix = settings.clip_score.prefix
    _, embeddings, index = retrieval.embed_unique(
        data.embedder.texts, [prefix + text for captions in test.captions for text in captions]
    )
    by_image = np.split(embeddings[index], np.cumsum([len(captions) for captions in test.captions])[:-1])
    first = np.stack([rows[0] for rows in by_image])
    values = {"clip_score": clip_score.clip_scores(test.embeddings, first)}
    if all(len(rows) > 1 for rows in by_image):
        references = [rows[1:] for rows in by_image]
        values["ref_clip_score"] = clip_score.ref_clip_scores(test.embeddings, first, references)
    metrics = {name: float(scores.mean()) for name, scores in values.items()}
    for name, scores in values.items() if settings.bootstrap else ():
        interval = bootstrap.bootstrap_interval(scores, resamples=settings.bootstrap, seed=settings.seed)
        metrics |= interval.metrics(name)
    return Outcome(metrics, len(test))


def _missing_two_captions(record: Mapping[str, Any]) -> str:
    return "" if len(record.get("captions", ())) == 2 else "two captions an image, the right one first"


IMAGE_CAPTION_SELECTION = EvaluationTask(
    title="image-caption selection",
    evaluator=without_setup(_select_captions),
    needs=("encode_image",),
    of_hard_negatives=True,
    missing_fields=_missing_two_captions,
    by_default="always",
)
CLIP_SCORE = EvaluationTask(
    title="CLIPScore",
    evaluator=without_setup(_clip_score),
    needs=("encode_image",),
    missing_fields=missing_caption,
    reads=("clip_score", "bootstrap"),
)
