"""`mmjax info`: what a workdir or another library's checkpoint holds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax import plugin_imports
from mmjax.cli import runtime
from mmjax.config.typed_groups import to_dict
from mmjax.inference import checkpoint_source
from mmjax.interop import foreign_checkpoint, model_settings
from mmjax.models.config import TwoTowerConfig
from mmjax.tasks import capabilities
from mmjax.utils import terminal

_ANSWERS_SHOWN = 5


def main(argv: Sequence[str] | None = None) -> int:
    """`info PATH [--step=N] [--model-config FIELD=VALUE ...] [--json]`."""
    parser = runtime.make_parser(
        "info", "Prints what a workdir or another library's checkpoint holds; no weights are read."
    )
    parser.epilog = None
    parser.add_argument("path", metavar="PATH", help="a workdir, file or folder, or hf-hub:NAME")
    parser.add_argument("--step", type=int, help="checkpoint of a workdir; the latest by default")
    runtime.add_model_config_flag(parser, "what the file does not hold")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    runtime.add_plugins_flag(parser)

    def command(options, overrides):
        runtime.refuse_overrides(overrides)
        runtime.import_plugins(options)
        settings = model_settings.parse_flags(options.model_config)
        opened = checkpoint_source.open_checkpoint(options.path, step=options.step, settings=settings, from_flags=True)
        if options.json:
            terminal.show(json.dumps({"path": options.path} | to_json(opened), indent=2))
            return 0
        lines = {"path": options.path} | describe(opened)
        width = max(map(len, lines))
        terminal.show("\n".join(f"{name:{width}}  {value}" for name, value in lines.items()))
        return 0

    return runtime.run(parser, argv, command)


def describe(opened: checkpoint_source.RunCheckpoint | checkpoint_source.ForeignWeights) -> dict[str, str]:
    """The content of an opened checkpoint, as names and lines; reads configs and shapes, no weights."""
    if isinstance(opened, checkpoint_source.RunCheckpoint):
        return _describe_run(opened)
    return _describe_foreign(opened)


def to_json(opened: checkpoint_source.RunCheckpoint | checkpoint_source.ForeignWeights) -> dict[str, Any]:
    """The content of an opened checkpoint, as JSON holds it.

    `format`, `model` (its settings), `parameters` (their number), `shapes` (by path), `preprocessing` and `tokenizer`
    (null without one); of a run also `name`, `variant`, `step`, `steps`, `examples`, `can`, `plugins` and `versions`.
    """
    is_run = isinstance(opened, checkpoint_source.RunCheckpoint)
    shapes = opened.stored_shapes() if is_run else opened.shapes
    content: dict[str, Any] = {
        "format": "mmjax" if is_run else opened.foreign.format,
        "model": to_dict(opened.config.model),
        "parameters": _count(shapes),
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "preprocessing": opened.preprocessing and dict(opened.preprocessing),
        "tokenizer": opened.config.data.tokenizer if opened.has_tokenizer else None,
    }
    if is_run:
        content |= {
            "name": opened.config.name,
            "variant": opened.config.variant,
            "step": opened.step,
            "steps": opened.all_steps,
            "examples": opened.meta["position"],
            "can": list(capabilities.capabilities(opened.make_portable_task())),
            "plugins": [str(plugin) for plugin in opened.plugins],
            "versions": opened.meta["versions"],
        }
    return content


def _describe_foreign(opened: checkpoint_source.ForeignWeights) -> dict[str, str]:
    foreign = opened.foreign
    size = sum(file.stat().st_size for file in _files(foreign))
    lines = {
        "format": f"{foreign_checkpoint.FORMATS[foreign.format]}, {foreign.path.name}, {size:,} bytes",
        "settings": f"from {foreign.config_file.name}" if foreign.config_file else "from shapes and what was given",
    }
    model = to_dict(opened.config.model)
    if isinstance(opened.config.model, TwoTowerConfig):
        lines |= _describe_towers(model, foreign.shapes)
    else:
        lines |= _describe_parts(model, foreign.shapes)
        methods = ", ".join(capabilities.capabilities(opened.make_task()))
        lines["model"] = f"{capabilities.describe_model(opened.config)}; it can {methods}"
    if opened.metadata.answers:
        lines["answers"] = _describe_answers(opened.metadata.answers)
    if opened.metadata.class_names:
        lines["classes"] = _describe_answers(opened.metadata.class_names)
    lines["images"] = _describe_images(foreign.preprocessing)
    if model.get("text") is not None:
        lines["tokenizer"] = foreign.tokenizer or "none beside it: texts must be token ids"
    return lines | ({"notes": "; ".join(foreign.notes)} if foreign.notes else {})


def _describe_run(run: checkpoint_source.RunCheckpoint) -> dict[str, str]:
    config, metadata, meta = run.config, run.metadata, run.meta
    shapes = run.stored_shapes()
    model = to_dict(config.model)
    methods = ", ".join(capabilities.capabilities(run.make_portable_task())) or "be trained further"
    lines = {
        "format": f"mmjax workdir of {config.name!r}, {config.variant}",
        "steps": f"{', '.join(map(str, run.all_steps))}; shown: {run.step}",
        "trained on": f"{config.data.train or '-'}, {meta['position']:,} examples",
        "model": f"{capabilities.describe_model(config)}; it can {methods}",
    }
    lines |= (_describe_towers if isinstance(config.model, TwoTowerConfig) else _describe_parts)(model, shapes)
    if metadata.answers:
        lines["answers"] = _describe_answers(metadata.answers)
    if metadata.shapes:
        lines["modalities"] = "; ".join(f"{name} {list(shape)}" for name, shape in metadata.shapes)
    if run.preprocessing:
        lines["images"] = _describe_images(run.preprocessing)
    if tokenizer := meta["tokenizer"]:
        size = f"{tokenizer['vocab_size']:,} ids, {tokenizer['context_length']} a text"
        lines["tokenizer"] = f"{tokenizer['spec']}, {size}"
    if run.plugins:
        lines["plugins"] = "; ".join(map(_describe_plugin, run.plugins))
    return lines | {"written by": ", ".join(f"{name} {version}" for name, version in meta["versions"].items())}


def _describe_answers(answers: Sequence[str]) -> str:
    more = ", ..." if len(answers) > _ANSWERS_SHOWN else ""
    return f"{len(answers):,}: {', '.join(answers[:_ANSWERS_SHOWN])}{more}"


def _describe_plugin(plugin: plugin_imports.Plugin) -> str:
    names = [f"{kind} {name}" for kind, names in plugin.names.items() for name in names]
    registered = f", which registered {', '.join(names)}" if names else ""
    return f"{plugin}{registered}" + ("" if plugin_imports.is_imported(plugin.module) else "; not imported here")


def _files(foreign: foreign_checkpoint.ForeignCheckpoint) -> list[Path]:
    """The files of weights: one, or those that an index names."""
    if not foreign.path.name.endswith(".index.json"):
        return [foreign.path]
    file_of_tensor = json.loads(foreign.path.read_text())["weight_map"]
    return [foreign.path.parent / name for name in sorted(set(file_of_tensor.values()))]


def _describe_towers(settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The lines of a two-tower model; a tower's parameters include its head's."""

    def tower(name):
        count = _count(shapes, lambda part: part.startswith(name))
        return f"{_describe_part(settings[name])}, pool {settings[name]['pool']}; {count:,} parameters"

    return {
        "image tower": tower("image"),
        "text tower": tower("text"),
        "embeddings": f"{settings['embed_dim']} numbers; {_count(shapes):,} parameters in all"
        + ("; logit_bias" if settings["logit_bias_init"] is not None else ""),
    }


def _describe_parts(settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """A line for each part that has parameters, the smaller ones in one, and for the whole."""
    parts = dict.fromkeys(name.split("/")[0] for name in shapes)
    counts = {part: _count(shapes, lambda name, part=part: name == part) for part in parts}
    lines, others = {}, []
    encoders = {f"encoder_{name}": value for name, value in settings.get("encoders", {}).items()}
    for part, count in counts.items():
        part_settings = {**settings, **encoders}.get(part)
        if isinstance(part_settings, Mapping):
            lines[part] = f"{_describe_part(part_settings)}; {count:,} parameters"
        else:
            others.append(f"{part} {count:,}")
    if others:
        lines["other parts"] = ", ".join(others)
    is_no_line = lambda name, value: value is None or isinstance(value, Mapping) or name == "kind"
    plain = [f"{name} {value}" for name, value in settings.items() if not is_no_line(name, value)]
    return lines | {"settings": ", ".join(plain), "in all": f"{_count(shapes):,} parameters"}


def _describe_part(fields: Mapping[str, Any]) -> str:
    first = ("kind", "image_size", "patch_size", "vocab_size", "context_length", "width", "depth", "layers", "heads")
    first += ("blocks", "widths", "stem_width")
    words = [f"{field} {fields[field]}" for field in (*first, "mlp_dim") if field in fields]
    words += [fields["activation"]] if "activation" in fields else []
    return ", ".join(words + ([f"norm_eps {fields['norm_eps']:g}"] if "norm_eps" in fields else []))


def _count(shapes: Mapping[str, tuple[int, ...]], wanted: Any = lambda part: True) -> int:
    return sum(int(np.prod(shape)) for name, shape in shapes.items() if wanted(name.split("/")[0]))


def _describe_images(prepared: Mapping[str, Any]) -> str:
    numbers = "; ".join(f"{name} {[round(x, 4) for x in prepared[name]]}" for name in ("mean", "std"))
    how = prepared["interpolation"] + ("" if prepared.get("antialias", True) else " without antialiasing")
    rule = prepared.get("image_rule", "mmjax")
    return f"{prepared['size']} pixels, {prepared['resize']}, {how}, by the rule of {rule}; {numbers}"
