"""Transforms of training examples, one a task: from a record to arrays of fixed shapes.

A transform is called with a record and a random generator that belongs to the example alone, and draws from it in a
fixed order; it is picklable, so that workers can have it. It raises `BadExample` for a record that it cannot use, which
is then replaced by another one.

An image is uint8 [H,W,3], or with `image_spec.frame` a frame of that size and `image_box` int32 [8], see `frames`.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int32

from mmjax.data.bad_example import BadExample
from mmjax.data.image import frames
from mmjax.data.image.crops import train_image
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.record import Record
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.metrics.vqa_answers import answer_index, soft_scores

Arrays = dict[str, np.ndarray]


@runtime_checkable
class ExampleTransform(Protocol):
    """Makes arrays of a record: the same keys, shapes and dtypes every time."""

    def __call__(self, record: Record, rng: np.random.Generator, /) -> Arrays: ...


@dataclasses.dataclass(frozen=True)
class _TextTransform:
    image_spec: ImageSpec
    tokenizer: Tokenizer | None

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("a transform without a tokenizer makes no arrays; it only describes what a model reads")
        return self.tokenizer

    def _text_arrays(self, text: str) -> Arrays:
        """A text's ids and which of them are no padding."""
        ids, mask = self._tokenizer()([text])
        return {"text": ids[0], "text_mask": mask[0]}


@dataclasses.dataclass(frozen=True)
class PairTransform(_TextTransform):
    """An image and one of its captions, for contrastive learning, captioning, matching and masked modelling.

    Gives `image` uint8 [H,W,3], `text` int32 [L], `text_mask` bool [L] and `id` uint32 [2].

    Attributes:
      image_spec: size and crop of the images.
      tokenizer: for the captions; None where the transform only describes what a model reads.
    """

    def __call__(self, record: Record, rng: np.random.Generator) -> Arrays:
        with add_path_to_errors(record):
            caption = _draw_caption(record, rng.random())
            image = _image(record, self.image_spec, rng)
        return {**image, **self._text_arrays(caption), "id": id_words(record["id"])}

    def text_arrays(self, record: Record, rng: np.random.Generator) -> Arrays:
        """The `text` and `text_mask` that a call gives, without its image; `rng` as the call is given it."""
        with add_path_to_errors(record):
            caption = _draw_caption(record, rng.random())
        return self._text_arrays(caption)


@dataclasses.dataclass(frozen=True)
class QuestionTransform(_TextTransform):
    """An image and a question whose answer is one of a list: VQA as classification.

    Gives `image` uint8 [H,W,3], `text` int32 [L] and `text_mask` bool [L] of the question, `answer` float32 [A], the
    soft score of each answer (all 0 where people gave others), and `id` uint32 [2].

    Attributes:
      image_spec: size and crop of the images.
      tokenizer: for the questions; None as `PairTransform` has it.
      answers: the list.
    """

    answers: tuple[str, ...]

    def __call__(self, record: Record, rng: np.random.Generator) -> Arrays:
        with add_path_to_errors(record):
            question, answers = _question_and_answers(record)
            image = _image(record, self.image_spec, rng)
        scores = soft_scores(answers, self._answer_indices)
        return {**image, **self._text_arrays(question), "answer": scores, "id": id_words(record["id"])}

    def text_arrays(self, record: Record, rng: np.random.Generator) -> Arrays:
        """As `PairTransform` has it."""
        del rng
        with add_path_to_errors(record):
            question, _ = _question_and_answers(record)
        return self._text_arrays(question)

    @functools.cached_property
    def _answer_indices(self) -> dict[str, int]:
        return answer_index(self.answers)


@dataclasses.dataclass(frozen=True)
class AnswerTransform(_TextTransform):
    """An image, a question and one of its answers as one text: VQA as generation.

    Gives `image` uint8 [H,W,3], `id` uint32 [2], and

    - `text` int32 [L]: bos question sep answer eos, padded; without bos or sep where the tokenizer has none;
    - `text_mask` bool [L]: all but the padding;
    - `target_mask` bool [L]: the answer's ids and eos, which are to be predicted.

    The answer is drawn among those given, so more frequent ones come more often. A question that leaves no room for the
    answer is cut at its end.

    Attributes:
      image_spec: size and crop of the images.
      tokenizer: for questions and answers; None as `PairTransform` has it.
    """

    def __call__(self, record: Record, rng: np.random.Generator) -> Arrays:
        with add_path_to_errors(record):
            question, answer = _draw_answer(record, rng.random())
            image = _image(record, self.image_spec, rng)
        text, mask, targets = self._row(question, answer)
        return {
            **image,
            "text": text,
            "text_mask": mask,
            "target_mask": targets,
            "id": id_words(record["id"]),
        }

    def text_arrays(self, record: Record, rng: np.random.Generator) -> Arrays:
        """As `PairTransform` has it."""
        with add_path_to_errors(record):
            question, answer = _draw_answer(record, rng.random())
        text, mask, _ = self._row(question, answer)
        return {"text": text, "text_mask": mask}

    def prompt(self, question: str) -> tuple[Int32[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
        """The prompt of an answer: ids of bos question sep, padded, and a mask that is False on padding."""
        ids, mask, _ = self._row(question, None)
        return ids, mask

    def _row(
        self, question: str, answer: str | None
    ) -> tuple[Int32[np.ndarray, " L"], Bool[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
        tokenizer = self._tokenizer()
        length = tokenizer.context_length
        bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        sep = [] if tokenizer.sep_id is None else [tokenizer.sep_id]
        end: list[int] = []
        if answer is not None:
            end = [*tokenizer.words(answer)[: length - len(bos) - len(sep) - 1], tokenizer.eos_id]
        room = length - len(bos) - len(sep) - max(len(end), 1)  # a prompt leaves room for an answer, too
        row = [*bos, *tokenizer.words(question)[:room], *sep, *end]
        ids = np.full(length, tokenizer.pad_id, np.int32)
        ids[: len(row)] = row
        positions = np.arange(length)
        return ids, positions < len(row), (positions >= len(row) - len(end)) & (positions < len(row))


@dataclasses.dataclass(frozen=True)
class ModalityTransform:
    """Several modalities of one example, some of which may be missing, and its label.

    Gives `modality_NAME` float32 of each shape, zeros where it is missing; `present` bool [M], in
    sorted order of name; `label` int32 [] and `id` uint32 [2]. With an `image_spec` the record's image is a modality,
    too: it is called `image` in `present`, and travels as `image` uint8 [H,W,3] like every other image.

    Attributes:
      shapes: of each modality, by name: a mapping, or (name, shape) pairs.
      image_spec: size and crop of the record's image, where that is a modality.
      nan_allowed: the modalities in which NaN stands for a single missing value, as a table's encoder takes it.

    Raises:
      ValueError: no modality, or `image` in `shapes` beside an `image_spec`.
    """

    shapes: Mapping[str, Sequence[int]] | tuple[tuple[str, tuple[int, ...]], ...]
    image_spec: ImageSpec | None = None
    nan_allowed: tuple[str, ...] = ()

    def __post_init__(self):
        # Pairs, sorted: equal transforms compare equal and have one hash.
        object.__setattr__(self, "shapes", self.sorted_shapes)
        if self.image_spec is not None and any(name == "image" for name, _ in self.sorted_shapes):
            raise ValueError("'image' is among the shapes and the record's image; name the array otherwise")
        if not self.names:
            raise ValueError("no modalities")

    @functools.cached_property
    def sorted_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The shapes as pairs, in the order of name."""
        pairs = self.shapes.items() if isinstance(self.shapes, Mapping) else self.shapes
        return tuple(sorted((name, tuple(shape)) for name, shape in pairs))

    @property
    def names(self) -> tuple[str, ...]:
        """All modalities, in the order of `present`."""
        names = [name for name, _ in self.sorted_shapes]
        return tuple(sorted([*names, "image"] if self.image_spec is not None else names))

    def __call__(self, record: Record, rng: np.random.Generator) -> Arrays:
        if "label" not in record:
            raise BadExample("other", "no label")
        arrays, present = self.arrays(record)
        spec = self.image_spec
        if spec is not None:
            present["image"] = record.get("image") is not None
            if present["image"]:
                with add_path_to_errors(record):
                    arrays |= _image(record, spec, rng)
            else:
                arrays |= _black_image(spec)
        return {
            **arrays,
            "present": np.array([present[name] for name in self.names], bool),
            "label": np.array(record["label"], np.int32),
            "id": id_words(record["id"]),
        }

    def arrays(self, record: Record) -> tuple[Arrays, dict[str, bool]]:
        """The `modality_NAME` arrays of a record, and which of them are present; nothing is drawn.

        Raises:
          BadExample: an array of another shape, or with a value that is not finite.
        """
        modalities, present = record.get("modalities", {}), {}
        arrays: Arrays = {}
        for name, shape in self.sorted_shapes:
            value = modalities.get(name)
            present[name] = value is not None
            array = np.zeros(shape, np.float32) if value is None else np.asarray(value, np.float32)
            if array.shape != shape:
                raise BadExample("other", f"modality {name!r} has shape {array.shape}, not {shape}")
            bad = np.isinf(array) if name in self.nan_allowed else ~np.isfinite(array)
            if bad.any():
                raise BadExample("other", f"modality {name!r} holds a value that is not finite")
            arrays[f"modality_{name}"] = array
        return arrays, present


def id_words(value: int) -> np.ndarray:
    """Splits a 64-bit id into uint32 [2]: low word, high word (JAX has no 64-bit integers by default)."""
    return np.array((value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF), dtype=np.uint32)


@contextlib.contextmanager
def add_path_to_errors(record: Record) -> Iterator[None]:
    """Adds the record's path to what is wrong with it."""
    try:
        yield
    except BadExample as error:
        if "path" not in record:
            raise
        raise BadExample(error.reason, f"{record['path']}: {error.detail}") from error


def _image(record: Record, spec: ImageSpec, rng: np.random.Generator) -> Arrays:
    """A record's image: `image` alone, or a frame and `image_box`, as the spec says."""
    encoded = record.get("image")
    if encoded is None:
        raise BadExample("no_image", "no image")
    if spec.frame:
        frame, box = frames.train_frame(encoded, spec, rng)
        return {"image": frame, "image_box": box}
    return {"image": train_image(encoded, spec, rng)}


def _black_image(spec: ImageSpec) -> Arrays:
    """The arrays of a missing image: black."""
    if spec.frame:
        frame, box = frames.blank_frame(spec)
        return {"image": frame, "image_box": box}
    return {"image": np.zeros((spec.size, spec.size, 3), np.uint8)}


def _draw_answer(record: Record, draw: float) -> tuple[str, str]:
    """A record's question and the answer that a draw from [0, 1) stands for."""
    question, answers = _question_and_answers(record)
    return question, answers[min(int(draw * len(answers)), len(answers) - 1)]


def _question_and_answers(record: Record) -> tuple[str, list[str]]:
    """A record's question and the answers to it that are not blank."""
    question = record.get("question", "")
    answers = [answer for answer in record.get("answers", ()) if answer.strip()]
    if not question.strip() or not answers:
        raise BadExample("no_caption", "no question" if not question.strip() else "no answer that is not blank")
    return question, answers


def _draw_caption(record: Record, draw: float) -> str:
    """The caption that a draw from [0, 1) stands for, of those that are not blank."""
    captions = record.get("captions", [])
    if isinstance(captions, str):
        raise BadExample("other", f"captions={captions!r} is one text; a record has a list of them")
    weights = record.get("caption_weights") or [1.0] * len(captions)
    usable = [(caption, weight) for caption, weight in zip(captions, weights, strict=True) if caption.strip()]
    if not usable:
        raise BadExample("no_caption", "no caption that is not blank")
    ends = np.cumsum([weight for _, weight in usable])
    index = int(np.searchsorted(ends, draw * ends[-1], side="right"))
    return usable[min(index, len(usable) - 1)][0]
