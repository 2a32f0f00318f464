"""Models by kind: what `model.kind` in a config may be."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from jax.typing import DTypeLike

from mmjax.models.albef import ALBEF
from mmjax.models.captioner import Captioner
from mmjax.models.coca import CoCa
from mmjax.models.fusion.classifier import FusedClassifier
from mmjax.models.fusion.classifier import example as example
from mmjax.models.prefix_lm import PrefixLM
from mmjax.models.qformer import QFormer
from mmjax.models.two_tower import TwoTower
from mmjax.models.vilt import ViLT

KINDS: dict[str, type[nn.Module]] = {
    "two_tower": TwoTower,
    "captioner": Captioner,
    "coca": CoCa,
    "albef": ALBEF,
    "vilt": ViLT,
    "qformer": QFormer,
    "prefix_lm": PrefixLM,
    "fused": FusedClassifier,
}


def make_model(settings: Mapping[str, Any], dtype: DTypeLike, kernels: Mapping[str, str]) -> nn.Module:
    """Makes a model.

    Args:
      settings: `kind` (two towers where it is left out) and the settings of its class.
      dtype: compute type.
      kernels: of the towers `image` and `text`, where it has them: `xla` or `cudnn`.
    """
    settings = dict(settings)
    cls = KINDS[settings.pop("kind", "two_tower")]
    attention = {f"{tower}_attention": kernel for tower, kernel in kernels.items()}
    return cls(**settings, dtype=dtype, **attention)
