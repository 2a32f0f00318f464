"""`mmjax info`: what a workdir or another library's checkpoint holds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax import tasks
from mmjax.cli import runtime
from mmjax.config import serialize
from mmjax.data.image.transforms import ImageSpec
from mmjax.inference import checkpoint_source
from mmjax.interop import foreign_checkpoint, model_settings
from mmjax.tasks import capabilities
from mmjax.training import checkpoint

_ANSWERS_TOLD = 5


def main(argv: Sequence[str] | None = None) -> int:
    """`info PATH [--step=N] [--set FIELD=VALUE ...]`."""
    parser = runtime.make_parser(
        "info", "Says what a workdir or another library's checkpoint holds; no weights are read."
    )
    parser.epilog = None
    parser.add_argument("path", metavar="PATH", help="a workdir, file or folder, or hf-hub:NAME")
    parser.add_argument("--step", type=int, help="checkpoint of a workdir; the latest by default")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="what the file does not tell")

    def command(options, overrides):
        runtime.no_overrides(overrides)
        lines = describe(options.path, step=options.step, changes=model_settings.parse(options.set))
        width = max(map(len, lines))
        print("\n".join(f"{name:{width}}  {value}" for name, value in lines.items()))
        return 0

    return runtime.run(parser, argv, command)


def describe(path: Any, *, step: int | None = None, changes: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Says what a path holds, as names and lines; reads configs and shapes, no weights.

    Raises:
      UserError: nothing that mmjax reads.
    """
    if checkpoint_source.is_workdir(path):
        return _describe_workdir(path, step)
    found = foreign_checkpoint.open_source(path, changes)
    size = sum(file.stat().st_size for file in _files(found))
    lines = {
        "path": str(path),
        "format": f"{foreign_checkpoint.FORMATS[found.format]}, {found.path.name}, {size:,} bytes",
        "settings": f"from {found.config_file.name}" if found.config_file else "from shapes and what was given",
    }
    lines |= _describe_towers(found.settings, found.shapes)
    return lines | {
        "images": _describe_images(found.preprocessing),
        "tokenizer": found.tokenizer or "none beside it: texts must be token ids",
    }


def _describe_workdir(path: Any, step: int | None) -> dict[str, str]:
    checkpoints, chosen, meta = checkpoint_source.open_step(path, step, "--step")
    try:
        steps, shapes = checkpoints.all_steps(), checkpoints.param_shapes(chosen)
    finally:
        checkpoints.close()
    config = serialize.from_json(json.dumps(meta["config"]))
    facts = tasks.DatasetMetadata.from_json(meta.get("facts", {}))
    model = config.model.to_dict()
    can = ", ".join(_abilities(config, meta, facts)) or "be trained further"
    lines = {
        "path": str(path),
        "format": f"mmjax workdir of {config.name!r}, {config.variant}",
        "steps": f"{', '.join(map(str, steps))}; shown: {chosen}",
        "trained on": f"{config.data.train or '-'}, {meta['position']:,} examples",
        "model": f"{capabilities.describe_model(config)}; it can {can}",
    }
    lines |= (_describe_towers if model.get("kind", "two_tower") == "two_tower" else _describe_parts)(model, shapes)
    if facts.answers:
        more = ", ..." if len(facts.answers) > _ANSWERS_TOLD else ""
        lines["answers"] = f"{len(facts.answers):,}: {', '.join(facts.answers[:_ANSWERS_TOLD])}{more}"
    if facts.shapes:
        lines["modalities"] = "; ".join(f"{name} {list(shape)}" for name, shape in facts.shapes)
    if meta["preprocessing"]:
        lines["images"] = _describe_images(meta["preprocessing"])
    if tokenizer := meta["tokenizer"]:
        told = f"{tokenizer['spec']}, {tokenizer['vocab_size']:,} ids, {tokenizer['context_length']} a text"
        lines["tokenizer"] = told
    return lines | {"written by": ", ".join(f"{name} {version}" for name, version in meta["versions"].items())}


def _abilities(config: Any, meta: Mapping[str, Any], facts: tasks.DatasetMetadata) -> tuple[str, ...]:
    """What the run's model can be asked for; nothing of it depends on the devices that are here."""
    config.attention = "auto"
    spec = ImageSpec(**meta["preprocessing"]) if meta["preprocessing"] else None
    tokenizer = tasks.make_tokenizer(config, file=checkpoint.tokenizer_file(meta)) if config.objectives.mlm else None
    return capabilities.capabilities(tasks.Task(config, spec, tokenizer, None, facts))


def _files(found: foreign_checkpoint.Source) -> list[Path]:
    if not found.path.name.endswith(".index.json"):
        return [found.path]
    places = json.loads(found.path.read_text())["weight_map"]
    return [found.path.parent / name for name in sorted(set(places.values()))]


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
        own = {**settings, **encoders}.get(part)
        if isinstance(own, Mapping):
            lines[part] = f"{_describe_part(own)}; {count:,} parameters"
        else:
            others.append(f"{part} {count:,}")
    if others:
        lines["other parts"] = ", ".join(others)
    plain = [f"{name} {value}" for name, value in settings.items() if not isinstance(value, Mapping) and name != "kind"]
    return lines | {"settings": ", ".join(plain), "in all": f"{_count(shapes):,} parameters"}


def _describe_part(fields: Mapping[str, Any]) -> str:
    first = ("kind", "image_size", "patch_size", "vocab_size", "context_length", "width", "depth", "layers", "heads")
    told = [f"{field} {fields[field]}" for field in (*first, "mlp_dim") if field in fields]
    told += [fields["activation"]] if "activation" in fields else []
    return ", ".join(told + ([f"norm_eps {fields['norm_eps']:g}"] if "norm_eps" in fields else []))


def _count(shapes: Mapping[str, tuple[int, ...]], wanted: Any = lambda part: True) -> int:
    return sum(int(np.prod(shape)) for name, shape in shapes.items() if wanted(name.split("/")[0]))


def _describe_images(prepared: Mapping[str, Any]) -> str:
    numbers = "; ".join(f"{name} {[round(x, 4) for x in prepared[name]]}" for name in ("mean", "std"))
    how = prepared["interpolation"] + ("" if prepared.get("antialias", True) else " without antialiasing")
    rule = prepared.get("image_rule", "mmjax")
    return f"{prepared['size']} pixels, {prepared['resize']}, {how}, by the rule of {rule}; {numbers}"
