"""How well offsets between videos and their sounds are found: within a frame, exactly, and by how many frames not."""

import numpy as np
from jaxtyping import Float, Int

TOLERANCE = 1  # frames; people do not notice less (Chung and Zisserman 2016)


def offset_metrics(
    similarities: Float[np.ndarray, "N K"], shifts: Int[np.ndarray, " N"], *, logit_scale: float = 1.0
) -> dict[str, float]:
    """Accuracies and errors of the most similar shift of each clip, and what a constant answer reaches.

    Args:
      similarities: of each clip at each of K shifts, one frame apart; of equal ones the first counts.
      shifts: the true ones, in [0, K).
      logit_scale: of the similarities, for the loss.

    Returns:
      `offset_accuracy` within one frame and `offset_accuracy_exact`; `offset_error`, the mean of the absolute error in
      frames; the same as `chance_...`: what the best constant answer reaches on these clips, for each metric by itself;
      and `loss`, the mean cross-entropy in nats.

    Raises:
      ValueError: no clips, or a shift that is none of the K.
    """
    count, options = similarities.shape
    if not count or len(shifts) != count or shifts.min() < 0 or shifts.max() >= options:
        raise ValueError(f"{len(shifts)} shifts of {count} clips want one each, in [0, {options})")
    errors = np.abs(similarities.argmax(axis=1) - shifts)
    constant = np.abs(np.arange(options)[:, None] - shifts)
    logits = logit_scale * similarities.astype(np.float64)
    highest = logits.max(axis=1)
    sums = np.log(np.exp(logits - highest[:, None]).sum(axis=1)) + highest
    return {
        "offset_accuracy": float((errors <= TOLERANCE).mean()),
        "offset_accuracy_exact": float((errors == 0).mean()),
        "offset_error": float(errors.mean()),
        "chance_offset_accuracy": float((constant <= TOLERANCE).mean(axis=1).max()),
        "chance_offset_accuracy_exact": float((constant == 0).mean(axis=1).max()),
        "chance_offset_error": float(constant.mean(axis=1).min()),
        "loss": float((sums - logits[np.arange(count), shifts]).mean()),
    }
