"""Image-text retrieval in both directions over a whole evaluation set, with any number of captions per image."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float32, Integer

from mmjax.errors import UserError
from mmjax.metrics import ranks as ranks_lib
from mmjax.metrics.bootstrap import bootstrap_interval
from mmjax.metrics.exact_dot import BLOCK
from mmjax.metrics.ranks import rank_metrics

_KS = (1, 5, 10)
_SIDES = ("image_retrieval", "text_retrieval")


def retrieval_metrics(
    image_embeddings: Float[np.ndarray, "N *V E"],
    text_embeddings: Float[np.ndarray, "M E"],
    text_image: Integer[np.ndarray, " M"],
    *,
    image_ids: Integer[np.ndarray, " N"] | None = None,
    block: int = BLOCK,
) -> dict[str, float]:
    """Recall at 1, 5 and 10 and rank statistics in both directions, named as in CLIP_benchmark.

    `image_retrieval_*` ranks all images for each text; `text_retrieval_*` ranks all texts for each image, where any of
    the image's texts counts. Every product is computed once for both directions, and none is kept.

    Args:
      image_embeddings: one row per image.
      text_embeddings: one row per text.
      text_image: the index of each text's image; every image needs at least one text.
      image_ids: images with equal ids are positives of one another's texts (a file that lists an image once per
        caption, say). Without ids every image is its own.
      block: how many images and texts meet at a time; the result does not depend on it.

    Returns:
      For both prefixes what `ranks.rank_metrics` names: recalls, mean reciprocal rank and mean average
      precision in [0, 1], ranks from 1 up. `rsum`, the sum of the six recalls, in [0, 6] (papers print it in
      percent, up to 600).

    Raises:
      ValueError: for an image without texts, and as `ranks.positive_ranks`.
    """
    ranks = retrieval_ranks(image_embeddings, text_embeddings, text_image, image_ids=image_ids, block=block)
    return _metrics(ranks)


def retrieval_ranks(
    image_embeddings: Float[np.ndarray, "N *V E"],
    text_embeddings: Float[np.ndarray, "M E"],
    text_image: Integer[np.ndarray, " M"],
    *,
    image_ids: Integer[np.ndarray, " N"] | None = None,
    block: int = BLOCK,
) -> dict[str, ranks_lib.CSR]:
    """The ranks behind `retrieval_metrics`, with its arguments and errors.

    Returns:
      For `image_retrieval` (a query a text) and `text_retrieval` (a query an image) the 1-based ranks [P] of all
      positives and offsets [Q+1]: those of query q are ranks[offsets[q]:offsets[q+1]].
    """
    ranks_lib.check_indices("text_image", text_image, len(image_embeddings))
    if image_ids is None:
        groups = np.arange(len(image_embeddings))
    else:
        groups = np.unique(image_ids, return_inverse=True)[1].reshape(-1)
    text_groups = groups[text_image]
    images, texts = ranks_lib.members(text_groups, groups), ranks_lib.members(groups, text_groups)
    ranks = ranks_lib.ranks_both_ways(text_embeddings, image_embeddings, images, texts, block=block)
    offsets = images[1], texts[1]
    return dict(zip(_SIDES, zip(ranks, offsets, strict=True), strict=True))


def _metrics(ranks: dict[str, ranks_lib.CSR]) -> dict[str, float]:
    metrics = {}
    for name, csr in ranks.items():
        metrics |= {f"{name}_{key}": value for key, value in rank_metrics(*csr, ks=_KS).items()}
    metrics["rsum"] = sum(metrics[f"{name}_retrieval_recall@{k}"] for name in ("image", "text") for k in _KS)
    return metrics


def fold_metrics(
    image_embeddings: Float[np.ndarray, "N *V E"],
    text_embeddings: Float[np.ndarray, "M E"],
    text_image: Integer[np.ndarray, " M"],
    *,
    fold_size: int = 1000,
    image_ids: Integer[np.ndarray, " N"] | None = None,
    block: int = BLOCK,
) -> dict[str, float]:
    """`retrieval_metrics` averaged over consecutive folds of images with their texts: COCO's 1k protocol.

    Args:
      image_embeddings, text_embeddings, text_image, image_ids, block: see `retrieval_metrics`.
      fold_size: images in a fold. COCO's 5,000 test images, in the order of Karpathy's split, make five of 1,000.

    Raises:
      UserError: the images do not divide into folds.
      ValueError: as `retrieval_metrics`.
    """
    count = len(image_embeddings)
    if fold_size < 1 or count % fold_size:
        raise UserError(
            f"fold_size={fold_size}: {count} images do not divide into such folds; choose a divisor of {count}"
        )
    folds = []
    for start in range(0, count, fold_size):
        images = slice(start, start + fold_size)
        texts = np.flatnonzero((text_image >= start) & (text_image < start + fold_size))
        folds.append(
            retrieval_metrics(
                image_embeddings[images],
                text_embeddings[texts],
                text_image[texts] - start,
                image_ids=None if image_ids is None else image_ids[images],
                block=block,
            )
        )
    return {name: float(np.mean([fold[name] for fold in folds])) for name in folds[0]}


@dataclasses.dataclass(frozen=True)
class RetrievalResult:
    """The outcome of `evaluate_retrieval`.

    Attributes:
      metrics: see `retrieval_metrics`, and `fold_metrics` where `fold_size` is set.
      texts: U different captions, in order of first appearance.
      text_embeddings: [U, E] their embeddings.
      text_index: [M] every caption's row in `texts`, image after image.
      text_image: [M] every caption's image.
      image_ranks: [M] for every caption the 1-based rank of its image (the best of those with its id) among all images.
      text_ranks: [N] for every image the 1-based rank of the best of its captions among all captions.
    """

    metrics: dict[str, float]
    texts: list[str]
    text_embeddings: np.ndarray
    text_index: np.ndarray
    text_image: np.ndarray
    image_ranks: np.ndarray
    text_ranks: np.ndarray

    def recall_intervals(
        self, image_ids: Integer[np.ndarray, " N"], *, resamples: int, seed: int = 0
    ) -> dict[str, float]:
        """The bounds of each recall's 95 % bootstrap interval, `..._low95` and `..._high95`, on the whole set.

        Images are drawn with all of their captions, and those of one id together, in both directions; the galleries
        stay what they are.
        """
        images = np.unique(image_ids, return_inverse=True)[1].reshape(-1)
        sides = ((self.image_ranks, images[self.text_image]), (self.text_ranks, images))
        bounds = {}
        for name, (ranks, groups) in zip(_SIDES, sides, strict=True):
            for k in _KS:
                interval = bootstrap_interval(ranks <= k, groups=groups, resamples=resamples, seed=seed)
                bounds |= interval.metrics(f"{name}_recall@{k}")
        return bounds


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
    image_embeddings: Float[np.ndarray, "N *V E"],
    captions: Sequence[Sequence[str]],
    *,
    embed_texts: Callable[[list[str]], np.ndarray],
    image_ids: Integer[np.ndarray, " N"] | None = None,
    fold_size: int | None = None,
) -> RetrievalResult:
    """Ranks all captions for every image and all images for every caption.

    The text gallery is every caption of every image, repeated ones included, as in the protocols of COCO and Flickr30k.

    Args:
      image_embeddings: L2-normalised, one row per image.
      captions: the captions of every image, at least one each.
      embed_texts: maps n strings to L2-normalised embeddings [n, E].
      image_ids: images with equal ids are positives of one another's captions.
      fold_size: also the means over folds of so many images, as `5x1000_image_retrieval_recall@1` for five of 1,000.

    Raises:
      UserError: the images do not divide into folds.
      ValueError: for an image without captions.
    """
    counts = np.array([len(texts) for texts in captions])
    if (counts == 0).any():
        raise ValueError(f"image {int(np.argmin(counts))} has no caption; retrieval needs one for every image")
    text_image = np.repeat(np.arange(len(captions)), counts)
    texts, text_embeddings, text_index = embed_unique(embed_texts, [text for texts in captions for text in texts])
    gallery = text_embeddings[text_index]
    ranks = retrieval_ranks(image_embeddings, gallery, text_image, image_ids=image_ids)
    metrics = _metrics(ranks)
    if fold_size is not None:
        means = fold_metrics(image_embeddings, gallery, text_image, fold_size=fold_size, image_ids=image_ids)
        prefix = f"{len(image_embeddings) // fold_size}x{fold_size}"
        metrics |= {f"{prefix}_{name}": value for name, value in means.items()}
    best = (ranks_lib.best_ranks(*ranks[side]) for side in _SIDES)
    return RetrievalResult(metrics, texts, text_embeddings, text_index, text_image, *best)
