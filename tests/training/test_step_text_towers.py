"""A text tower of XLM-RoBERTa's kind trains alike on any mesh."""

import numpy as np
import pytest

from mmjax.config import set_group
from tests.helpers import mesh_steps

ROBERTA = dict(norm="post", causal=False, mask_padding=True, pad_id=1, positions="after_pad", token_types=1)
ROBERTA |= dict(embedding_norm=True, final_norm=False, pool="mean", projection="mlp")


def change(config):
    model = config.model.to_dict()
    set_group(config, "model", model | {"text": model["text"] | ROBERTA})


@pytest.fixture(scope="module")
def one():
    run = mesh_steps.Steps((1, 1, 1), change)
    return run.train(run.start())


@pytest.mark.parametrize("mesh", [(8, 1, 1), (2, 2, 2)])
def test_on_eight_devices(mesh, one):
    run = mesh_steps.Steps(mesh, change)
    losses, gradient, _ = run.train(run.start())
    np.testing.assert_allclose(losses, one[0], rtol=1e-5)
    assert mesh_steps.relative(gradient, one[1]) <= 1e-5
    assert one[0][-1] < one[0][0]
