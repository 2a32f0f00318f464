"""Inputs of a model: what it is given of a record beside its text, by modality, in training and in evaluation."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmjax.data.audio.mixture_spectrogram import MixtureSpec
from mmjax.data.audio.transform import AudioSpec
from mmjax.data.bad_example import BadExample
from mmjax.data.image import frames
from mmjax.data.image.crops import train_image
from mmjax.data.image.transforms import ImageSpec, eval_image
from mmjax.data.loading.corruption import Corruption, corrupt_arrays, corrupt_record
from mmjax.data.record import Record
from mmjax.data.video.transform import VideoSpec

Arrays = dict[str, np.ndarray]


@runtime_checkable
class Decoder(Protocol):
    """What makes arrays of encoded files of a modality, and of arrays as sources of it have them.

    One whose arrays are uint8 has an `image`, an ImageSpec by whose mean and std they are normalised on the device.

    Attributes:
      shape: of its arrays.
      dtype: of its arrays.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...

    def prepare(
        self,
        entry: Any,
        rng: np.random.Generator | None,
        *,
        rate: float | None = None,
        span: tuple[float, float] | None = None,
    ) -> np.ndarray:
        """The array of an entry of `Record["modalities"]`; `rng` draws in training, evaluation has None."""
        ...


@runtime_checkable
class ViewsDecoder(Decoder, Protocol):
    """A decoder that also makes several clips and crops of an entry, as testing takes the mean over them.

    Attributes:
      clips: how many.
      crops: of each.
    """

    clips: int
    crops: int

    def views(self, entry: Any, *, rate: float | None = None, span: tuple[float, float] | None = None) -> np.ndarray:
        """Arrays [clips * crops, ...] of an entry, the crops of a clip together."""
        ...


@dataclasses.dataclass(frozen=True)
class ModalitySpec:
    """How the arrays of a modality beside images are prepared.

    Attributes:
      name: of the modality, and of its array in a batch.
      shape: of an example's array.
      dtype: of an example's array.
      nan_allowed: whether NaN stands for a single missing value, as the encoder takes it.
      decoder: of files and raw arrays; None for arrays that are taken as they are.
      views: clips and crops of an example in evaluation, whose array then is [clips, crops, ...]; () for one without
        these axes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    nan_allowed: bool = False
    decoder: Decoder | None = None
    views: tuple[int, ...] = ()

    @classmethod
    def decoded(cls, name: str, decoder: Decoder) -> "ModalitySpec":
        """The spec of a modality whose arrays a decoder makes."""
        return cls(name, tuple(decoder.shape), str(decoder.dtype), decoder=decoder)

    def array(
        self, record: Record, rng: np.random.Generator | None, position: float | None = None
    ) -> np.ndarray | None:
        """The array of a record; None where it has no such modality.

        Args:
          record: of the source.
          rng: of training; None in evaluation.
          position: of training: where the crop of a video or a sound begins, see their decoders; None draws it.

        Raises:
          BadExample: it cannot be decoded, has another shape, or holds a value that is not finite.
        """
        value: Any = (record.get("modalities") or {}).get(self.name)
        if value is None:
            return None
        if self.decoder is not None:
            rate, span = ((record.get(field) or {}).get(self.name) for field in ("rates", "spans"))
            if self.views and isinstance(self.decoder, ViewsDecoder) and rng is None:
                return self.decoder.views(value, rate=rate, span=span).reshape(*self.views, *self.shape)
            if position is not None and isinstance(self.decoder, VideoSpec | AudioSpec | MixtureSpec):
                return self.decoder.prepare(value, rng, rate=rate, span=span, position=position)
            return self.decoder.prepare(value, rng, rate=rate, span=span)
        if isinstance(value, bytes | str | Mapping):
            kinds = {bytes: "an encoded file", str: "a text"}
            what = kinds.get(type(value), "a row of named columns")
            raise BadExample("other", f"modality {self.name!r} is {what}, and the model takes arrays as they are")
        array = np.asarray(value, self.dtype)
        if array.shape != self.shape:
            raise BadExample("other", f"modality {self.name!r} has shape {array.shape}, not {self.shape}")
        if (np.isinf(array) if self.nan_allowed else ~np.isfinite(array)).any():
            raise BadExample("other", f"modality {self.name!r} holds a value that is not finite")
        return array

    def blank(self) -> np.ndarray:
        """What stands for an array that is missing."""
        return np.zeros((*self.views, *self.shape), self.dtype)

    def in_views(self, clips: int, crops: int) -> "ModalitySpec":
        """The same of several clips and crops.

        Raises:
          TypeError: the decoder makes none.
        """
        if not isinstance(self.decoder, ViewsDecoder):
            raise TypeError(f"{type(self.decoder).__name__} makes no clips")
        decoder: Any = self.decoder
        changed = dataclasses.replace(decoder, clips=clips, crops=crops)
        return dataclasses.replace(self, decoder=changed, views=(clips, crops))


def _is_one_file(record: Record) -> bool:
    """Whether a record's sound is that of its video."""
    modalities = record.get("modalities") or {}
    return "audio" in modalities and modalities["audio"] is modalities.get("video")


@dataclasses.dataclass(frozen=True)
class InputSpecs:
    """How all that a model is given of a record beside its text is prepared.

    Attributes:
      image: of the record's image; None where the model has no use for it.
      others: of its other modalities.
      may_lack: whether the model goes on without a modality that a record lacks.
      corruptions: of evaluation examples.
    """

    image: ImageSpec | None = None
    others: tuple[ModalitySpec, ...] = ()
    may_lack: bool = False
    corruptions: tuple[Corruption, ...] = ()

    @classmethod
    def of(cls, specs: "InputSpecs | ImageSpec | None") -> "InputSpecs":
        """The specs; those of images alone may be given as they are."""
        return specs if isinstance(specs, InputSpecs) else cls(specs)

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities, the record's image before others."""
        return (*(["image"] if self.image is not None else []), *(spec.name for spec in self.others))

    def train(self, record: Record, rng: np.random.Generator) -> Arrays:
        """Arrays of a training example: those of all modalities.

        Raises:
          BadExample: one is missing or cannot be prepared.
        """
        arrays, position = self.image_arrays(record, rng), self._position(record, rng)
        for spec in self.others:
            array = spec.array(record, rng, position)
            if array is None:
                raise BadExample("no_input", f"no {spec.name}")
            arrays[spec.name] = array
        return arrays

    def image_arrays(self, record: Record, rng: np.random.Generator) -> Arrays:
        """A record's image: `image` alone, or a frame and `image_box`, as the spec says; nothing without a spec."""
        if self.image is None:
            return {}
        encoded = record.get("image")
        if encoded is None:
            raise BadExample("no_image", "no image")
        if self.image.frame:
            frame, box = frames.train_frame(encoded, self.image, rng)
            return {"image": frame, "image_box": box}
        return {"image": train_image(encoded, self.image, rng)}

    def present(self, record: Record, rng: np.random.Generator) -> Arrays:
        """Arrays of the modalities that a training example has, as `train` makes them."""
        arrays = self.image_arrays(record, rng) if record.get("image") is not None else {}
        position = self._position(record, rng)
        made = ((spec.name, self._array(spec, record, rng, position)) for spec in self.others)
        return arrays | {name: array for name, array in made if array is not None}

    def evaluate(self, record: Record, index: int = 0) -> Arrays:
        """Arrays of the modalities that an evaluation example has; an image is one array.

        Args:
          record: of the example.
          index: of the example in its source, which decides what `corruptions` draw.

        Raises:
          BadExample: one cannot be prepared.
        """
        if self.corruptions:
            record = corrupt_record(record, self.corruptions, index)
        record = self._middle_stretch(record)
        encoded = record.get("image")
        arrays = {} if encoded is None or self.image is None else {"image": eval_image(encoded, self.image)}
        made = ((spec.name, self._array(spec, record, None)) for spec in self.others)
        arrays |= {name: array for name, array in made if array is not None}
        return corrupt_arrays(arrays, self.corruptions, index) if self.corruptions else arrays

    def _middle_stretch(self, record: Record) -> Record:
        """A record whose sound is the stretch of it that evaluation mixes, and whose video is what is shown meanwhile.

        Times are those of the spans that the record has. A video that ends before the stretch does shows its own last
        seconds, and frames without a rate all of theirs; a sound that is no longer than a stretch leaves it as it is.
        """
        sound = next(((spec.name, spec.decoder) for spec in self.others if isinstance(spec.decoder, MixtureSpec)), None)
        video = next(((spec.name, spec.decoder) for spec in self.others if isinstance(spec.decoder, VideoSpec)), None)
        if sound is None or video is None:
            return record
        (heard, mixture), (seen, decoder) = sound, video
        modalities: dict[str, Any] = dict(record.get("modalities") or {})
        rates, spans, entry = dict(record.get("rates") or {}), dict(record.get("spans") or {}), modalities.get(seen)
        if modalities.get(heard) is None or not (isinstance(entry, bytes) or (entry is not None and rates.get(seen))):
            return record
        try:
            waveform = mixture.decode(modalities[heard], rate=rates.get(heard), span=spans.get(heard))
        except BadExample:  # is met again where the sound is prepared
            return record
        first = mixture.middle(len(waveform))
        if len(waveform) > mixture.samples:
            begin, end = decoder.shown(entry, rates.get(seen), spans.get(seen))
            start = spans.get(seen, (0.0, 0.0))[0] + first / mixture.sample_rate
            start = max(begin, min(start, end - mixture.seconds))
            spans[seen] = (start, min(end, start + mixture.seconds))
        # It is decoded once.
        modalities[heard], rates[heard] = mixture.stretch(waveform, first), float(mixture.sample_rate)
        spans.pop(heard, None)
        return Record(**{**record, "modalities": modalities, "rates": rates, "spans": spans})

    def _array(
        self, spec: ModalitySpec, record: Record, rng: np.random.Generator | None, position: float | None = None
    ) -> np.ndarray | None:
        """The array of a modality; None where the record lacks it, as a video without sound lacks the sound."""
        try:
            return spec.array(record, rng, position)
        except BadExample as error:
            if self.may_lack and error.reason in ("no_input", "no_track" if _is_one_file(record) else ""):
                return None
            raise

    def _position(self, record: Record, rng: np.random.Generator) -> float | None:
        """Where the crops of an example's video and sound begin: one draw for both, as a share of the beginnings.

        So the longer one of the two, in seconds, covers the shorter one. None without both, which draw by themselves.
        """
        modalities = record.get("modalities") or {}
        timed = {type(spec.decoder) for spec in self.others if modalities.get(spec.name) is not None}
        return float(rng.random()) if VideoSpec in timed and timed & {AudioSpec, MixtureSpec} else None

    def blank(self) -> Arrays:
        """What stands for arrays of evaluation that are not there."""
        size = 0 if self.image is None else self.image.size
        image = {} if self.image is None else {"image": np.zeros((size, size, 3), np.uint8)}
        return image | {spec.name: spec.blank() for spec in self.others}

    def blank_training(self) -> Arrays:
        """What stands for arrays of training that are not there, see `image_arrays`."""
        if self.image is None or not self.image.frame:
            return self.blank()
        frame, box = frames.blank_frame(self.image)
        return self.blank() | {"image": frame, "image_box": box}

    def batch_shapes(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shapes and types of what an example of a training batch has of its modalities."""
        return {name: (array.shape, array.dtype) for name, array in self.blank_training().items()}
