"""How the inputs of a tower of video or sound were prepared, by preprocessor_config.json beside its weights."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data.audio import log_mel
from mmjax.data.image import transforms
from mmjax.errors import UserError
from mmjax.interop.media_configs import Settings
from mmjax.interop.preprocessing import HF_FILES, read_hf_file
from mmjax.interop.tensor_files import read_json

# Whose log-mel spectrograms a tower was trained on, as `data.audio.preset` has them.
PRESETS = {"audio-spectrogram-transformer": "ast", "whisper": "whisper"}
_HOP = {"ast": 0.01, "whisper": 0.01}  # seconds
_WINDOW = {"whisper": 400}  # samples, of extractors that have a field for it

log = logging.getLogger("mmjax")


def read_preparation(folder: Path, kind: str, settings: Settings) -> dict[str, Any]:
    """Fields of a run's config by which a tower's inputs are prepared as they were there; of what is not known, none.

    What a file says that no field has is a line of the log.

    Args:
      folder: of the weights.
      kind: of the model, a key of `media_configs.FORMATS`.
      settings: by slot, as config.json has them.

    Raises:
      UserError: a file is no JSON, or contradicts config.json.
    """
    if "video" in settings:
        processor = read_hf_file(folder)
        return {} if processor is None else _of_frames(*processor, settings["video"])
    return _of_sounds(folder, PRESETS[kind], settings["audio"])


def _of_frames(file: Path, fields: Mapping[str, Any], tower: Mapping[str, Any]) -> dict[str, Any]:
    size, side = fields.get("crop_size" if fields.get("do_center_crop", True) else "size"), tower["image_size"]
    sides = [size] if isinstance(size, int) else [*size.values()] if isinstance(size, Mapping) else []
    if any(number != side for number in sides):
        raise UserError(f"{file}: crops of {size}, but config.json has image_size={side}; correct one of the two")
    if not {"image_mean", "image_std"} <= fields.keys():
        return {}
    mean, std = normalisation(fields)
    for name, numbers in transforms.MEAN_STD.items():
        if all(np.allclose(a, b, atol=1e-4) for a, b in zip((mean, std), numbers, strict=True)):
            return {"data.mean_std": name}
    return {"data.mean_std": f"mean {_rounded(mean)} and deviation {_rounded(std)}"}


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(values, 6).tolist()


def normalisation(fields: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation by which pixels from 0 to 1 become what a tower sees, each of three channels.

    ViViT's processor scales to -1 to 1 (`offset`) before it takes `image_mean` and `image_std`.

    Args:
      fields: of the processor.
    """
    is_scaled, is_normalised = fields.get("do_rescale", True), fields.get("do_normalize", True)
    scale = 255 * float(fields.get("rescale_factor", 1 / 255)) if is_scaled else 255.0
    offset = float(bool(fields.get("offset", False)) and is_scaled)
    mean, std = (
        np.broadcast_to(np.asarray(fields[name] if is_normalised else default, np.float64), 3)
        for name, default in (("image_mean", 0.0), ("image_std", 1.0))
    )
    return (mean + offset) / scale, std / scale


def _of_sounds(folder: Path, preset: str, tower: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"data.audio.preset": preset}
    file = next((folder / name for name in HF_FILES[::-1] if (folder / name).is_file()), None)
    fields = {} if file is None else read_json(file)
    fields = fields.get("feature_extractor", fields)
    if file is None or not fields:
        return result
    bins = "num_mel_bins" if "num_mel_bins" in fields else "feature_size"
    for name, ours, value in (
        (bins, "num_mel_bins", tower["mel_bins"]),
        ("max_length", "max_length", tower["frames"]),
        ("nb_max_frames", "2 * max_source_positions", tower["frames"]),
    ):
        if fields.get(name, value) != value:
            raise UserError(
                f"{file}: {name}={fields[name]!r}, but config.json has {ours}={value}; correct one of the two"
            )
    spec = log_mel.preset(preset)
    result["data.audio.sample_rate"] = fields.get("sampling_rate", spec.sample_rate)
    normalises = preset == "ast" and fields.get("do_normalize", True)
    for name, value, known in (
        ("do_normalize", fields.get("do_normalize", preset == "ast"), preset == "ast"),
        ("mean", fields.get("mean") if normalises else None, spec.mean),
        ("std", fields.get("std") if normalises else None, spec.std / 2),
        ("n_fft", fields.get("n_fft"), _WINDOW.get(preset)),
        ("hop_length", fields.get("hop_length"), round(_HOP[preset] * result["data.audio.sample_rate"])),
    ):
        if value is not None and known is not None and not np.isclose(float(value), float(known), rtol=1e-6):
            log.warning(
                "%s: %s=%s, and data.audio.preset=%r has %.8g: its spectrograms are others than those of its training",
                *(file, name, value, preset, known),
            )
    return result
