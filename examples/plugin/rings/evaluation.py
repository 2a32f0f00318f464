"""An evaluation: the gap between the two modalities (arXiv:2203.02053)."""

from dataclasses import dataclass

import numpy as np

from mmjax.plugin import EvaluatedModel, EvaluatedSource, EvaluationTask, Outcome, evaluations


@dataclass(frozen=True)
class ModalityGapConfig:
    """Which captions are compared with the images."""

    captions: int = 1
    """of each image, the first ones"""


class ModalityGap:
    """The distance between the mean embeddings of images and of captions."""

    def __init__(self, model: EvaluatedModel):
        self._captions = model.fields.captions

    def __call__(self, data: EvaluatedSource) -> Outcome:
        features = data.features
        texts = [caption for captions in features.captions for caption in captions[: self._captions]]
        image, text = features.embeddings.mean(axis=0), np.asarray(data.embedder.texts(texts)).mean(axis=0)
        return Outcome({"gap": float(np.linalg.norm(image - text))}, n=len(features.embeddings))


evaluations.register("modality_gap", config=ModalityGapConfig)(
    EvaluationTask(
        title="modality gap",
        evaluator=ModalityGap,
        needs=("embeddings",),
        missing_fields=lambda record: "" if record.get("captions") else "captions",
        by_default="where_possible",
    )
)
