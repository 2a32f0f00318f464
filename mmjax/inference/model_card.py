"""A model card: what weights are of, how they were trained, what they reach; Markdown with the Hub's metadata."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.config.serialize import flatten
from mmjax.config.typed_groups import to_dict
from mmjax.evaluation.metric_columns import columns
from mmjax.inference import checkpoint_source
from mmjax.interop.foreign_checkpoint import FORMATS
from mmjax.metrics.definitions import definition
from mmjax.tasks import capabilities, load_objective
from mmjax.utils.version import VERSION

_LIBRARIES = {"hf": "transformers", "openclip": "open_clip", "mmjax": "mmjax"}
_PIPELINE = "zero-shot-image-classification"
_FOLDERS = re.compile(r"(?:\w+://)?(?:[^@,/]*/)+")
# What a reader wants to know of a training, by its place in the config.
_FIELDS = (
    ("batch_size", "batch"),
    ("steps", "steps"),
    ("optimizer.name", "optimizer"),
    ("optimizer.learning_rate", "peak learning rate"),
    ("optimizer.weight_decay", "weight decay"),
    ("schedule.name", "schedule"),
    ("schedule.warmup", "steps of warm-up"),
    ("precision", "precision"),
    ("seed", "seed"),
    ("init_from", "started from"),
)


def make_card(
    opened: checkpoint_source.RunCheckpoint | checkpoint_source.ForeignWeights,
    records: Sequence[Mapping[str, Any]],
    *,
    name: str,
    form: str,
    license: str | None,
) -> str:
    """The text of a README.md.

    Folders are left out of what names data: the card is public.

    Args:
      opened: the checkpoint.
      records: of its evaluations, in CLIP_benchmark's shape.
      name: of the repository.
      form: of the weights beside it: `hf` or `openclip`.
      license: the Hub's name of it, such as `apache-2.0`; None where none is given.
    """
    metadata: dict[str, Any] = {"license": license} if license else {}
    metadata |= {"library_name": _LIBRARIES[form], "pipeline_tag": _PIPELINE, "tags": ["clip", "mmjax"]}
    if records:
        metadata["model-index"] = [{"name": name, "results": [_result(record) for record in records]}]
    parts = [f"# {name}", _summary(opened), _usage(name, form), _training(opened), _results(records)]
    parts.append(f"Written by mmjax {VERSION}.")
    # JSON is YAML, too.
    front = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in metadata.items())
    return f"---\n{front}\n---\n\n" + "\n\n".join(filter(None, parts)) + "\n"


def _result(record: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation as the Hub's model index has it."""
    dataset = str(record["dataset"])
    kind = _PIPELINE if record["task"] == "zeroshot_classification" else str(record["task"])
    return {
        "task": {"type": kind},
        "dataset": {"type": re.sub(r"[^\w.-]+", "-", _public(dataset)), "name": _public(dataset)},
        "metrics": [{"type": key, "name": key, "value": value} for key, value in record["metrics"].items()],
    }


def _public(text: str) -> str:
    """What names data or weights, without folders."""
    return "+".join(map(_without_folders, text.split("+")))


def _without_folders(part: str) -> str:
    kind, colon, path = part.rpartition(":") if "://" not in part else part.partition(":")
    if kind.startswith("hf"):  # names of the Hub
        return part
    is_path = bool(colon) or part.startswith(("/", "~", "."))
    return kind + colon + _FOLDERS.sub("", path, count=1) if is_path else part


def _summary(opened: checkpoint_source.RunCheckpoint | checkpoint_source.ForeignWeights) -> str:
    config, prepared = opened.config, opened.preprocessing or {}
    count = sum(math.prod(shape) for shape in opened.shapes.values())
    lines = [f"{config.name} ({config.variant}), {capabilities.describe_model(config)}; {count:,} parameters."]
    model = to_dict(config.model)
    for tower in ("image", "text"):
        fields = ("image_size", "patch_size", "vocab_size", "context_length", "width", "depth", "heads", "activation")
        words = [f"{field} {model[tower][field]}" for field in fields if field in model[tower]]
        lines.append(f"- {tower} tower: {', '.join(words)}")
    if prepared:
        numbers = ", ".join(f"{field} {[round(x, 4) for x in prepared[field]]}" for field in ("mean", "std"))
        lines.append(
            f"- images: {prepared['size']} pixels, {prepared['resize']}, {prepared['interpolation']}; {numbers}"
        )
    if opened.has_tokenizer:
        lines.append(f"- texts: {_public(config.data.tokenizer)}")
    return "\n".join([lines[0], "", *lines[1:]])


def _usage(name: str, form: str) -> str:
    theirs = {
        "hf": f"from transformers import AutoModel, AutoProcessor\n\nmodel = AutoModel.from_pretrained({name!r})\n"
        f"processor = AutoProcessor.from_pretrained({name!r})",
        "openclip": f"import open_clip\n\nmodel, _, preprocess = open_clip.create_model_and_transforms"
        f"({'hf-hub:' + name!r})\ntokenizer = open_clip.get_tokenizer({'hf-hub:' + name!r})",
    }[form]
    ours = f"import mmjax\n\nmodel = mmjax.load({'hf-hub:' + name!r})\n" + (
        'model.zero_shot(["photo.jpg"], ["cat", "dog"])  # also encode_image, encode_text, similarity'
    )
    return f"## Use\n\n```python\n{ours}\n```\n\n```python\n{theirs}\n```"


def _training(opened: checkpoint_source.RunCheckpoint | checkpoint_source.ForeignWeights) -> str:
    if not isinstance(opened, checkpoint_source.RunCheckpoint):
        return f"## Training\n\nThe weights were read from files of {FORMATS[opened.foreign.format]}."
    fields = flatten(to_dict(opened.config))
    rows = [("data", _public(opened.config.data.train) or "-"), ("examples seen", f"{opened.meta['position']:,}")]
    rows += [(label, _public(str(fields[field]))) for field, label in _FIELDS if fields.get(field) not in (None, "")]
    objectives = ", ".join(f"{key} {value:g}" for key, value in load_objective.weights(opened.config).items())
    rows.append(("objectives", objectives))
    table = "\n".join(f"| {label} | {value} |" for label, value in rows)
    return f"## Training\n\nCheckpoint of step {opened.step:,}.\n\n| | |\n|---|---|\n{table}"


def _results(records: Sequence[Mapping[str, Any]]) -> str:
    lines = ["## Results", ""]
    if not records:
        return "\n".join([*lines, "None were measured with these weights."])
    lines += ["| data | metric | value | definition |", "|---|---|---|---|"]
    for record in records:
        for column in columns([record["metrics"]]):
            value = column.text(record["metrics"][column.key])
            lines.append(f"| {_public(record['dataset'])} | {column.key} | {value} | {definition(column.key)} |")
    return "\n".join(lines)
