"""A mmjax config for a checkpoint of another library, as if it had been trained here."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.config.schema import RunConfig
from mmjax.config.typed_groups import parse_group
from mmjax.data.config import DataConfig
from mmjax.data.image import transforms
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.errors import UserError
from mmjax.interop import model_settings, openclip_coca
from mmjax.interop.foreign_checkpoint import ForeignCheckpoint
from mmjax.interop.named_models import NamedModel
from mmjax.interop.purpose import Purpose, of_two_towers
from mmjax.models.config import ModelConfig
from mmjax.models.variants import two_tower
from mmjax.objectives.config import ObjectiveWeights

NO_TOKENIZER = "none"  # `data.tokenizer` where none lies beside the weights
_OTHER = "other"  # a mean and a standard deviation that have no name


def make_config(source: ForeignCheckpoint | NamedModel) -> RunConfig:
    """Returns the config: model, preprocessing, tokenizer and the objective that belongs to the model.

    `data.mean_std` is 'other' where the checkpoint's numbers have no name in mmjax; see `check_named`.
    """
    settings, prepared = source.settings, source.preprocessing
    if isinstance(source, ForeignCheckpoint):
        purpose = source.purpose
    else:
        purpose = openclip_coca.PURPOSE if settings.get("kind") == "coca" else of_two_towers(settings)
    as_here = settings | ({"text": model_settings.resolve_eos_id(settings["text"])} if "text" in settings else {})
    same = [name for name, known in two_tower.VARIANTS.items() if known == as_here]
    data = {
        field: prepared[field] for field in ("resize", "interpolation", "antialias", "image_rule") if field in prepared
    }
    data |= dict(texts=purpose.texts, question_template=purpose.question_template)
    if source.text_length:
        data["context_length"] = source.text_length
    decoding = _in_room(purpose, settings)
    if purpose.context_length:  # behind the longest question there is room for an answer
        room = _text_positions(settings) + 2 - decoding.get("max_tokens", 0)
        data["context_length"] = min(purpose.context_length, room)
    data["tokenizer"] = source.tokenizer or NO_TOKENIZER
    data["mean_std"] = next((name for name in transforms.MEAN_STD if _is_named(prepared, name)), _OTHER)
    config = RunConfig(
        name=source.name,
        variant=same[0] if same else source.name,
        model=parse_group(ModelConfig, settings, "model"),
        data=DataConfig(**data),
        objectives=dataclasses.replace(ObjectiveWeights(), **purpose.objectives),
        precision="float32",
    )
    return dataclasses.replace(config, decoding=dataclasses.replace(config.decoding, **decoding))


def _text_positions(settings: Mapping[str, Any]) -> int:
    """The longest text that a model has positions for, beside the queries in front of it; 0 without texts."""
    queries = (settings.get("qformer") or {}).get("queries", 0)
    return settings["text"]["context_length"] - queries if "text" in settings else 0


def _in_room(purpose: Purpose, settings: Mapping[str, Any]) -> dict[str, Any]:
    """How a model writes, in as many tokens as it has positions for."""
    limits = {"max_tokens", "min_tokens"} & purpose.decoding.keys()
    room = _text_positions(settings) // (2 if purpose.texts == "answers" and not settings.get("question") else 1)
    return {**purpose.decoding, **{name: min(room, purpose.decoding[name]) for name in limits}}


def with_right_end(tokenizer: Tokenizer | None, config: RunConfig) -> Tokenizer | None:
    """The tokenizer, checked: what the model writes ends where texts of the tokenizer do.

    Raises:
      UserError: it has another id there.
    """
    eos_id = getattr(getattr(config.model, "text", None), "eos_id", None)
    if config.objectives.caption and tokenizer is not None and tokenizer.eos_id != eos_id:
        raise UserError(
            f"data.tokenizer={config.data.tokenizer!r} ends texts with id {tokenizer.eos_id}, and the model ends them"
            f" with model.text.eos_id={eos_id}; give the model's own tokenizer"
        )
    return tokenizer


def check_named(config: RunConfig, source: ForeignCheckpoint) -> None:
    """Checks that training and evaluation could prepare images as the checkpoint wants them.

    Raises:
      UserError: its mean and standard deviation have no name in mmjax.
    """
    if config.data.mean_std == _OTHER:
        raise UserError(
            f"{source.path}: its images are normalised with mean {list(source.preprocessing['mean'])} and standard"
            f" deviation {list(source.preprocessing['std'])}; data.mean_std knows {', '.join(transforms.MEAN_STD)}"
        )


def _is_named(prepared: Mapping[str, Any], name: str) -> bool:
    mean, std = transforms.MEAN_STD[name]
    return np.allclose(prepared["mean"], mean, atol=1e-4) and np.allclose(prepared["std"], std, atol=1e-4)
