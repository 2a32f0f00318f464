"""Towers as StableHLO through `jax.export`: files that run with jax and safetensors, without mmjax."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from mmjax import tasks
from mmjax.errors import UserError, validate_choice
from mmjax.inference import checkpoint_source
from mmjax.interop import exported_tokenizers
from mmjax.interop.export import write_safetensors
from mmjax.io import paths
from mmjax.parallel import partition
from mmjax.tasks import capabilities, config_queries
from mmjax.utils.optional_imports import require
from mmjax.utils.version import VERSION

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
DESCRIPTION = "mmjax_export.json"
_OF_IMAGES = ("size", "resize", "interpolation", "antialias", "mean", "std", "image_rule")
_ENCODE = "encode_"  # begins the capabilities that are exported


def export(
    src: Any,
    dst: Any,
    *,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    step: int | None = None,
    tokenizer: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Writes what a model embeds with, a tower each, for batches of any size.

    Of a tower NAME (`image`, `text`, `video`, ...): `NAME.stablehlo`, which takes a dictionary of parameters and the
    tower's inputs, and `NAME.safetensors` with them. `mmjax_export.json` says how the inputs are prepared, `README.md`
    how the files are used; the tokenizer is written as transformers reads it.

    Args:
      src, step, tokenizer, settings: see `mmjax.load`.
      dst: a folder that is missing or empty.
      platforms: that the files run on, of `PLATFORMS`.

    Returns:
      The files written.

    Raises:
      UserError: `src` cannot be read or embeds nothing, or `dst` is not empty.
    """
    require("flatbuffers", extra="export", where="mmjax export")
    for platform in platforms:
        validate_choice("--platforms", platform, PLATFORMS)
    with paths.new_folder(dst, "DST") as folder:
        opened = checkpoint_source.open_source(src, step=step, tokenizer=tokenizer, settings=settings)
        _write(src, opened, folder, platforms)
    return sorted(Path(paths.as_path(dst)).iterdir())


def _write(src: Any, opened: checkpoint_source.OpenedCheckpoint, target: Path, platforms: Sequence[str]) -> None:
    task = _portable_task(opened)
    names = [name.removeprefix(_ENCODE) for name in capabilities.capabilities(task) if name.startswith(_ENCODE)]
    if not names:
        described = capabilities.describe_model(opened.config)
        raise UserError(f"SRC={src}: {described} embeds nothing that could be exported")
    params = partition.flattened(opened.read_unsharded())
    words = opened.tokenizer if opened.has_tokenizer and "text" in names else None
    towers = {}
    for name in names:
        function, inputs = _tower(task, name, opened.shapes)
        kept = _used(function, params, inputs)
        exported = jax_export.export(jax.jit(function), platforms=tuple(platforms))(
            {path: jax.ShapeDtypeStruct(params[path].shape, jnp.float32) for path in kept}, *_symbolic(inputs)
        )
        (target / f"{name}.stablehlo").write_bytes(exported.serialize())
        shapes = {path: tuple(params[path].shape) for path in kept}
        arrays = ((path, np.asarray(params[path])) for path in kept)
        write_safetensors(target / f"{name}.safetensors", shapes, arrays)
        described = [f"{dtype} [batch, {', '.join(map(str, shape))}]" for shape, dtype in inputs]
        towers[name] = {"inputs": described, "output": f"float32 [batch, {exported.out_avals[0].shape[-1]}]"}
    description = _describe(opened, task, params, towers) | {"platforms": list(platforms)}
    files = {
        DESCRIPTION: (json.dumps(description, indent=2) + "\n").encode(),
        "README.md": _readme(towers, platforms).encode(),
    }
    for file, content in (files | (exported_tokenizers.files(words) if words else {})).items():
        (target / file).write_bytes(content)


def _portable_task(opened: checkpoint_source.OpenedCheckpoint) -> tasks.Task:
    """The task with the attention that every platform has."""
    opened.config = dataclasses.replace(opened.config, attention="xla")
    return opened.make_task()


Inputs = list[tuple[tuple[int, ...], str]]


def _tower(
    task: tasks.Task, name: str, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Callable[..., jax.Array], Inputs]:
    """A tower's function of parameters by path and its inputs, and the inputs' shapes (without the batch) and types."""

    def tree(params):
        # A model wants all of its parameters, and reads those of the tower.
        others = {path: jnp.zeros(shape) for path, shape in shapes.items() if path not in params}
        return partition.nested({**others, **params})

    if name == "text":
        length = config_queries.text_length(task.config)
        function = lambda params, ids, mask: task.embed_text(tree(params), ids, mask)
        return function, [((length,), "int32"), ((length,), "bool")]
    blank = task.input_specs.blank()[name]
    function = lambda params, arrays: task.embed_modality(tree(params), name, arrays)
    return function, [(blank.shape, str(blank.dtype))]


def _symbolic(inputs: Inputs) -> list[jax.ShapeDtypeStruct]:
    (batch,) = jax_export.symbolic_shape("batch")
    return [jax.ShapeDtypeStruct((batch, *shape), dtype) for shape, dtype in inputs]


def _used(function: Callable[..., Any], params: Mapping[str, Any], inputs: Inputs) -> list[str]:
    """Paths of the parameters that a function reads."""
    shapes = {path: jax.ShapeDtypeStruct(array.shape, jnp.float32) for path, array in params.items()}
    arrays = [jax.ShapeDtypeStruct((1, *shape), dtype) for shape, dtype in inputs]
    return partition.read_paths(function, shapes, *arrays)


def _describe(
    opened: checkpoint_source.OpenedCheckpoint, task: tasks.Task, params: Mapping[str, Any], towers: Mapping[str, Any]
) -> dict[str, Any]:
    """What a program, or a person, must know to use the files."""
    content: dict[str, Any] = {
        "model": " ".join(dict.fromkeys((opened.config.name, opened.config.variant))),
        "towers": towers,
        "precision": opened.config.precision,
        "preprocessing": {},
    }
    if "image" in towers:
        prepared = opened.preprocessing or {}
        content["preprocessing"]["image"] = {field: prepared[field] for field in _OF_IMAGES if field in prepared}
    for spec in task.input_specs.others:
        if spec.name in towers and dataclasses.is_dataclass(spec.decoder):
            content["preprocessing"][spec.name] = dataclasses.asdict(spec.decoder)
    if opened.has_tokenizer and "text" in towers and opened.tokenizer is not None:
        content["tokenizer"] = opened.tokenizer.describe()
    for name, of in (("logit_scale", np.exp), ("logit_bias", float)):
        if name in params:
            content[name] = float(of(np.asarray(params[name], np.float32)))
    return content | {"written by": {"mmjax": VERSION, "jax": jax.__version__}}


def _readme(towers: Mapping[str, Any], platforms: Sequence[str]) -> str:
    """How the files are used, as Markdown."""
    name, tower = next(iter(towers.items()))
    inputs = ", ".join(("ids", "mask") if name == "text" else (f"{name}s",))
    others = "".join(f"- `{other}`: {', '.join(fields['inputs'])}\n" for other, fields in towers.items())
    taken = ", ".join(tower["inputs"])
    return f"""# Towers as StableHLO

Written by mmjax {VERSION} for {", ".join(platforms)}. They run without mmjax:
`pip install jax safetensors flatbuffers`.

```python
import jax
from safetensors.numpy import load_file

{name} = jax.export.deserialize(bytearray(open("{name}.stablehlo", "rb").read()))
embeddings = {name}.call(load_file("{name}.safetensors"), {inputs})  # {taken}
```

Rows of embeddings have unit length. What each tower takes, for any batch:

{others}
Images and videos are uint8 from 0 to 255, resized as `{DESCRIPTION}` says under `preprocessing`;
their mean and standard deviation are applied within. A text's mask is true up to and including its
end of text. Cosine similarities times `logit_scale`, plus `logit_bias` where there is one, are logits.
"""
