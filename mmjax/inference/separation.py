"""Sounds of videos, separated by what is seen: files of any length, in windows that overlap."""

import dataclasses
import functools
import itertools
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32

from mmjax.data.audio.mixture_spectrogram import MixtureSpec
from mmjax.data.bad_example import BadExample
from mmjax.data.loading.inputs import InputSpecs
from mmjax.data.loading.separation_transform import SOUND
from mmjax.data.record import Record
from mmjax.data.video.transform import VideoSpec
from mmjax.errors import UserError
from mmjax.inference.modality_inputs import check_rates, read_entry
from mmjax.inference.restored_model import RestoredModel
from mmjax.tasks import separation_data
from mmjax.utils.optional_imports import require

Region = tuple[float, float, float, float]


class SeparatedSound(NamedTuple):
    """The sound of a video in two parts, which add up to it.

    Attributes:
      sound: what its pictures explain.
      rest: what they do not.
      sample_rate: of both, in Hz.
    """

    sound: Float32[np.ndarray, " N"]
    rest: Float32[np.ndarray, " N"]
    sample_rate: int


def separate(
    videos: Sequence[Any],
    masks: Callable[[np.ndarray, np.ndarray], np.ndarray | None],
    specs: InputSpecs,
    spec: MixtureSpec,
    *,
    region: Region | None = None,
    rates: Mapping[str, float] | None = None,
) -> list[SeparatedSound]:
    """Separates the sounds of videos.

    A sound that is longer than the model's mixtures is cut into windows of that length, every half of it. A window is
    separated by its own pictures, and what overlaps is added with the weights of a Hann window.

    Args:
      videos: see `Model.separate`.
      masks: from arrays of pictures and magnitudes, a row a window, to masks.
      specs: how pictures are prepared.
      spec: how sounds are.
      region: see `VideoSpec`.
      rates: of raw frames and samples, by modality.

    Raises:
      UserError: one cannot be read, by its number, or has no sound.
    """
    specs = _in_region(specs, region)
    rates = check_rates(rates, (*specs.names, SOUND))
    return [_separate(index, entry, masks, specs, spec, rates) for index, entry in enumerate(videos)]


def to_list(videos: Any) -> list[Any]:
    """Videos as a list.

    Raises:
      UserError: it is one video.
    """
    if isinstance(videos, (str, bytes, os.PathLike, Mapping)) or not isinstance(videos, Iterable):
        raise UserError("videos: give a list of paths, of files as bytes, or of pictures and sounds by name")
    return list(videos)


def _in_region(specs: InputSpecs, region: Region | None) -> InputSpecs:
    """The specs of pictures of which a region is seen.

    Raises:
      UserError: it is not four numbers; or the model sees no videos.
    """
    if region is None:
        return specs
    edges = tuple(region) if isinstance(region, Iterable) and not isinstance(region, (str, bytes)) else ()
    if len(edges) != 4 or not all(isinstance(edge, numbers.Real) for edge in edges):
        raise UserError(
            f"region={region!r}: give (left, top, right, bottom), shares of the picture's sides from 0 to 1"
        )
    if not all(isinstance(one.decoder, VideoSpec) for one in specs.others) or not specs.others:
        raise UserError(f"region={region}: the model decodes no videos; crop what it is given")
    left, top, right, bottom = map(float, edges)
    others = []
    for one in specs.others:
        decoder: Any = one.decoder
        others.append(dataclasses.replace(one, decoder=dataclasses.replace(decoder, region=(left, top, right, bottom))))
    return dataclasses.replace(specs, others=tuple(others))


def _separate(
    index: int,
    entry: Any,
    masks: Callable[[np.ndarray, np.ndarray], np.ndarray | None],
    specs: InputSpecs,
    spec: MixtureSpec,
    rates: Mapping[str, float],
) -> SeparatedSound:
    (seen,) = specs.names
    values = dict(entry) if isinstance(entry, Mapping) else {seen: entry, SOUND: entry}
    if missing := {seen, SOUND} - values.keys():
        raise UserError(f"videos[{index}] has no {' and no '.join(sorted(missing))}; give a file, or both by name")
    is_file = values[seen] is values[SOUND]
    read = {name: read_entry(value, name) for name, value in values.items() if name == seen or not is_file}
    read.setdefault(SOUND, read[seen])
    try:
        waveform = spec.decode(read[SOUND], rate=rates.get(SOUND))
        starts = _starts(len(waveform), spec.samples)
        pictures = _pictures(read[seen], seen, specs, spec, starts, rates)
    except (BadExample, UserError) as error:
        raise UserError(f"videos[{index}]: {error}") from error
    stretches = [spec.stretch(waveform, start) for start in starts]
    window_masks = masks(pictures, np.stack([spec.magnitudes(stretch) for stretch in stretches]))
    assert window_masks is not None  # of one window or more
    total = np.zeros(starts[-1] + spec.samples)
    weight = np.zeros_like(total)
    fade = np.hanning(spec.samples + 2)[1:-1]
    for start, stretch, mask in zip(starts, stretches, window_masks, strict=True):
        total[start : start + spec.samples] += fade * spec.apply(mask, stretch)[0]
        weight[start : start + spec.samples] += fade
    sound = (total / weight)[: len(waveform)].astype(np.float32)
    return SeparatedSound(sound, waveform - sound, spec.sample_rate)


def _starts(samples: int, window: int) -> list[int]:
    """The first samples of windows, every half of one, that cover all samples."""
    step = max(1, window // 2)
    return list(range(0, max(1, samples - window + step), step))


def _pictures(
    entry: Any,
    seen: str,
    specs: InputSpecs,
    spec: MixtureSpec,
    starts: Sequence[int],
    rates: Mapping[str, float],
) -> np.ndarray:
    """What is seen in each window; what begins behind the last frame has the pictures of the window before."""
    arrays: list[np.ndarray] = []
    is_timed = bool(specs.others) and isinstance(specs.others[0].decoder, VideoSpec)
    for start in starts:
        record = Record(id=0, image=entry) if seen == "image" else Record(id=0, modalities={seen: entry})
        if seen in rates:
            record["rates"] = {seen: float(rates[seen])}
        if is_timed and len(starts) > 1:
            record["spans"] = {seen: (start / spec.sample_rate, (start + spec.samples) / spec.sample_rate)}
        try:
            arrays.append(specs.evaluate(record)[seen])
        except BadExample as error:
            if error.reason != "empty" or not arrays:
                raise
            arrays.append(arrays[-1])
        if not is_timed:
            return np.stack(arrays * len(starts))
    return np.stack(arrays)


def sound_files(videos: Sequence[Any], folder: Any) -> list[tuple[Path, Path]]:
    """The files NAME-sound.wav and NAME-rest.wav of each video; NAME is its file's, or `video` and its number.

    Raises:
      UserError: two are called alike, one is there already, the folder cannot be made, or soundfile is not installed.
    """
    require("soundfile", extra="audio", where="Model.separate(folder=...)")
    names = [
        Path(os.fspath(video)).stem if isinstance(video, (str, os.PathLike)) else f"video{index}"
        for index, video in enumerate(videos)
    ]
    for name, group in itertools.groupby(sorted(names)):
        if len(list(group)) > 1:
            raise UserError(f"folder={str(folder)!r}: two videos are called {name!r}; separate them into two folders")
    folder = Path(folder)
    files = [(folder / f"{name}-sound.wav", folder / f"{name}-rest.wav") for name in names]
    for path in itertools.chain.from_iterable(files):
        if path.exists():
            raise UserError(f"folder={str(folder)!r}: {path.name} is there already; remove it, or give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder={str(folder)!r}: cannot be made ({error.strerror}); give another folder") from error
    return files


def write_sounds(separated: Sequence[SeparatedSound], files: Sequence[tuple[Path, Path]]) -> None:
    """Writes both parts of sounds, each to its file of `sound_files`, as WAV of float32."""
    soundfile = require("soundfile", extra="audio", where="Model.separate(folder=...)")
    for pair, parts in zip(files, separated, strict=True):
        for path, samples in zip(pair, (parts.sound, parts.rest), strict=True):
            soundfile.write(path, samples, parts.sample_rate, format="WAV", subtype="FLOAT")


class SeparatingModel(RestoredModel):
    """A restored model that may have been trained to separate sounds; what is not listed is as in `RestoredModel`."""

    @functools.cached_property
    def _separate(self) -> Any:
        return jax.jit(self._task.separate)

    def separate(
        self,
        videos: Iterable[Any],
        *,
        region: Region | None = None,
        rates: Mapping[str, float] | None = None,
        folder: Any = None,
    ) -> list[SeparatedSound]:
        """Separates the sounds of videos into what their pictures explain and the rest, which add up to the sound.

        Args:
          videos: a list of paths or of files as bytes, of videos with sound and of any length; or of pictures and sound
            by name, such as {"video": uint8 [T, H, W, 3], "audio": float32 [N]}.
          region: the part of the pictures that is looked at: (left, top, right, bottom) in shares of their sides, as
            (0, 0, 0.5, 1) for the left half; None for all of them.
          rates: of raw frames and samples a second, by name.
          folder: where NAME-sound.wav and NAME-rest.wav are written, too; files that are there stay, and are refused.

        Raises:
          UserError: one cannot be read, or has no sound; the model separates no sounds; or, before any is separated,
            the files cannot be written, see `sound_files`.
        """
        self._check("separate")
        entries, spec = to_list(videos), separation_data.mixture_spec(self.config)
        files = None if folder is None else sound_files(entries, folder)
        masks = lambda *columns: self._run(self._separate, columns)
        specs = self._task.input_specs
        separated = separate(entries, masks, specs, spec, region=region, rates=rates)
        if files is not None:
            write_sounds(separated, files)
        return separated
