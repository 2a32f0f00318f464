"""Prompts of texts that a loaded model writes: what its run puts before them, and what a call says."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax.config.schema import RunConfig
from mmjax.data.loading import prompt_transforms
from mmjax.data.loading.question_transforms import AnswerTransform
from mmjax.data.text.tokenizer import Tokenizer
from mmjax.errors import UserError
from mmjax.inference import inputs
from mmjax.models.config import PrefixLMConfig
from mmjax.models.generation import Decoding
from mmjax.tasks import config_queries


def behind_template(template: str, texts: list[str]) -> list[str]:
    """Beginnings of captions behind `data.caption_prompt`.

    Raises:
      UserError: it names a task or a language.
    """
    if named := prompt_transforms.named_fields(template):
        raise UserError(
            f"{prompt_transforms.FIELD}={template!r} names {' and '.join(named)}; write with transcribe(...)"
        )
    return [template + text for text in texts]


def to_prompt(template: str, tokenizer: Tokenizer, task: str = "", language: str = "") -> list[int]:
    """Ids of what a transcript goes on from.

    Args:
      template: `data.caption_prompt` of the run.
      tokenizer: of the model.
      task: as the template names it; "" for `transcribe`, where it does.
      language: likewise; it is not guessed.

    Raises:
      UserError: the template names a language, and there is none; or it does not name what there is; or a token is none
        of the tokenizer's.
    """
    values = {"task": task, "language": language}
    named = prompt_transforms.named_fields(template)
    for name, value in values.items():
        if value and name not in named:
            raise UserError(f"{name}={value!r}: {prompt_transforms.FIELD}={template!r} names no {name}; leave it out")
    if "language" in named and not language:
        raise UserError(f"language='': {prompt_transforms.FIELD}={template!r} names it; give one, such as 'en'")
    filled = prompt_transforms.fill(template, values | {"task": task or "transcribe"})
    return prompt_transforms.prompt_ids(filled, tokenizer)


def of_transcripts(task: Any, tokenizer: Tokenizer, options: dict[str, Any]) -> tuple[list[int], Decoding]:
    """The prompt of transcripts, and how they are written.

    Args:
      task: of the model.
      tokenizer: of its texts.
      options: `task` and `language`, and fields of `Decoding`.

    Raises:
      UserError: as `to_prompt` and `inputs.to_decoding`.
    """
    fields = {name: options[name] for name in prompt_transforms.NAMED if name in options}
    for name, value in fields.items():
        if not isinstance(value, str):
            raise UserError(
                f"{name}={str(value)[:40]!r}: give a word, such as {'en' if name == 'language' else 'translate'!r}"
            )
    prompt = to_prompt(task.config.data.caption_prompt, tokenizer, **fields)
    context = config_queries.text_config(task.config).context_length
    decoding = {name: value for name, value in options.items() if name not in fields}
    return prompt, inputs.to_decoding(task.decoding(tokenizer), len(prompt), context, decoding, "transcribe")


def check_images_in_texts(field: str, ids: np.ndarray, config: RunConfig) -> None:
    """Checks that no text has two places for its image.

    Raises:
      UserError: one has.
    """
    model = config.model
    if isinstance(model, PrefixLMConfig) and model.image_id is not None and (ids == model.image_id).sum(1).max() > 1:
        raise UserError(
            f"{field}: a text has the token of an image (id {model.image_id}) more than once; leave it out where"
            f" data.question_template={config.data.question_template!r} has it"
        )


def check_questions(questions: Sequence[str], transform: AnswerTransform) -> None:
    """Checks that questions have room in their prompts.

    Raises:
      UserError: one has not, by its number.
    """
    for index, question in enumerate(questions):
        if not transform.fits(question):
            room = transform.require_tokenizer().context_length
            raise UserError(
                f"questions[{index}]={question[:40]!r}: it is too long for data.context_length={room} with an answer"
                " behind it; shorten it"
            )


def check_seed(seed: Any) -> None:
    """Checks the seed of sampling.

    Raises:
      UserError: it is no integer of 32 bits.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(f"seed={seed!r}: give an integer from 0 to {2**32 - 1}")
