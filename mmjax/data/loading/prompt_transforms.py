"""Captions behind a prompt that says what is to be written, as Whisper's tokens of language and task do."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from mmjax.data.bad_example import BadExample
from mmjax.data.loading.example_transforms import Arrays, TextTransform, add_path_to_errors, draw_caption, id_words
from mmjax.data.record import Record
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.errors import UserError

FIELD = "data.caption_prompt"
NAMED = ("language", "task")  # fields of a record that a template may name
_NAME = re.compile(r"\{(\w*)\}")
_TOKEN = re.compile(r"<\|[^|<>]*\|>")
_UNKNOWN = "<|nosuchtoken|>"


def check_template(template: str) -> None:
    """Checks which fields of a record a template names.

    Raises:
      UserError: one that no record has.
    """
    for name in _NAME.findall(template):
        if name not in NAMED:
            known = " and ".join(f"{{{field}}}" for field in NAMED)
            raise UserError(f"{FIELD}={template!r}: {{{name}}} stands for nothing; it may have {known}")


def named_fields(template: str) -> tuple[str, ...]:
    """The fields of a record that a template names."""
    return tuple(name for name in NAMED if f"{{{name}}}" in template)


def most_ids(template: str) -> int:
    """Ids that a prompt has at most, the first one of every text included: a token is one, a letter four bytes."""
    filled = _NAME.sub("x", template)
    return 1 + len(_TOKEN.findall(filled)) + 4 * len(_TOKEN.sub("", filled))


def fill(template: str, fields: Mapping[str, Any]) -> str:
    """The prompt of a record.

    Raises:
      KeyError: the record lacks a field that the template names.
    """
    for name in named_fields(template):
        template = template.replace(f"{{{name}}}", str(fields[name]))
    return template


def prompt_ids(prompt: str, tokenizer: Tokenizer) -> list[int]:
    """Ids of a prompt, the first one of every text included.

    Raises:
      UserError: a token such as `<|en|>` is none of the tokenizer's, or the prompt leaves no room for a text.
    """
    return _checked_ids(prompt, prompt, 0, tokenizer)


def check_literals(template: str, tokenizer: Tokenizer) -> None:
    """Checks what a template has for every record, whatever its fields are.

    Raises:
      UserError: as `prompt_ids`.
    """
    of_records = [token for token in _TOKEN.findall(template) if _NAME.search(token)]
    literal = _TOKEN.sub(lambda match: "" if _NAME.search(match[0]) else match[0], template)
    _checked_ids(_NAME.sub("", literal), template, len(of_records), tokenizer)


def _checked_ids(prompt: str, shown: str, more: int, tokenizer: Tokenizer) -> list[int]:
    """As `prompt_ids`, of a prompt with so many ids more; errors show it as it is written."""
    unknown = tokenizer.words(_UNKNOWN)
    for token in _TOKEN.findall(prompt):
        ids = tokenizer.words(token)
        if len(ids) != 1 or ids == unknown:
            raise UserError(
                f"{FIELD}: {token} is no token of data.tokenizer={tokenizer.spec!r}; choose one that it has"
            )
    row = [*([] if tokenizer.bos_id is None else [tokenizer.bos_id]), *tokenizer.words(prompt)]
    if len(row) + more > tokenizer.context_length - 2:
        raise UserError(
            f"{FIELD}: {shown[:60]!r} has {len(row) + more} ids or more, and"
            f" data.context_length={tokenizer.context_length} leaves no room for a word and the end of text; raise it"
        )
    return row


@dataclasses.dataclass(frozen=True)
class PromptTransform(TextTransform):
    """An image or a sound, and one of its captions behind a prompt.

    Gives what `PairTransform` gives, `text` being bos prompt caption eos, and `target_mask` bool [L], which marks the
    caption's ids and eos: what is to be predicted. A caption that leaves no room for itself is cut at its end, and the
    eos behind it is none of what is to be predicted: a transcript does not end where speech goes on. (Texts without a
    prompt end where they are cut, as CLIP's and CoCa's do.)

    Attributes:
      inputs: size and crop of the images, and how other modalities are prepared.
      tokenizer: for prompts and captions; None as `PairTransform` has it.
      template: of the prompt; `{task}` and `{language}` stand for those of the record.

    Raises:
      UserError: it names what no record has; or what it has for every record is no prompt, see `prompt_ids`.
    """

    template: str

    def __post_init__(self):
        super().__post_init__()
        check_template(self.template)
        if self.tokenizer is not None:
            check_literals(self.template, self.tokenizer)

    def __call__(self, record: Record, rng: np.random.Generator) -> Arrays:
        with add_path_to_errors(record):
            caption = draw_caption(record, rng.random())
            text, mask, targets = self._row(record, caption)
            arrays = self.input_arrays(record, rng)
        return {**arrays, "text": text, "text_mask": mask, "target_mask": targets, "id": id_words(record["id"])}

    def text_arrays(self, record: Record, rng: np.random.Generator) -> Arrays:
        """As `PairTransform` has it."""
        with add_path_to_errors(record):
            text, mask, _ = self._row(record, draw_caption(record, rng.random()))
        return {"text": text, "text_mask": mask}

    def prompt(self, fields: Mapping[str, Any]) -> tuple[Int32[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
        """Ids of bos and prompt, padded, and a mask that is False on padding.

        Args:
          fields: of a record; those that the template names are read.

        Raises:
          BadExample: the record lacks one, or `prompt_ids` refuses what it has.
        """
        ids, mask, _ = self._row(fields, None)
        return ids, mask

    def text(
        self, fields: Mapping[str, Any], caption: str
    ) -> tuple[Int32[np.ndarray, " L"], Bool[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
        """Ids of bos, prompt, caption and eos, padded; which are no padding; which are to be predicted."""
        return self._row(fields, caption)

    def _row(
        self, fields: Mapping[str, Any], caption: str | None
    ) -> tuple[Int32[np.ndarray, " L"], Bool[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
        tokenizer, length = self.require_tokenizer(), self.require_tokenizer().context_length
        try:
            prompt = prompt_ids(fill(self.template, fields), tokenizer)
        except KeyError as error:
            raise BadExample(
                "other", f"no {error.args[0]}, which {FIELD}={self.template!r} names; write its word there"
            ) from error
        except UserError as error:  # of the record's values: the template's own words were checked at the beginning
            raise BadExample("other", str(error)) from error
        room = length - len(prompt) - 1
        words = [] if caption is None else tokenizer.words(caption)
        row = [*prompt, *words[:room], *([] if caption is None else [tokenizer.eos_id])]
        positions, learned = np.arange(length), len(row) - (len(words) > room)
        ids = np.full(length, tokenizer.pad_id, np.int32)
        ids[: len(row)] = row
        return ids, positions < len(row), (positions >= len(prompt)) & (positions < learned)
