"""Makes tests/golden/models/{blip,gpt2,coca}.npz: tiny models of the libraries themselves and what they compute.

Not run by the tests. It needs PyTorch, transformers, open_clip_torch and timm:

  python -m tests.golden.make_writers [blip gpt2 coca]
"""

import sys
from pathlib import Path

import numpy as np

from tests.helpers import torch_writers

GOLDEN = Path(__file__).parent / "models"


def main(names):
    GOLDEN.mkdir(exist_ok=True)
    for name in names:
        model, expected = getattr(torch_writers, name)()
        weights = {key: value.astype(np.float16) for key, value in torch_writers.weights_of(model).items()}
        np.savez_compressed(GOLDEN / f"{name}.npz", **weights, **{f"expected/{k}": v for k, v in expected.items()})


if __name__ == "__main__":
    main(sys.argv[1:] or ("blip", "gpt2", "coca"))
