"""Records, as sources give them: their fields, which captions they have, and their ids."""

import dataclasses
import hashlib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.written_list import parse_list
from mmjax.data.text.text_encoding import decode_text
from mmjax.errors import UserError
from mmjax.utils.once import Once
from mmjax.utils.terminal import printable

log = logging.getLogger("mmjax.data")

_WEIGHT = re.compile(r"(.+)@(\d+\.?\d*|\.\d+)")


class Record(TypedDict):
    """One example, as a source gives it: nothing decoded, cropped or tokenised yet.

    Attributes:
      id: 64-bit unsigned. Examples with equal ids are positives of one another: the id of an image, a class or a
        caption.
      image: an encoded file (JPEG, PNG, ...) as bytes, or uint8 [H, W, 3].
      captions: at least one; training draws one per visit, evaluation keeps all. Sources of pairs have them.
      caption_weights: how likely training draws each of the captions; all alike where it is left out.
      label: index into the source's `class_names`; only in sources that have them.
      labels: indices into `class_names`, ascending, of all that the image shows (maybe none); instead of `label`, in
        sources whose images may show several.
      references: texts that each say all that a caption should, to compare written ones with; where it is left out, the
        captions are.
      question: about the image; with `answers`, in sources of questions.
      answers: what people answered, ten of them in VQA v2, with repetitions; where the answer is certain it is there
        ten times, so that the same rule gives it 1.
      answer_type: `yes/no`, `number` or `other`, which results are broken down by.
      question_type: what kind of question it is, in the source's words.
      question_id: the benchmark's number of the question.
      task: what is to be written about a sound, such as `transcribe` or `translate`, and
      language: that is spoken in it, such as `en`; what `data.caption_prompt` may name.
      modalities: by name an array, or an encoded file (mp4, wav, flac, ...) as bytes; None (or no entry) where one is
        missing. Arrays of `video` are uint8 [frames, H, W, 3], of `audio` float32 [samples], mono in [-1, 1], of
        `series` float32 [steps, channels], of `table` float32 [columns]: numbers, then categories as whole numbers, NaN
        where a value is missing; or a mapping, the values of `SourceOptions.columns` by name, and `text` a string.
      rates: of modalities by name: frames a second of `video`, where it is known; samples a second (Hz) of `audio`,
        which an array of samples must have. A file has its rate in itself.
      spans: of modalities by name: (start, end) in seconds, where the example is that part of a file alone.
      annotation: the structure behind the image, as plain Python; only in sources that know it.
      path: where the image lies, to be named when it cannot be decoded; only in sources made of files.
    """

    id: int
    image: NotRequired[bytes | np.ndarray]
    captions: NotRequired[list[str]]
    caption_weights: NotRequired[list[float]]
    label: NotRequired[int]
    labels: NotRequired[list[int]]
    references: NotRequired[list[str]]
    question: NotRequired[str]
    answers: NotRequired[list[str]]
    answer_type: NotRequired[str]
    question_type: NotRequired[str]
    question_id: NotRequired[int]
    task: NotRequired[str]
    language: NotRequired[str]
    modalities: NotRequired[Mapping[str, np.ndarray | bytes | str | Mapping[str, Any] | None]]
    rates: NotRequired[dict[str, float]]
    spans: NotRequired[dict[str, tuple[float, float]]]
    annotation: NotRequired[dict[str, Any]]
    path: NotRequired[str]


# Fields of a record that are lists of texts.
_LISTS = ("captions", "references", "answers")
# Arrays of modalities: how many axes, and what they are.
_AXES = {
    "video": (4, "uint8 [frames, H, W, 3]"),
    "series": (2, "float32 [steps, channels]"),
    "table": (1, "float32 [columns]"),
}


def record_mistake(record: Any) -> str:
    """What is wrong with a record's form, in words; "" where nothing is. What is in its arrays is not looked at."""
    if not isinstance(record, Mapping):
        return f"gives {type(record).__name__}, not a Record"
    number = record.get("id")
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or not 0 <= number < 2**64:
        return f"has id={number!r}; give a 64-bit unsigned integer, such as stable_id(...)"
    for field in Record.__annotations__.keys() - record.keys():
        for near in (field.removesuffix("s"), f"{field}s"):
            if near != field and near in record and near not in Record.__annotations__:
                return f"has an entry {near!r}, which nothing reads; it is called {field!r}"
    for field in _LISTS:
        texts = record.get(field, [])
        if isinstance(texts, str) or not isinstance(texts, Sequence) or not all(isinstance(x, str) for x in texts):
            return f"has {field}={texts!r}; give a list of texts"
    image = record.get("image")
    if image is not None and not isinstance(image, bytes):
        shape, dtype = getattr(image, "shape", ()), getattr(image, "dtype", type(image).__name__)
        if dtype != np.uint8 or len(shape) != 3 or shape[-1] != 3:
            return f"has an image of {dtype} {list(shape)}; give an encoded file as bytes, or uint8 [H, W, 3]"
    return _modalities_mistake(record)


def _modalities_mistake(record: Mapping[str, Any]) -> str:
    """What is wrong with the form of `modalities`, `rates` or `spans`; "" where nothing is."""
    modalities, rates, spans = (record.get(field, {}) for field in ("modalities", "rates", "spans"))
    if not isinstance(modalities, Mapping) or not all(isinstance(name, str) for name in modalities):
        return f"has modalities={_brief(modalities)}; give a dict of arrays, or of files as bytes, by name"
    for name, value in modalities.items():
        if value is None or isinstance(value, bytes | {"table": Mapping, "text": str}.get(name, bytes)):
            continue
        if not isinstance(value, np.ndarray):
            return f"has modalities[{name!r}] of {type(value).__name__}; give an array, or a file as bytes"
        rank, form = _AXES.get(name, (value.ndim, ""))
        if value.ndim != rank or (name == "video" and value.dtype == np.uint8 and value.shape[-1] != 3):
            return f"has modalities[{name!r}] of {value.dtype} {list(value.shape)}; give {form}"
        if name == "audio" and value.ndim == 1:
            if not np.issubdtype(value.dtype, np.floating):
                return f"has modalities['audio'] of {value.dtype}; give samples as float32 in [-1, 1]"
            if isinstance(rates, Mapping) and name not in rates:
                return "has samples in modalities['audio'] without a rate; give rates={'audio': samples a second}"
    for field, values in (("rates", rates), ("spans", spans)):
        if not isinstance(values, Mapping):
            return f"has {field}={_brief(values)}; give a dict by the modality's name"
        for name, value in values.items():
            if name not in modalities:
                return f"has {field}[{name!r}], which is not among its modalities: {', '.join(modalities) or 'none'}"
            if field == "rates" and not (_is_number(value) and value > 0):
                return f"has rates[{name!r}]={_brief(value)}; give frames or samples a second, above 0"
            if field == "spans" and not _is_span(value):
                return f"has spans[{name!r}]={_brief(value)}; give (start, end) in seconds, 0 <= start < end"
    return ""


def _brief(value: Any) -> str:
    """The beginning of a value as Python writes it, in one line."""
    return " ".join(repr(value).split())[:80]


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _is_span(value: Any) -> bool:
    if not isinstance(value, Sequence) or len(value) != 2 or not all(map(_is_number, value)):
        return False
    return 0 <= value[0] < value[1]


def stable_id(*parts: str | int) -> int:
    """Returns a 64-bit unsigned hash of `parts` that is the same in every process, on every machine (BLAKE2b).

    Parts are hashed with their lengths, so ("ab", "c") and ("a", "bc") differ.
    """
    text = "".join(f"{len(part)}:{part}" for part in map(str, parts))
    content = text.encode("utf-8", "surrogatepass")  # names of files need not be UTF-8
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def check_index(index: int, length: int) -> int:
    """Returns `index` with negative ones counted from the end.

    Raises:
      IndexError: outside [-length, length), which also ends a `for` loop over a source.
    """
    if not -length <= index < length:
        raise IndexError(f"index {index} is outside a source of {length} examples")
    return index % length


@dataclasses.dataclass(frozen=True)
class CaptionKeys:
    """Fields that hold captions.

    Attributes:
      keys: names of fields: a column, the ending of a tar's member, or `MEMBER:FIELD` for a field of a JSON member
        (`json:caption`).
      weights: how likely training draws from each; they need not sum to 1. None: the first field that is there counts.
      encoding: of texts that come as bytes.
    """

    keys: tuple[str, ...]
    weights: tuple[float, ...] | None = None
    encoding: str = "utf-8"
    _once: Once = dataclasses.field(default_factory=Once, compare=False, repr=False)

    @classmethod
    def parse(
        cls, text: str, *, default: Sequence[str], field: str = "data.caption_keys", encoding: str = "utf-8"
    ) -> "CaptionKeys":
        """Reads "txt", or a mixture such as "json:caption@0.7+txt@0.3"; "none" is no keys, for examples without texts.

        Args:
          text: the config's field; empty for `default`, of which the first that an example has is taken.
          default: usual names.
          field: to name in errors.
          encoding: see the attribute.

        Raises:
          UserError: on an empty part, a weight that is not positive, or a key named twice.
        """
        if text == "none":
            return cls((), encoding=encoding)
        if not text:
            return cls(tuple(default), encoding=encoding)
        keys, weights = [], []
        for part in text.split("+"):
            match = _WEIGHT.fullmatch(part.strip())
            key, weight = (match[1], float(match[2])) if match else (part.strip(), 1.0)
            if not key or "@" in key or not (weight > 0 and math.isfinite(weight)):
                raise UserError(f"{field}={text!r}: {part!r} is not KEY or KEY@WEIGHT with a weight above 0")
            if key in keys:
                raise UserError(f"{field}={text!r} names {key!r} twice; name it once")
            keys.append(key)
            weights.append(weight)
        return cls(tuple(keys), tuple(weights), encoding)

    def gather(self, lookup: Callable[[str], Any]) -> dict[str, Any]:
        """Collects an example's captions.

        Args:
          lookup: returns a field's value: a text, a sequence of texts, or None where the example has no such field.

        Returns:
          `captions` and, where keys have weights, `caption_weights`: the two fields of a Record. A key's weight is
          shared evenly by its captions; keys without any leave theirs to the others. Nothing where there are no keys.

        Raises:
          BadExample: `no_caption`, when no field has a text that is not blank; `encoding`, when one is not in that.
        """
        if not self.keys:
            return {}
        captions, weights = [], []
        for position, key in enumerate(self.keys):
            texts = self._unwritten(texts_of(lookup(key), self.encoding))
            captions += texts
            if self.weights is not None:
                weights += [self.weights[position] / len(texts) for _ in texts]
            elif texts:
                break
        if not captions:
            raise BadExample("no_caption", f"no text under {', '.join(map(repr, self.keys))}")
        return {"captions": captions} | ({"caption_weights": weights} if weights else {})

    def _unwritten(self, texts: list[str]) -> list[str]:
        """Texts, and in place of one that is a list written as text those that it lists."""
        if not any(text.startswith("[") for text in texts):
            return texts
        lists = [parse_list(text) for text in texts]
        written = next((text for text, items in zip(texts, lists, strict=True) if items is not None), None)
        if written is not None and self._once.is_first("list"):
            log.warning("captions such as %.80s are lists written as text and read as lists", printable(written))
        return [text for text, items in zip(texts, lists, strict=True) for text in texts_of(items or [text])]


def texts_of(value: Any, encoding: str = "utf-8") -> list[str]:
    """The texts of a field that are not blank, stripped.

    Raises:
      BadExample: `encoding`, for bytes that are not in that encoding.
    """
    texts, remaining = [], [value]
    while remaining:  # lists in lists, however deep
        value = remaining.pop()
        if isinstance(value, bytes):
            value = decode_text(value, encoding)
        if isinstance(value, str):
            texts += [value.strip()] if value.strip() else []
        elif isinstance(value, Sequence) or hasattr(value, "tolist"):
            remaining += list(value)[::-1]
        # a number or an object is no caption
    return texts
