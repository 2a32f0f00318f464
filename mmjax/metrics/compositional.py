"""Accuracy of telling captions from ones with the same words in other roles: Winoground and SugarCrepe."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64

from mmjax.metrics.exact_dot import Scores


def winoground_scores(
    image_embeddings: Float[np.ndarray, "N 2 E"], text_embeddings: Float[np.ndarray, "N 2 E"]
) -> Float64[np.ndarray, "N 2 2"]:
    """Exact inner products, [example, image, caption]: equal embeddings get equal scores."""
    count, size, width = image_embeddings.shape
    scores = Scores(image_embeddings.reshape(-1, width), text_embeddings.reshape(-1, width))
    example, image, text = (index.ravel() for index in np.indices((count, size, size)))
    products = scores.pairs(example * size + image, example * size + text) * scores.scale[example * size + image]
    return products.reshape(count, size, size)


def winoground_correct(scores: Float[np.ndarray, "N 2 2"]) -> dict[str, Bool[np.ndarray, " N"]]:
    """Which examples are right, in each of Winoground's three senses (Thrush et al. 2022, section 3.2).

    Args:
      scores: [example, image, caption]; caption i describes image i.

    Returns:
      `text_acc`: for both images the right caption scores higher. `image_acc`: for both captions the right image scores
      higher. `acc`: both (the group score). An equal score is not higher, so a constant model scores 0.
    """
    matching = np.einsum("NII->NI", scores)
    other_text, other_image = scores[:, [0, 1], [1, 0]], scores[:, [1, 0], [0, 1]]
    text, image = (matching > other_text).all(axis=1), (matching > other_image).all(axis=1)
    return {"image_acc": image, "text_acc": text, "acc": image & text}


def winoground_metrics(
    image_embeddings: Float[np.ndarray, "N 2 E"], text_embeddings: Float[np.ndarray, "N 2 E"]
) -> dict[str, float]:
    """The text, image and group scores, in [0, 1]; see `winoground_correct`."""
    correct = winoground_correct(winoground_scores(image_embeddings, text_embeddings))
    return {name: float(values.mean()) for name, values in correct.items()}


def sugarcrepe_correct(
    image_embeddings: Float[np.ndarray, "N E"],
    positive_embeddings: Float[np.ndarray, "N E"],
    negative_embeddings: Float[np.ndarray, "N E"],
) -> Bool[np.ndarray, " N"]:
    """Whether each image is closer to its caption than to the hard negative; an equal score is not."""
    count = len(image_embeddings)
    scores = Scores(image_embeddings, np.concatenate([positive_embeddings, negative_embeddings]))
    images = np.arange(count)
    return scores.pairs(images, images) > scores.pairs(images, images + count)


def sugarcrepe_metrics(
    image_embeddings: Float[np.ndarray, "N E"],
    positive_embeddings: Float[np.ndarray, "N E"],
    negative_embeddings: Float[np.ndarray, "N E"],
    categories: Sequence[str] | None = None,
) -> dict[str, float]:
    """Accuracy of the caption over its hard negative (Hsieh et al. 2023).

    Args:
      image_embeddings, positive_embeddings, negative_embeddings: one row per example, L2-normalised.
      categories: of every example, such as `replace_att`.

    Returns:
      `acc` over all examples and, with categories, `acc_CATEGORY` for each and `mean_category_acc`, their mean.

    Raises:
      ValueError: for another number of categories than of examples.
    """
    correct = sugarcrepe_correct(image_embeddings, positive_embeddings, negative_embeddings)
    metrics = {"acc": float(correct.mean())}
    if categories is not None:
        if len(categories) != len(correct):
            raise ValueError(f"{len(categories)} categories for {len(correct)} examples")
        names, group = np.unique(np.asarray(categories, str), return_inverse=True)
        means = np.bincount(group, weights=correct) / np.bincount(group)
        metrics |= {f"acc_{name}": float(mean) for name, mean in zip(names, means, strict=True)}
        metrics["mean_category_acc"] = float(means.mean())
    return metrics
