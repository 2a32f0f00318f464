"""The train state: all that training carries from step to step."""

from typing import Any

from flax import struct
from jaxtyping import Array, Int, UInt32


class TrainState(struct.PyTreeNode):
    """All that training carries from step to step.

    Attributes:
      step: number of updates done.
      params: parameters, float32.
      opt_state: of the trainable parameters.
      ema_params: moving average of the parameters, or None.
      rng: key data (two words) that every step's randomness derives from; constant.
      first_bad_step: the first update (from 1) whose loss or gradient norm was not finite; -1 while all is well.
    """

    step: Int[Array, ""]
    params: Any
    opt_state: Any
    ema_params: Any
    rng: UInt32[Array, " 2"]
    first_bad_step: Int[Array, ""]
