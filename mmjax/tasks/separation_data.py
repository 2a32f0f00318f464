"""What a separator takes of its data: mixtures as the config describes them, and sources that have sounds."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.config.schema import RunConfig
from mmjax.data.audio.mixture_spectrogram import MixtureSpec
from mmjax.data.loading.separation_transform import SOUND
from mmjax.data.source_protocols import Source
from mmjax.errors import UserError
from mmjax.models.config import SeparatorConfig
from mmjax.tasks.first_records import first_records


def mixture_spec(config: RunConfig) -> MixtureSpec:
    """How the sounds of `data.separation` are cut, mixed and transformed.

    Raises:
      UserError: a field makes no sense.
    """
    return MixtureSpec(**dataclasses.asdict(config.data.separation))


def check_model(config: RunConfig) -> None:
    """Checks a separator's sizes against its spectrograms.

    Raises:
      UserError: the U-Net cannot halve them as often as it has levels; or there are none.
    """
    model = config.model
    if not isinstance(model, SeparatorConfig):  # a plugin's, which may see them in another way
        return
    frames, bins = mixture_spec(config).magnitudes_shape
    if not model.channels or min(model.channels) < 1 or model.features < 1:
        raise UserError(
            f"model.channels={model.channels}, model.features={model.features}: give one level or more, and numbers"
            " from 1 up"
        )
    unit = 1 << len(model.channels)
    for field, size in (("frames", frames), ("log_bins", bins)):
        if size % unit:
            raise UserError(
                f"model.channels={model.channels} halves spectrograms {len(model.channels)} times, and"
                f" data.separation.{field} makes {size} of them; make that a multiple of {unit}, or have fewer levels"
            )


def has_sound(record: Mapping[str, Any] | None) -> bool:
    """Whether a record has a sound."""
    return bool(record) and (record.get("modalities") or {}).get(SOUND) is not None


def check_sounds(sources: Sequence[Source]) -> None:
    """Checks that the first examples of every source have sounds; one alone might be a bad one.

    Raises:
      UserError: none of them has.
    """
    for source in sources:
        records = list(first_records(source))
        if any(record is not None for record in records) and not any(map(has_sound, records)):
            raise UserError(
                f"data.train: {source.name!r} has no sounds, which model.kind='separator' separates; give videos with"
                " sound, or sounds beside them (docs/media.md)"
            )
