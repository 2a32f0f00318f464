"""Hugging Face's ViViT, VideoMAE, AST and Whisper: folders read as towers, and towers written as such folders.

A tower's parameters lie under the slot that it fills, `video` or `audio`, and Whisper's decoder, a `TextStack`, under
`text`. A classifier's linear layer is `head`, and the layer norm in front of it, where it has one, `head_norm`.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mmjax import registry
from mmjax.errors import UserError, validate_choice
from mmjax.interop import config_format, export, huggingface, model_settings, param_translation
from mmjax.interop.media_configs import FORMATS, Format, Settings
from mmjax.interop.param_names.rows import Row
from mmjax.interop.tensor_files import Tensors, open_tensors, read_json
from mmjax.interop.weights_path import HF_CONFIG, find_weights, local_path
from mmjax.models import encoders, language
from mmjax.nn import transformer
from mmjax.parallel import partition

_IDS = ("eos_id",)  # of a model's text, which are no fields of `TextStack`
_GENERATION = "generation_config.json"
_SUPPRESSED = (
    "suppress_tokens",
    "begin_suppress_tokens",
)  # of generation_config.json, as `generation.Decoding` has them
_NO_SETTINGS = ("parent", "name", "dtype", "attention_impl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignTower(param_translation.TranslatedTensors):
    """A tower of another library, opened and checked; its arrays are read by `read`.

    What is not listed is as in `TranslatedTensors`.

    Attributes:
      path: of the file with the arrays.
      format: a key of `media_configs.FORMATS`, as `model_type` has it.
      settings: by slot: `{"video": {"kind": "video", ...}}`; of Whisper `text`, too: of `TextStack`, and `eos_id`.
      config: the content of config.json.
      unread: names in the file of what belongs to no tower: a pooler, VideoMAE's decoder of pixels.
    """

    path: Path
    format: str
    settings: Settings
    config: dict[str, Any]
    unread: tuple[str, ...]


def is_tower(path: Any) -> bool:
    """Whether the config beside a folder's weights is one of these towers'; arguments and errors as of `open_tower`."""
    config_file = _weights(path).parent / HF_CONFIG
    return config_file.is_file() and read_json(config_file).get("model_type") in FORMATS


def _weights(path: Any) -> Path:
    local = local_path(path)
    return find_weights(local) if local.is_dir() else local


def open_tower(path: Any) -> ForeignTower:
    """Opens a folder as `save_pretrained` writes it, with config.json and weights.

    Args:
      path: the folder, its file of weights, or `hf-hub:NAME`.

    Raises:
      UserError: missing, damaged, of another kind of model, or with settings that mmjax does not have.
    """
    weights = _weights(path)
    config_file = weights.parent / HF_CONFIG
    if not config_file.is_file():
        raise UserError(f"{weights}: no {HF_CONFIG} lies beside it, which says what the tower is; fetch it, too")
    config = read_json(config_file)
    kind = validate_choice(f"{config_file}: model_type", str(config.get("model_type")), FORMATS)
    form = FORMATS[kind]
    settings = _settings(form, config, config_file)
    tensors = open_tensors(weights)
    prefix = form.prefix if any(name.startswith(form.prefix) for name in tensors) else ""
    table = form.table(settings, prefix)
    shapes = param_shapes(settings) | _head_shapes(form, settings, table, tensors)
    rows = param_translation.select_rows(table, shapes, form.name)
    wanted = param_translation.their_shapes(rows, shapes)
    starts = tuple(start + name for start in {"", prefix} for name in form.unread)
    unread = tuple(name for name in tensors if name not in wanted and name.startswith(starts))
    tensors = tensors.renamed(lambda name: None if name in unread else name)
    param_translation.check_tensors(tensors, rows, shapes)
    return ForeignTower(
        path=weights,
        format=kind,
        settings=settings,
        config=config,
        unread=unread,
        tensors=tensors,
        rows=rows,
        shapes=shapes,
    )


def suppressed_tokens(tower: ForeignTower) -> dict[str, tuple[int, ...]]:
    """The ids that Whisper does not write, as fields of `mmjax.models.generation.Decoding`.

    They are those of generation_config.json beside the weights; where there is none, of config.json, as older files
    have them there. Nothing for towers that write nothing.

    Raises:
      UserError: they are no lists of its tokens.
    """
    if "text" not in tower.settings:
        return {}
    file = tower.path.parent / _GENERATION
    fields = read_json(file) if file.is_file() else tower.config
    file = file if file.is_file() else tower.path.parent / HF_CONFIG
    result: dict[str, tuple[int, ...]] = {}
    for name in _SUPPRESSED:
        ids, vocabulary = fields.get(name) or [], tower.settings["text"]["vocab_size"]
        if not isinstance(ids, list) or not all(type(number) is int and 0 <= number < vocabulary for number in ids):
            raise UserError(f"{file}: {name}={str(ids)[:60]} is no list of token ids below {vocabulary}")
        result[name] = tuple(ids)
    return result


def write_tower(
    folder: Path,
    settings: Mapping[str, Mapping[str, Any]],
    params: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Writes a folder that `from_pretrained` loads; the class is in its config.json.

    A ViViT without a head is a `VivitModel(add_pooling_layer=False)`.

    Args:
      folder: made where it is missing.
      settings: by slot, as in `ForeignTower`; fields at their defaults may be left out.
      params: our arrays by path, those of a head too where there is one.
      config: further fields of config.json, such as `ForeignTower.config`, whose labels are then kept.

    Returns:
      The files written.

    Raises:
      UserError: there is no such model there, or a parameter is missing, unknown or misshapen; nothing has been written
        then.
    """
    settings = {slot: _completed(slot, fields) for slot, fields in settings.items()}
    kind = _format_of(settings)
    form = FORMATS[kind]
    shapes = {path: tuple(array.shape) for path, array in params.items()}
    for path, shape in param_shapes(settings).items():
        if shapes.get(path) != shape:
            problem = f"has shape {list(shapes[path])}" if path in shapes else "is missing"
            raise UserError(f"the parameter {path} {problem}; by the settings it has shape {list(shape)}")
    headed = "text" in settings or "head/kernel" in params
    if "head/kernel" in params and ("head_norm/scale" in params) != form.has_head_norm(settings):
        right = "has" if form.has_head_norm(settings) else "has none"
        raise UserError(
            f"the parameter head_norm/scale: a {form.headed} of these settings {right} before its classifier"
        )
    table = form.table(settings, form.prefix if headed else "")
    rows = param_translation.select_rows(table, shapes, form.name)
    try:
        theirs = form.to_config(settings)
    except ValueError as error:
        raise UserError(str(error)) from error
    fields = dict(config or {}) | theirs | dict(form.fixed) | dict(model_type=kind, dtype="float32")
    fields["architectures"] = [form.headed if headed else form.bare]
    if "head/kernel" in shapes and len(fields.get("id2label", ())) != shapes["head/kernel"][1]:
        labels = [f"LABEL_{index}" for index in range(shapes["head/kernel"][1])]
        fields |= dict(id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)})
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / HF_CONFIG, folder / "model.safetensors"]
    files[0].write_text(json.dumps(fields, indent=2) + "\n")
    names = param_translation.their_shapes(rows, shapes)
    export.write_safetensors(files[1], names, param_translation.export_params(params, rows))
    return files


def param_shapes(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of towers and of a decoder by path; nothing is computed.

    Args:
      settings: by slot, as in `ForeignTower`.
    """
    return dict(_param_shapes(json.dumps(settings, sort_keys=True)))


@functools.lru_cache(maxsize=8)
def _param_shapes(json_settings: str) -> Mapping[str, tuple[int, ...]]:
    settings, shapes = json.loads(json_settings), {}
    for slot, fields in settings.items():
        init = _init_of_decoder if slot == "text" else _init_of_tower
        tree = jax.eval_shape(init(make_part(slot, fields), fields, settings), jax.random.key(0))["params"]
        shapes |= {f"{slot}/{path}": leaf.shape for path, leaf in partition.flattened(tree).items()}
    return shapes


def make_part(slot: str, settings: Mapping[str, Any]) -> Any:
    """The tower of a slot, or the decoder of `text`: a flax module.

    Args:
      slot: its name.
      settings: as in `ForeignTower`.
    """
    if slot == "text":
        return encoders.build(language.TextStack, slot, settings, ignored=_IDS)
    cls = registry.encoders.load(settings["kind"], where=f"{slot}.kind")
    return encoders.build(cls, slot, settings, ignored=("kind",))


def _init_of_tower(module, settings, others):
    del others
    if settings["kind"] == "video":
        side = settings["image_size"]
        shape = (1, settings["frames"], side, side, 3)
    else:
        shape = (1, settings["frames"], settings["mel_bins"])
    return lambda key: module.init(key, jnp.zeros(shape))


def _init_of_decoder(module, settings, others):
    del settings
    memory = transformer.Memory(jnp.zeros((1, 1, others["audio"]["width"])))
    ids = jnp.zeros((1, 1), jnp.int32)

    def logits(module):
        return module.logits(module(ids, None, memory).tokens)

    return lambda key: module.init(key, method=logits)


# -- reading -----------------------------------------------------------------------------------------------------------


def _settings(form: Format, config: Mapping[str, Any], path: Path) -> Settings:
    """Settings by slot, from config.json.

    Raises:
      UserError: a field has a value that no model has, or one that mmjax does not have.
    """
    settings = config_format.read_settings(form, config, path)
    for slot, part in settings.items():
        names = huggingface.ACTIVATIONS
        part["activation"] = model_settings.translate_activation(f"{path}: activation", part["activation"], names)
        _check_sizes(f"{path}: the {slot} part's", part)
    return settings


def _check_sizes(label: str, part: Mapping[str, Any]) -> None:
    """Checks what would make a tower impossible to build.

    Raises:
      UserError: two sizes do not fit.
    """
    if part["width"] % part["heads"]:
        raise UserError(f"{label} {part['heads']} attention heads do not divide its width of {part['width']}")
    pairs, rows = [], part.get("frames", 0)
    if "image_size" in part:
        pairs = [("image_size", "patch_size"), ("frames", "tubelet_frames")]
        rows = (part["image_size"] // part["patch_size"]) ** 2 * part["frames"]
    if rows * part["width"] > config_format.LARGEST_TABLE:
        raise UserError(f"{label} sizes make a table of positions of {rows} x {part['width']}, which no model has")
    for whole_name, part_name in pairs:
        if part[whole_name] % part[part_name]:
            raise UserError(f"{label} {whole_name}={part[whole_name]} does not divide by {part_name}={part[part_name]}")
    for size, window in (
        zip((part["frames"], part["mel_bins"]), part["patch_size"], strict=True) if "stride" in part else ()
    ):
        if size < window:
            raise UserError(f"{label} spectrogram of {size} is less than a patch of {window}")


def _head_shapes(
    form: Format, settings: Settings, table: Sequence[Row], tensors: Tensors
) -> dict[str, tuple[int, ...]]:
    """Shapes of the classifier's parameters where the file has one: how many classes, only its weight says."""
    row = next((row for row in table if row.ours == ("head/kernel",)), None)
    if row is None or row.theirs[0] not in tensors:
        return {}
    classes = tensors[row.theirs[0]][0]
    (tower,) = settings.values()
    shapes: dict[str, tuple[int, ...]] = {"head/kernel": (tower["width"], classes), "head/bias": (classes,)}
    if form.has_head_norm(settings):
        shapes |= {f"head_norm/{name}": (tower["width"],) for name in ("scale", "bias")}
    return shapes


# -- writing -----------------------------------------------------------------------------------------------------------


def _completed(slot: str, settings: Mapping[str, Any]) -> Settings:
    """Settings with the defaults of what is left out."""
    if slot == "text":
        cls: type[Any] = language.TextStack
    else:
        cls = registry.encoders.load(settings.get("kind", slot), where=f"{slot}.kind={settings.get('kind', slot)!r}")
    fields = {field.name: field.default for field in dataclasses.fields(cls) if field.name not in _NO_SETTINGS}
    defaults = {name: value for name, value in fields.items() if value is not dataclasses.MISSING}
    return defaults | ({} if slot == "text" else {"kind": slot}) | dict(settings)


def _format_of(settings: Settings) -> str:
    """The format that has a tower of such settings.

    Raises:
      UserError: none has; the first field that differs from the nearest one is named.
    """
    kinds = {slot: part.get("kind", slot) for slot, part in settings.items()}
    if kinds == {"video": "video"}:
        kind = "videomae" if settings["video"]["positions"] == "sincos" else "vivit"
    elif kinds == {"audio": "audio"}:
        kind = "audio-spectrogram-transformer"
    elif kinds == {"audio": "whisper", "text": "text"}:
        kind = "whisper"
    else:
        towers = " and ".join(f"{slot} of kind {kind!r}" for slot, kind in kinds.items())
        names = ", ".join(form.name for form in FORMATS.values())
        raise UserError(f"{towers}: not a model that has a format there; those are {names}, with its decoder as text")
    for field, value, wanted in config_format.differences(FORMATS[kind], settings):
        raise UserError(f"{field}={value!r}: {FORMATS[kind].name} has {wanted!r} there")
    return kind
