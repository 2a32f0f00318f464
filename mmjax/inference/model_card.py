"""A model card: what weights are of, how they were trained, what they reach; Markdown with the Hub's metadata."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.config.schema import RunConfig
from mmjax.config.serialize import flatten
from mmjax.config.typed_groups import to_dict
from mmjax.evaluation.metric_columns import columns
from mmjax.inference import checkpoint_source
from mmjax.interop.families import table as families
from mmjax.interop.foreign_checkpoint import FORMATS
from mmjax.metrics.definitions import definition
from mmjax.models.config import TwoTowerConfig
from mmjax.tasks import load_objective
from mmjax.utils.version import VERSION

_LIBRARIES = {"hf": "transformers", "openclip": "open_clip", "mmjax": "mmjax"}
_PIPELINE = "zero-shot-image-classification"
_NAMED = ("tfds", "hf-hub", "words")  # what follows is no path
_SPLITS = ("train", "val", "valid", "validation", "dev", "test", "testA", "testB", "restval", "minival")
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
    ("init_paths", "parameters taken from there"),
    ("optimizer.freeze", "frozen"),
    ("optimizer.lora.rank", "LoRA's rank"),
    ("optimizer.lora.alpha", "LoRA's alpha"),
    ("optimizer.lora.which", "LoRA's parameters"),
)


def make_card(
    opened: checkpoint_source.RunCheckpoint | checkpoint_source.ForeignWeights,
    records: Sequence[Mapping[str, Any]],
    *,
    name: str,
    form: str,
    license: str | None,
    is_on_hub: bool,
) -> str:
    """The text of a README.md.

    Folders are left out of what names data: the card is public.

    Args:
      opened: the checkpoint.
      records: of its evaluations, in CLIP_benchmark's shape.
      name: of the repository.
      form: of the weights beside it: `hf` or `openclip`.
      license: the Hub's name of it, such as `apache-2.0`; None where none is known.
      is_on_hub: whether `name` is of a repository there, or of a folder.
    """
    metadata: dict[str, Any] = {"license": license} if license else {}
    tag, pipeline = _tag_and_pipeline(opened.config)
    metadata |= {"library_name": _LIBRARIES[form], "pipeline_tag": pipeline, "tags": [tag, "mmjax"]}
    if records:
        metadata["model-index"] = [{"name": name, "results": [_result(record) for record in records]}]
    usage = _usage(name, form, opened, is_on_hub=is_on_hub)
    parts = [f"# {name}", _summary(opened), usage, _training(opened), _results(records)]
    parts.append(f"Written by mmjax {VERSION}.")
    # JSON is YAML, too.
    front = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in metadata.items())
    return f"---\n{front}\n---\n\n" + "\n\n".join(filter(None, parts)) + "\n"


def _tag_and_pipeline(config: RunConfig) -> tuple[str, str]:
    """What the Hub lists a model under: its kind, and what it is for."""
    model = config.model
    if isinstance(model, TwoTowerConfig):
        return ("clip" if model.logit_bias_init is None else "siglip"), _PIPELINE
    answers = "answers" in (config.data.texts, *load_objective.taught(config))
    writes = "captions" in load_objective.taught(config)
    return model.kind, "visual-question-answering" if answers else "image-to-text" if writes else "feature-extraction"


def _result(record: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation as the Hub's model index has it."""
    dataset = str(record["dataset"])
    kind = _PIPELINE if record["task"] == "zeroshot_classification" else str(record["task"])
    return {
        "task": {"type": kind},
        "dataset": {"type": re.sub(r"[^\w.-]+", "-", public_name(dataset)), "name": public_name(dataset)},
        "metrics": [{"type": key, "name": key, "value": value} for key, value in record["metrics"].items()],
    }


def public_name(text: str) -> str:
    """What names data, weights or a tokenizer, without the folders and servers that it lies in.

    Of `pairs:/home/me/captions.tsv` it is `pairs:captions.tsv`; a split or a file's part stays with its folder or file.
    """
    return "+".join(map(_public_part, text.split("+")))


def _public_part(part: str) -> str:
    kind, colon, path = part.partition(":")
    is_path = path.startswith(("/", ".", "~")) or "://" in path
    if colon and (kind in _NAMED or (kind == "hf" and not is_path)):
        return part
    if not colon or len(kind) == 1 or path.startswith("//"):  # a name, a path, a drive, a URL
        return _last(part) if part.startswith(("/", ".", "~")) or "\\" in part or colon else part
    return f"{kind}:{_last(path)}"


def _last(path: str) -> str:
    """The end of a path: the last name, after that of the file or data set which it is a part of."""
    path = path.partition(",")[0].replace("\\", "/").rstrip("/")
    if "{" in path and "/" in path[path.index("{") :]:  # folders within braces
        return "..."
    *folders, last = path.split("/")
    is_part = bool(folders) and ("." in folders[-1].strip(".") or last.partition("@")[0] in _SPLITS)
    return f"{folders[-1]}/{last}" if is_part else last


def _summary(opened: checkpoint_source.RunCheckpoint | checkpoint_source.ForeignWeights) -> str:
    config, prepared = opened.config, opened.preprocessing or {}
    count = sum(math.prod(shape) for shape in opened.shapes.values())
    names = ", ".join(dict.fromkeys((config.name, config.variant)))
    model = to_dict(config.model)
    is_pair = isinstance(config.model, TwoTowerConfig)
    what = "An image tower and a text tower with embeddings in one space" if is_pair else f"A {model['kind']} of images"
    lines = [f"{what} ({names}); {count:,} parameters."]
    for tower in ("image", "text"):
        fields = ("kind", "image_size", "patch_size", "blocks", "widths", "stem_width", "vocab_size", "context_length")
        fields += ("width", "depth", "heads", "activation")
        words = [f"{field} {model[tower][field]}" for field in fields if field in model[tower]]
        lines.append(f"- {tower} tower: {', '.join(words)}")
    if prepared:
        numbers = ", ".join(f"{field} {[round(x, 4) for x in prepared[field]]}" for field in ("mean", "std"))
        lines.append(
            f"- images: {prepared['size']} pixels, {prepared['resize']}, {prepared['interpolation']}; {numbers}"
        )
    if opened.has_tokenizer:
        lines.append(f"- texts: {public_name(config.data.tokenizer)}")
    return "\n".join([lines[0], "", *lines[1:]])


def _usage(name: str, form: str, opened: checkpoint_source.OpenedCheckpoint, *, is_on_hub: bool) -> str:
    ours, theirs = (f"hf-hub:{name}", f"hf-hub:{name}") if is_on_hub else (name, f"local-dir:{name}")
    has_tokenizer = opened.has_tokenizer
    auto, parts = "AutoModel", {"processor": "AutoProcessor"}
    if not isinstance(opened.config.model, TwoTowerConfig):
        auto = families.of_settings(to_dict(opened.config.model)).architecture
        parts = {"image_processor": "AutoImageProcessor", "tokenizer": "AutoTokenizer"}
    lines = {
        "hf": [
            f"from transformers import {', '.join([auto, *parts.values()])}",
            "",
            f'model = {auto}.from_pretrained("{name}")',
            *(f'{part} = {cls}.from_pretrained("{name}")' for part, cls in parts.items()),
        ],
        "openclip": [
            "import open_clip",
            "",
            f'model, _, preprocess = open_clip.create_model_and_transforms("{theirs}")',
            f'tokenizer = open_clip.get_tokenizer("{theirs}")',
        ],
    }[form]
    code = "\n".join(lines if has_tokenizer else lines[:-1])
    use = [f'model = mmjax.load("{ours}")', *_calls(opened, has_tokenizer=has_tokenizer)]
    mine = "\n".join(["import mmjax", "", *use])
    return f"## Use\n\n```python\n{mine}\n```\n\n```python\n{code}\n```"


def _calls(opened: checkpoint_source.OpenedCheckpoint, *, has_tokenizer: bool) -> list[str]:
    """A line of Python that shows what the model is for."""
    if isinstance(opened.config.model, TwoTowerConfig):
        return [
            'model.zero_shot(["photo.jpg"], ["cat", "dog"])' if has_tokenizer else 'model.encode_image(["photo.jpg"])'
        ]
    calls = {
        "image-to-text": 'model.caption([PIL.Image.open("photo.jpg")])',
        "visual-question-answering": 'model.answer([PIL.Image.open("photo.jpg")], "what is this?")',
    }
    call = calls.get(_tag_and_pipeline(opened.config)[1])
    return [call] if call and has_tokenizer else []


def _training(opened: checkpoint_source.RunCheckpoint | checkpoint_source.ForeignWeights) -> str:
    if not isinstance(opened, checkpoint_source.RunCheckpoint):
        return f"## Training\n\nThe weights were read from files of {FORMATS[opened.foreign.format]}."
    fields = flatten(to_dict(opened.config))
    rows = [("data", public_name(opened.config.data.train) or "-"), ("examples seen", f"{opened.meta['position']:,}")]
    has_adapters = bool(fields.get("optimizer.lora.rank"))
    for field, label in _FIELDS:
        value = fields.get(field)
        if value not in (None, "", (), 0) and (has_adapters or not field.startswith("optimizer.lora.")):
            rows.append((label, public_name(", ".join(map(str, value)) if isinstance(value, tuple) else str(value))))
    objectives = ", ".join(f"{key} {value:g}" for key, value in load_objective.weights(opened.config).items())
    rows.append(("objectives", objectives))
    table = "\n".join(f"| {label} | {value} |" for label, value in rows)
    return f"## Training\n\nCheckpoint of step {opened.step:,}.\n\n| | |\n|---|---|\n{table}"


def _results(records: Sequence[Mapping[str, Any]]) -> str:
    lines = ["## Results", ""]
    if not records:
        return "\n".join([*lines, "None were measured with these weights."])
    lines += ["| data | evaluation | metric | value | definition |", "|---|---|---|---|---|"]
    for record in records:
        for column in columns([record["metrics"]]):
            value = column.text(record["metrics"][column.key])
            task, meaning = record["task"].replace("_", " "), definition(column.key)
            lines.append(f"| {public_name(record['dataset'])} | {task} | {column.key} | {value} | {meaning} |")
    return "\n".join(lines)
