"""What a tower's fields become in its transformer."""

import jax
import pytest
from flax import linen as nn

from mmjax.models.encoders import TextTransformer, VisionTransformer
from mmjax.models.language import TextStack

SIZES = dict(width=24, depth=3, heads=2, mlp_dim=48)
OTHERS = dict(
    activation="quick_gelu",
    norm_eps=1e-3,
    scan=False,
    remat="full",
    remat_keep=1,
    dropout=0.25,
    drop_path=0.5,
    dtype="bfloat16",
    attention_impl="cudnn",  # left out, the step would run on XLA's kernel and the log would name cuDNN's
)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (VisionTransformer, dict(image_size=32, patch_size=16)),
        (TextTransformer, dict(vocab_size=9, context_length=8)),
        (TextStack, dict(vocab_size=9, context_length=8)),
    ],
)
def test_a_transformer_has_the_settings_of_its_tower(kind, more):
    class Probe(kind, kw_only=True):
        @nn.compact
        def __call__(self):
            return self.make_transformer("probe")

    made, _ = Probe(**SIZES, **OTHERS, **more).init_with_output(jax.random.key(0))
    wanted = OTHERS | {name: SIZES[name] for name in ("depth", "heads", "mlp_dim")}
    assert {name: getattr(made, name) for name in wanted} == wanted
