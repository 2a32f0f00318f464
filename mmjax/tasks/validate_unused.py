"""Fields that are set although the model has no use for them, and those of decoding, which any run carries."""

import ml_collections

from mmjax.errors import UserError
from mmjax.models import generation
from mmjax.tasks import config_queries


def check_use(config: ml_collections.ConfigDict) -> None:
    """Checks fields that would otherwise be passed over in silence.

    Raises:
      UserError: naming the field.
    """
    if config.data.blind and not config_queries.has_image(config):
        raise UserError(
            f"data.blind=True: model.kind={config.model.kind!r} is given modalities, not images and texts; set it to"
            " False, and model.modality_dropout to train with modalities hidden"
        )
    writes = config_queries.has_text(config) and config.objectives.caption and config.data.texts != "answers"
    if config.eval.meteor and not writes:
        trained = ", ".join(name for name, weight in config.objectives.items() if weight)
        what = "answers, not captions" if config.data.texts == "answers" else "no captions"
        raise UserError(f"eval.meteor=True: a model trained with objectives.{trained} writes {what}; set it to False")
    _check_decoding(config)


def _check_decoding(config: ml_collections.ConfigDict) -> None:
    settings = config.decoding.to_dict()
    for name in ("max_tokens", "min_tokens"):
        if settings[name] < 0:
            raise UserError(f"decoding.{name}={settings[name]} must not be negative; 0 leaves it to the model")
    # What depends on the tokens there is room for is checked again where text is written.
    settings["max_tokens"] = settings["max_tokens"] or max(1, settings["min_tokens"])
    generation.Decoding(**settings, eos_id=0, pad_id=0)
