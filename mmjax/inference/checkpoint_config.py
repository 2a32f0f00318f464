"""A recipe's config that goes on from a checkpoint: its model, texts, way to prepare images, and objective."""

from typing import Any

from mmjax.config import base_config, set_group, to_dict
from mmjax.errors import UserError
from mmjax.inference import checkpoint_source

# Fields of `data` that belong to a checkpoint.
_DATA = (
    *("tokenizer", "context_length", "texts", "question_template", "caption_prompt"),
    *("mean_std", "resize", "interpolation", "antialias", "image_rule"),
)


def config_of_checkpoint(path: str) -> Any:
    """The base config, with what belongs to a checkpoint, which `init_from` names; all else is a recipe's to choose.

    Args:
      path: as `mmjax.load` takes it.

    Raises:
      UserError: it cannot be opened, or is a tower that no objective has trained.
    """
    source = to_dict(checkpoint_source.open_checkpoint(path).config)
    if not any(source["objectives"].values()):
        raise UserError(
            f"{path!r} is a tower that was trained for nothing which mmjax trains; take it by config.init_from into a"
            " recipe such as classify or lit"
        )
    config: Any = base_config()  # ml_collections types no fields
    config.name, config.variant, config.init_from = source["name"], source["variant"], path
    set_group(config, "model", source["model"])
    config.data.update({field: source["data"][field] for field in _DATA})
    config.objectives.update(source["objectives"])
    config.decoding.update(source["decoding"])
    return config
