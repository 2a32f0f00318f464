"""Classification: one label an example, or an answer with soft scores (VQA); modalities that training hides."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.objectives import token_loss
from mmjax.objectives.cross_entropy import cross_entropy


def classification_loss(
    logits: Float[Array, "B C"],
    labels: Int[Array, " B"],
    mask: Bool[Array, " B"] | None = None,
    label_smoothing: float = 0.0,
) -> token_loss.TokenLoss:
    """Softmax cross-entropy.

    Args:
      logits: of each class.
      labels: in [0, C).
      mask: which examples have a label; None for all.
      label_smoothing: share of the target spread evenly over the classes.

    Returns:
      Sums per example, with `class_accuracy`: how often the largest logit is the label.

    Raises:
      ValueError: label_smoothing outside of [0, 1).
    """
    mask = jnp.ones(labels.shape, bool) if mask is None else mask
    hits = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return token_loss.over_tokens(cross_entropy(logits, labels, label_smoothing), mask, {"class_accuracy": hits})


def answer_loss(
    logits: Float[Array, "B A"], scores: Float[Array, "B A"], mask: Bool[Array, " B"] | None = None
) -> token_loss.TokenLoss:
    """Binary cross-entropy of each answer against its soft score, summed over the answers.

    That is the mean over answers times their number, as ViLT has it (arXiv:2102.03334, `compute_vqa`).

    Args:
      logits: of each answer.
      scores: in [0, 1], such as min(1, 0.3 x people who gave it) of VQA v2.
      mask: which examples are questions with answers; None for all.

    Returns:
      Sums per example, with `vqa_accuracy`: the score of the answer with the largest logit.
    """
    mask = jnp.ones(len(logits), bool) if mask is None else mask
    x, scores = logits.astype(jnp.float32), scores.astype(jnp.float32)
    losses = jnp.sum(jax.nn.softplus(x) - scores * x, axis=-1)
    reached = jnp.take_along_axis(scores, jnp.argmax(x, axis=-1)[:, None], axis=-1)[:, 0]
    return token_loss.over_tokens(losses, mask, {"vqa_accuracy": reached})


def modality_dropout(present: Bool[Array, "B M"], rate: float, keys: Key[Array, " B"] | None) -> Bool[Array, "B M"]:
    """Hides each present modality with probability `rate`, never an example's last one.

    Where all would go, one of them stays, each as likely as the others. The identity when `keys` is None.
    """
    if keys is None or rate == 0.0:
        return present

    def hide(key, present):
        which, how = jax.random.split(key)
        kept = present & jax.random.bernoulli(how, 1.0 - rate, present.shape)
        lucky = jnp.argmax(jnp.where(present, jax.random.uniform(which, present.shape), -1.0))
        return jnp.where(kept.any(), kept, present & (jnp.arange(len(present)) == lucky))

    return jax.vmap(hide)(keys, present)
