"""Shapes that the attention kernel for TPUs takes, and the on-chip memory that they need."""

import math

# Tiles of bfloat16 in on-chip memory: rows of tokens, and lanes.
ROWS, LANES = 16, 128
# Tokens of an example: the tiles of fewer would be mostly empty, and logits of more not fit on the chip.
TOKENS = range(128, 1025)
# A core's vector memory in MiB, by a part of jax's `device_kind`; first match wins. v4 and v5p: libtpu's message when a
# kernel wants more; v5e and v6e: jax's table of TPUs (jax.experimental.pallas.tpu.get_tpu_info).
_MEMORY = {"TPU v6": 128, "TPU v5p": 64, "TPU v5 lite": 128, "TPU v5e": 128, "TPU v5": 64, "TPU v4": 16}


def group_of_heads(heads: int, head_dim: int) -> int:
    """Fewest heads whose widths fill whole lanes; 0 where not even all of them do."""
    group = LANES // math.gcd(LANES, head_dim)
    return 0 if heads % group else group


def round_up_to_tile(size: int, tile: int) -> int:
    """A size up to whole tiles."""
    return -(-size // tile) * tile


def bytes_needed(length: int, heads: int, head_dim: int, *, backward: bool = True) -> int:
    """On-chip bytes that the kernel works in for one example; within a tenth of what the compiler reports.

    Queries, keys and values (and the output's gradient) are there twice, as the next example's are fetched while one's
    are worked on, and once more with zeros behind the last token; results are there twice. The heads of a group leave
    their results in float32, and there are two arrays of float32 logits.
    """
    width, rows, keys = heads * head_dim, round_up_to_tile(length, ROWS), round_up_to_tile(length, LANES)
    read, written = (4, 3) if backward else (3, 1)
    blocks = 2 * width * (2 * rows * (read + written) + keys * read)
    results = 4 * written * group_of_heads(heads, head_dim) * keys * round_up_to_tile(head_dim, LANES)
    return blocks + results + 2 * 4 * keys**2


def on_chip_memory(device_kind: str) -> int:
    """Bytes that a kernel may use of a TPU core's vector memory; 0 where that is not known."""
    return next((size << 20 for kind, size in _MEMORY.items() if kind in device_kind), 0)
