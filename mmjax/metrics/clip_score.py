"""CLIPScore and RefCLIPScore: how well a caption fits an image (Hessel et al. 2021).

The paper's numbers are of OpenAI's ViT-B/32 and of captions and references that begin with "A photo
depicts ". Scores of different models cannot be compared.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

WEIGHT = 2.5


def clip_scores(
    image_embeddings: Float[np.ndarray, "N E"], caption_embeddings: Float[np.ndarray, "N E"]
) -> Float64[np.ndarray, " N"]:
    """CLIPScore of every caption for its image, 2.5 max(cos, 0); embeddings of any norm."""
    return WEIGHT * np.maximum(_cosines(image_embeddings, caption_embeddings), 0)


def ref_clip_scores(
    image_embeddings: Float[np.ndarray, "N E"],
    caption_embeddings: Float[np.ndarray, "N E"],
    reference_embeddings: Sequence[Float[np.ndarray, "_ E"]],
) -> Float64[np.ndarray, " N"]:
    """RefCLIPScore: the harmonic mean of CLIPScore and of the caption's cosine with its nearest reference.

    Args:
      image_embeddings: one row per image.
      caption_embeddings: the caption of every image.
      reference_embeddings: for every image one row per reference, at least one. A negative cosine counts as 0.

    Raises:
      ValueError: for an image without references.
    """
    counts = np.array([len(references) for references in reference_embeddings])
    if counts.shape != (len(caption_embeddings),) or not counts.all():
        raise ValueError(f"references for {np.count_nonzero(counts)} of {len(caption_embeddings)} captions")
    repeated = np.repeat(caption_embeddings, counts, axis=0)
    cosines = _cosines(repeated, np.concatenate(list(reference_embeddings)))
    nearest = np.maximum(np.maximum.reduceat(cosines, np.cumsum(counts) - counts), 0)
    scores = clip_scores(image_embeddings, caption_embeddings)
    total = scores + nearest
    return 2 * scores * nearest / np.where(total > 0, total, 1)


def _cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left, right = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    if not np.isfinite(norms).all():
        raise ValueError("embeddings are not finite: they hold NaN or infinity")
    return np.einsum("NE,NE->N", left, right) / np.where(norms > 0, norms, 1)
