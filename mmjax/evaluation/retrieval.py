"""Image-text retrieval in both directions over a whole evaluation set, with any number of captions per image."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float32, Integer

from mmjax.evaluation.metrics import retrieval_metrics


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
    """What `evaluate_retrieval` found.

    Attributes:
      metrics: see `metrics.retrieval_metrics`.
      texts: U different captions, in order of first appearance.
      text_embeddings: [U, E] their embeddings.
      text_index: [M] every caption's row in `texts`, image after image.
      text_image: [M] every caption's image.
    """

    metrics: dict[str, float]
    texts: list[str]
    text_embeddings: np.ndarray
    text_index: np.ndarray
    text_image: np.ndarray


def embed_unique(
    embed_texts: Callable[[list[str]], np.ndarray], texts: Sequence[str]
) -> tuple[list[str], Float32[np.ndarray, "U E"], Integer[np.ndarray, " M"]]:
    """Embeds every different text once.

    Besides the time saved, equal texts then have equal embeddings whatever batch they would have fallen in.

    Returns:
      The U different texts in order of first appearance, their embeddings, and each text's row among them.
    """
    rows: dict[str, int] = {}
    index = np.array([rows.setdefault(text, len(rows)) for text in texts], np.int64)
    unique = list(rows)
    return unique, embed_texts(unique), index


def evaluate_retrieval(
    image_embeddings: Float[np.ndarray, "N E"],
    captions: Sequence[Sequence[str]],
    *,
    embed_texts: Callable[[list[str]], np.ndarray],
    image_ids: Integer[np.ndarray, " N"] | None = None,
) -> RetrievalResult:
    """Ranks all captions for every image and all images for every caption.

    The text gallery is every caption of every image, repeated ones included, as in the protocols of COCO and Flickr30k.

    Args:
      image_embeddings: L2-normalised, one row per image.
      captions: the captions of every image, at least one each.
      embed_texts: maps n strings to L2-normalised embeddings [n, E].
      image_ids: images with equal ids are positives of one another's captions.

    Raises:
      ValueError: for an image without captions.
    """
    counts = np.array([len(own) for own in captions])
    if (counts == 0).any():
        raise ValueError(f"image {int(np.argmin(counts))} has no caption; retrieval needs one for every image")
    text_image = np.repeat(np.arange(len(captions)), counts)
    texts, text_embeddings, text_index = embed_unique(embed_texts, [text for own in captions for text in own])
    metrics = retrieval_metrics(image_embeddings, text_embeddings[text_index], text_image, image_ids=image_ids)
    return RetrievalResult(metrics, texts, text_embeddings, text_index, text_image)
