"""A mmjax config for a checkpoint of another library, as if it had been trained here."""

import numpy as np
from ml_collections import ConfigDict

from mmjax.config import schema
from mmjax.data.image import transforms
from mmjax.errors import UserError
from mmjax.interop import model_settings
from mmjax.interop.foreign_checkpoint import ForeignCheckpoint
from mmjax.models.variants import two_tower

NO_TOKENIZER = "none"  # `data.tokenizer` where none lies beside the weights
_OTHER = "other"  # a mean and a standard deviation that have no name


def make_config(source: ForeignCheckpoint) -> ConfigDict:
    """Returns the config: model, preprocessing, tokenizer and the objective that belongs to the model.

    `data.mean_std` is 'other' where the checkpoint's numbers have no name in mmjax; see `check_named`.
    """
    config = schema.base_config()
    config.name = source.name
    as_here = source.settings | {"text": model_settings.resolve_eos_id(source.settings["text"])}
    same = [name for name, settings in two_tower.VARIANTS.items() if settings == as_here]
    config.variant = same[0] if same else config.name
    with config.unlocked(), config.ignore_type():
        config.model = source.settings
        config.data.tokenizer = source.tokenizer or NO_TOKENIZER
    prepared = source.preprocessing
    config.data.mean_std = next((name for name in transforms.MEAN_STD if _is_named(prepared, name)), _OTHER)
    for field in ("resize", "interpolation", "antialias", "image_rule"):
        config.data[field] = prepared.get(field, config.data[field])
    objective = "itc" if source.settings["logit_bias_init"] is None else "sigmoid"
    config.objectives[objective] = 1.0
    config.precision = "float32"
    return config


def check_named(config: ConfigDict, source: ForeignCheckpoint) -> None:
    """Checks that training and evaluation could prepare images as the checkpoint wants them.

    Raises:
      UserError: its mean and standard deviation have no name in mmjax.
    """
    if config.data.mean_std == _OTHER:
        raise UserError(
            f"{source.path}: its images are normalised with mean {list(source.preprocessing['mean'])} and standard"
            f" deviation {list(source.preprocessing['std'])}; data.mean_std knows {', '.join(transforms.MEAN_STD)}"
        )


def _is_named(prepared, name: str) -> bool:
    mean, std = transforms.MEAN_STD[name]
    return np.allclose(prepared["mean"], mean, atol=1e-4) and np.allclose(prepared["std"], std, atol=1e-4)
