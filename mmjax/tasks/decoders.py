"""Decoders of videos and sounds: what the data's fields and an encoder's sizes say of them."""

import dataclasses
from typing import Any

import numpy as np

from mmjax.config.schema import RunConfig
from mmjax.data.audio.transform import AudioSpec
from mmjax.data.loading.inputs import Decoder
from mmjax.data.video.transform import VideoSpec
from mmjax.models.fusion.config import (
    AudioEncoderConfig,
    FramesEncoderConfig,
    VideoEncoderConfig,
    WhisperEncoderConfig,
)
from mmjax.models.slot_config import EncoderConfig
from mmjax.tasks import image_fields

_VIDEO = (VideoEncoderConfig, FramesEncoderConfig)


def make_decoder(config: RunConfig, encoder: EncoderConfig) -> Decoder | None:
    """What makes an encoder's arrays of files and of raw frames or samples; None for one that takes arrays as they are.

    Raises:
      UserError: a field of `data.video` or `data.audio` makes no sense.
    """
    if isinstance(encoder, _VIDEO):
        image = image_fields.image_spec_of(config.data, encoder.image_size)
        return VideoSpec(image=image, frames=encoder.frames, **dataclasses.asdict(config.data.video))
    if isinstance(encoder, (AudioEncoderConfig, WhisperEncoderConfig)):
        audio = dataclasses.asdict(config.data.audio)
        audio["preset"] = audio["preset"] or ("whisper" if isinstance(encoder, WhisperEncoderConfig) else "ast")
        return AudioSpec(frames=encoder.frames, mel_bins=encoder.mel_bins, **audio)
    return None


def is_raw(encoder: EncoderConfig, entry: Any) -> bool:
    """Whether an entry of a record is a file, or frames or samples that are prepared as those of a file are."""
    if isinstance(entry, bytes):
        return True
    array = np.asarray(entry)
    return array.dtype == np.uint8 if isinstance(encoder, _VIDEO) else array.ndim == 1
