"""Corruptions of held-out examples, as `eval.corrupt` names them: noise, blur, other characters, missing modalities.

    image:noise0.1                        one level of one modality
    image:noise0.1/0.2/0.3                a curve over three levels
    audio:snr20/10/0,image:blur1/2/4      two modalities at once, level by level
    image:noise0.1/0.2+text:replace0.1    one after another

| kind | of | level |
|---|---|---|
| noise | image, video | standard deviation of Gaussian noise; pixels are from 0 to 1, and cut there |
| noise | series | the same, in standard deviations of each channel of the example |
| noise | table | the same, of numbers alone, in their units: sources standardise them |
| blur | image, video | standard deviation of a Gaussian, in pixels of what the model sees |
| snr | audio | signal-to-noise ratio of white noise in dB, over the sound at its rate; silence stays silent |
| delete, replace | text | probability that a character is left out, or becomes a letter from a to z |
| drop | all | probability that the modality is missing; the only one that an example has never is |

What is drawn depends on the stream's name, the modality and the example's index alone: levels share their draws, and
every run, process and machine corrupts an example alike.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from mmjax.data.audio.waveform import decode_samples
from mmjax.data.bad_example import BadExample
from mmjax.data.loading.order import example_rng
from mmjax.data.record import Record
from mmjax.errors import UserError, validate_choice
from mmjax.metrics.robustness import HARMLESS_AT_0
from mmjax.utils.random_streams import CorruptionStream, ExampleStream

KINDS = {
    "image": ("noise", "blur", "drop"),
    "video": ("noise", "blur", "drop"),
    "audio": ("snr", "drop"),
    "series": ("noise", "drop"),
    "table": ("noise", "drop"),
    "text": ("delete", "replace", "drop"),
}
_PROBABILITIES = ("drop", "delete", "replace")
_LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))
_PART = re.compile(r"(\w+):([a-z]+)(.*)")


@dataclasses.dataclass(frozen=True)
class Corruption:
    """A corruption of a modality.

    Attributes:
      modality: its name.
      kind: of the corruption.
      level: see the table above.
      numbers: of a table: how many columns are numbers, which come before the others; None for all.
    """

    modality: str
    kind: str
    level: float
    numbers: int | None = None

    def __str__(self) -> str:
        return f"{self.modality}:{self.kind}{self.level:g}"

    @property
    def is_harmless(self) -> bool:
        """Whether it changes nothing."""
        return not self.level and self.kind in HARMLESS_AT_0

    def rng(self, index: int, stream: CorruptionStream) -> np.random.Generator:
        """The random numbers of an example, the same at every level."""
        return example_rng(stream, index, ExampleStream[self.modality.upper()])


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Levels of a corruption, or of several at once.

    Attributes:
      points: the corruptions of each level.
    """

    points: tuple[tuple[Corruption, ...], ...]

    @property
    def name(self) -> str:
        """What is corrupted, and how."""
        return ",".join(f"{part.modality}:{part.kind}" for part in self.points[0])


def parse_sweeps(text: str, field: str = "eval.corrupt") -> list[Sweep]:
    """The sweeps that a config names; none for an empty text.

    Args:
      text: see above.
      field: of the config, to begin errors with.

    Raises:
      UserError: it is not of that form, a modality, kind or level is none, or a sweep or a level is named twice.
    """
    sweeps: list[Sweep] = []
    for part in text.split("+") if text.strip() else []:
        columns = [_parse_part(item.strip(), f"{field}={text!r}") for item in part.split(",")]
        if len({len(column) for column in columns}) > 1:
            counts = ", ".join(f"{column[0].modality} {len(column)}" for column in columns)
            raise UserError(f"{field}={text!r}: {part.strip()!r} has other numbers of levels ({counts}); give as many")
        sweep = Sweep(tuple(zip(*columns, strict=True)))
        names = [corruption.modality for corruption in sweep.points[0]]
        if len(set(names)) < len(names):
            raise UserError(
                f"{field}={text!r}: {part.strip()!r} names a modality twice; corrupt it in one way at a time"
            )
        if sweep.name in (other.name for other in sweeps):
            raise UserError(f"{field}={text!r} names {sweep.name} twice; name all levels in one list, such as 0.1/0.2")
        evaluated = tuple(point for point in sweep.points if not all(item.is_harmless for item in point))
        if not evaluated:
            raise UserError(f"{field}={text!r}: {part.strip()!r} changes nothing; give a level above 0")
        sweeps.append(Sweep(evaluated))
    return sweeps


def _parse_part(text: str, where: str) -> list[Corruption]:
    """The levels of one modality."""
    match = _PART.fullmatch(text)
    if match is None:
        raise UserError(f"{where}: {text!r} is no MODALITY:KINDLEVEL, such as image:noise0.1 or image:noise0.1/0.2")
    modality, kind, written = match.groups()
    validate_choice(f"{where}: modality", modality, KINDS)
    validate_choice(f"{where}: kind of {modality}", kind, KINDS[modality])
    levels = [_level(level, kind, f"{where}: {text!r}") for level in written.split("/")]
    rises = [second > first for first, second in itertools.pairwise(levels)]
    if len(set(levels)) < len(levels) or len(set(rises)) > 1 or (kind != "snr" and False in rises):
        order = "rise or fall" if kind == "snr" else "rise"
        raise UserError(f"{where}: the levels of {text!r} do not {order}; put them in order, each once")
    corruptions = [Corruption(modality, kind, level) for level in levels]
    for first, second in itertools.pairwise(corruptions):
        if str(first) == str(second):  # the names of their metrics, one of which would be lost
            raise UserError(
                f"{where}: two levels of {text!r} are {second} in six digits; give levels that differ there"
            )
    return corruptions


def _level(text: str, kind: str, where: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = math.nan
    high = 1.0 if kind in _PROBABILITIES else math.inf
    if not math.isfinite(level) or (kind != "snr" and not 0 <= level <= high):
        wanted = {"snr": "a number of dB", **dict.fromkeys(_PROBABILITIES, "a probability from 0 to 1")}
        raise UserError(f"{where}: level {text!r} is not {wanted.get(kind, 'a number from 0 on')}")
    return level


def corrupt_record(record: Record, corruptions: Sequence[Corruption], index: int) -> Record:
    """A record with its sound and text corrupted, which are prepared afterwards; what has another form stays."""
    modalities, rates = dict(record.get("modalities") or {}), dict(record.get("rates") or {})
    spans = dict(record.get("spans") or {})
    for corruption in corruptions:
        value = modalities.get(corruption.modality)
        if corruption.kind == "snr" and isinstance(value, bytes | np.ndarray):
            try:
                samples, rate = decode_samples(value, rates.get("audio"), spans.get("audio"))
            except BadExample:  # is met again where the sound is prepared
                continue
            spans = {name: span for name, span in spans.items() if name != "audio"}
            modalities["audio"], rates["audio"] = _with_noise(samples, corruption, index), rate
        elif corruption.kind in ("delete", "replace") and isinstance(value, str):
            modalities["text"] = _with_characters(value, corruption, index)
    return Record(**{**record, "modalities": modalities, "rates": rates, "spans": spans})


def _with_noise(samples: np.ndarray, corruption: Corruption, index: int) -> np.ndarray:
    """Samples with white noise of a ratio of powers; not cut to [-1, 1]."""
    signal = samples.astype(np.float64)
    power = float(np.mean(signal**2)) if len(signal) else 0.0
    noise = _normal(corruption.rng(index, CorruptionStream.NOISE), len(signal))
    return (signal + math.sqrt(power) * 10 ** (-corruption.level / 20) * noise).astype(np.float32)


def _with_characters(text: str, corruption: Corruption, index: int) -> str:
    rng = corruption.rng(index, CorruptionStream.CHARACTERS)
    is_hit = rng.random(len(text)) < corruption.level
    letters = _LETTERS[(rng.random(len(text)) * len(_LETTERS)).astype(np.int64)].tolist()
    if corruption.kind == "delete":
        return "".join(character for character, hit in zip(text, is_hit, strict=True) if not hit)
    return "".join(letter if hit else character for character, letter, hit in zip(text, letters, is_hit, strict=True))


def corrupt_arrays(
    arrays: Mapping[str, np.ndarray], corruptions: Sequence[Corruption], index: int
) -> dict[str, np.ndarray]:
    """Prepared arrays of an example with noise or blur, or without some of them."""
    result = dict(arrays)
    for corruption in corruptions:
        name = corruption.modality
        if name not in result or corruption.is_harmless:
            continue
        if corruption.kind == "drop":
            is_missing = corruption.rng(index, CorruptionStream.DROP).random() < corruption.level
            if is_missing and len(result) > 1:
                del result[name]
        elif corruption.kind in ("noise", "blur"):
            result[name] = _changed(result[name], corruption, index)
    return result


def _changed(array: np.ndarray, corruption: Corruption, index: int) -> np.ndarray:
    """An array with noise or blur."""
    level, values = corruption.level, array.astype(np.float64)
    if corruption.kind == "blur":
        # Imported here: most evaluations do without.
        from scipy.ndimage import gaussian_filter

        result = gaussian_filter(values, (*(0,) * (array.ndim - 3), level, level, 0), mode="nearest")
    else:
        noise = _normal(corruption.rng(index, CorruptionStream.NOISE), array.size).reshape(array.shape)
        if corruption.modality in ("image", "video"):
            scale = 255.0 if array.dtype == np.uint8 else 1.0
        elif corruption.modality == "series":
            scale = np.nanstd(values, axis=0, keepdims=True)
        else:
            scale = np.arange(array.shape[-1]) < (array.shape[-1] if corruption.numbers is None else corruption.numbers)
        result = values + level * scale * noise
    return np.rint(np.clip(result, 0, 255)).astype(np.uint8) if array.dtype == np.uint8 else result.astype(array.dtype)


def _normal(rng: np.random.Generator, count: int) -> Float64[np.ndarray, " n"]:
    """Normal numbers by Box and Muller: only `random()` is promised to give the same sequence in every version."""
    half = -(-count // 2)
    radius, angle = np.sqrt(-2 * np.log1p(-rng.random(half))), 2 * np.pi * rng.random(half)
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
