"""Evaluation on corrupted examples: what a model's inputs can have of `eval.corrupt`, and curves of metrics."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmjax.data.audio.transform import AudioSpec
from mmjax.data.loading.corruption import Corruption, Sweep, parse_sweeps
from mmjax.data.loading.text_ids import TextIds
from mmjax.data.table_columns import TableColumns
from mmjax.errors import UserError
from mmjax.evaluation.config import EvaluationSettings
from mmjax.metrics import robustness
from mmjax.models.fusion.config import TableEncoderConfig
from mmjax.tasks import capabilities, config_queries


def checked_sweeps(task: Any, settings: EvaluationSettings) -> tuple[Sweep, ...]:
    """The sweeps of `eval.corrupt`, which the model's inputs can have.

    Args:
      task: the model's.
      settings: of the evaluation.

    Raises:
      UserError: as `parse_sweeps`; a modality that the model does not see, or that is not of a form to be corrupted so.
    """
    field = f"{settings.prefix}corrupt"
    sweeps = parse_sweeps(settings.corrupt, field)
    bind = lambda point: tuple(_bound(corruption, task, f"{field}={settings.corrupt!r}") for corruption in point)
    return tuple(Sweep(tuple(map(bind, sweep.points))) for sweep in sweeps)


def _bound(corruption: Corruption, task: Any, where: str) -> Corruption:
    """A corruption with what it has to know of the model's inputs.

    Raises:
      UserError: the inputs are not of its form.
    """
    specs, name, kind = task.input_specs, corruption.modality, corruption.kind
    if name not in specs.names:
        model = capabilities.describe_model(task.config)
        raise UserError(f"{where}: {model} sees no {name}; it sees {', '.join(specs.names) or 'texts alone'}")
    if kind == "drop" and not (specs.may_lack and len(specs.names) > 1):
        raise UserError(f"{where}: {name}:drop wants a classifier of several modalities; leave it out")
    decoder = next((spec.decoder for spec in specs.others if spec.name == name), None)
    if kind == "snr" and not isinstance(decoder, AudioSpec):
        raise UserError(f"{where}: {name}:snr wants sounds or samples, and the model takes arrays as they are")
    if kind in ("delete", "replace") and not isinstance(decoder, TextIds):
        raise UserError(f"{where}: {name}:{kind} wants texts, and the model takes ids as the data have them")
    if name != "table":
        return corruption
    encoder = config_queries.encoders(task.config.model)[name]
    numbers = encoder.numeric if isinstance(encoder, TableEncoderConfig) else None
    if isinstance(decoder, TableColumns):
        numbers = len(decoder.numbers)
    return dataclasses.replace(corruption, numbers=numbers)


def corrupted_source(data: Any, corruptions: tuple[Corruption, ...]) -> Any:
    """An `EvaluatedSource` with its examples corrupted; nothing of it is shown."""
    corrupt = lambda specs: dataclasses.replace(specs, corruptions=corruptions)
    specs = corrupt(data.specs)
    return dataclasses.replace(
        data,
        specs=specs,
        views=None if data.views is None else corrupt(data.views),
        decode=lambda source: data.decode(source).with_specs(specs),
        has_report=False,
        sweeps=(),
    )


def curve_metrics(
    names: Sequence[str], clean: Mapping[str, float], data: Any, evaluate: Callable[[Any], Mapping[str, float]]
) -> dict[str, float]:
    """Metrics of corrupted examples, by names as `mmjax.metrics.robustness` has them, and areas under their curves.

    Args:
      names: of the metrics that are wanted; those that `clean` lacks are left out.
      clean: metrics of the examples as they are.
      data: an `EvaluatedSource` with its `sweeps`.
      evaluate: gives the metrics of one.
    """
    names = [name for name in names if name in clean]
    metrics: dict[str, float] = {}
    for sweep in data.sweeps if names else ():
        for point in sweep.points:
            values = evaluate(corrupted_source(data, point))
            metrics |= {f"{name}@{','.join(map(str, point))}": values[name] for name in names}
    areas = {f"{c.metric}_area@{c.sweep}": c.area for c in robustness.curves({**clean, **metrics})}
    return metrics | areas
