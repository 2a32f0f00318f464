"""What a model that reads and writes texts needs of the records of its data: questions, or what a prompt names."""

from collections.abc import Callable, Sequence

from mmjax.config.schema import RunConfig
from mmjax.data.loading import prompt_transforms
from mmjax.data.record import Record
from mmjax.data.source_protocols import Source
from mmjax.errors import UserError
from mmjax.models.config import CaptionerConfig, LSTMCaptionerConfig
from mmjax.tasks import load_objective
from mmjax.tasks.first_records import first_records


def check_prompt(config: RunConfig) -> None:
    """Checks that `data.caption_prompt` is of captions that are written, and of nothing else.

    Raises:
      UserError: it is not, or names what no record has.
    """
    prompt, trained = config.data.caption_prompt, list(load_objective.weights(config))
    if not prompt:
        return
    prompt_transforms.check_template(prompt)
    if config.data.texts != "captions":
        raise UserError(
            f"data.caption_prompt={prompt!r} is of data.texts='captions', not {config.data.texts!r}; leave it empty"
        )
    if trained != ["caption"] or not isinstance(config.model, CaptionerConfig | LSTMCaptionerConfig):
        raise UserError(
            f"data.caption_prompt={prompt!r} is for a captioner that is trained with objectives.caption alone, not"
            f" for model.kind={config.model.kind!r} with {', '.join(trained)}; leave it empty"
        )


def check_records(config: RunConfig, sources: Sequence[Source]) -> None:
    """Checks that the first examples of every source have what the texts need; one alone might be a bad one.

    Raises:
      UserError: none of them has.
    """
    if config.data.texts != "captions":
        is_question = lambda record: bool(record.get("question") and record.get("answers"))
        _check(
            sources,
            is_question,
            f"no questions with answers, which data.texts={config.data.texts!r} needs; give questions (vqa:FILE), or"
            " set data.texts='captions'",
        )
    for name in prompt_transforms.named_fields(config.data.caption_prompt):
        has_name = lambda record, name=name: bool(record.get(name))
        lack = f"no {name}, which data.caption_prompt={config.data.caption_prompt!r} names; write its word instead"
        _check(sources, has_name, lack)


def _check(sources: Sequence[Source], is_fine: Callable[[Record], bool], lack: str) -> None:
    for source in sources:
        if not any(record is None or is_fine(record) for record in first_records(source)):
            raise UserError(f"data.train: {source.name!r} has {lack}")
