"""Where a text ends: the position that the text towers of CLIP's kind pool at, and up to which captions are packed."""

from typing import Any

# In place of a token's id: the largest id of each text, whichever that is. OpenAI's CLIP, OpenCLIP's
# `pool_type="argmax"` and Hugging Face's `eos_token_id: 2` have this rule.
LARGEST_ID = -1


def position(ids: Any, eos_id: int) -> Any:
    """First position of the end of text in each row; 0 where it does not occur.

    Args:
      ids: token ids [..., L], of NumPy or JAX.
      eos_id: id of the end-of-text token, or `LARGEST_ID`.

    Returns:
      Positions [...].
    """
    return (ids if eos_id == LARGEST_ID else ids == eos_id).argmax(axis=-1)
