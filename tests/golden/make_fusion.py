"""Makes tests/golden/models/{bert,albef,vilt,qformer}.npz: tiny models of PyTorch's and what they compute.

Not run by the tests. It needs PyTorch and transformers:

  python -m tests.golden.make_fusion [bert albef vilt qformer]
"""

import sys
from pathlib import Path

import numpy as np

from tests.helpers import torch_fusion
from tests.helpers.torch_writers import weights_of

GOLDEN = Path(__file__).parent / "models"


def main(names):
    GOLDEN.mkdir(exist_ok=True)
    for name in names:
        model, expected = getattr(torch_fusion, name)()
        weights = {key: value.astype(np.float16) for key, value in weights_of(model).items()}
        np.savez_compressed(GOLDEN / f"{name}.npz", **weights, **{f"expected/{k}": v for k, v in expected.items()})


if __name__ == "__main__":
    main(sys.argv[1:] or ("bert", "albef", "vilt", "qformer"))
