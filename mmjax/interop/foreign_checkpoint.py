"""Checkpoints of other libraries, opened and checked before any number is read."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import UserError
from mmjax.interop import (
    albef_files,
    big_vision,
    huggingface,
    lone_bert,
    media_configs,
    model_settings,
    openclip,
    openclip_bare,
    openclip_coca,
    openclip_image,
    param_translation,
    published_towers,
    timm_towers,
    tokenizer_files,
)
from mmjax.interop import preprocessing as preprocessing_lib
from mmjax.interop.families import table as families
from mmjax.interop.families.family import read_settings, without_copies
from mmjax.interop.families.table import FAMILIES, READ_ONLY
from mmjax.interop.named_models import NamedModel
from mmjax.interop.param_names import big_vision as big_vision_names
from mmjax.interop.purpose import Purpose, of_two_towers
from mmjax.interop.tensor_files import Tensors, open_tensors, read_json
from mmjax.interop.weights_path import HF_CONFIG, HUB, OPENCLIP_CONFIG, find_weights, local_path

FORMATS = {
    "openclip": "OpenCLIP",
    "hf-clip": "Hugging Face's CLIPModel",
    "hf-siglip": "Hugging Face's SiglipModel",
    "big_vision": "big_vision",
    "albef": albef_files.NAME,
    **{family.key: family.name for family in (*FAMILIES, *READ_ONLY)},
}
_HF_TOKENIZER = "tokenizer_config.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignCheckpoint(param_translation.TranslatedTensors):
    """A checkpoint of another library, opened and checked; its arrays are read by `read`.

    What is not listed is as in `TranslatedTensors`.

    Attributes:
      path: of the file with the arrays.
      name: the model's on the Hub, its folder's or its file's.
      format: a key of `FORMATS`.
      settings: of the model, as `config.model` has them; of two towers where there is no `kind`.
      preprocessing: fields of `transforms.ImageSpec`: `size`, `resize`, `interpolation`, `mean`, `std`, `image_rule`.
      tokenizer: as `data.tokenizer` has it; empty where none is known.
      config_file: where the settings come from; None where they come from shapes.
      purpose: what the model was trained for.
      notes: lines on what is not as in the other library.
      text_length: tokens that texts are cut to, where they are fewer than the model has positions for; else 0.
    """

    path: Path
    name: str
    format: str
    settings: dict[str, Any]
    preprocessing: dict[str, Any]
    tokenizer: str
    config_file: Path | None
    purpose: Purpose
    notes: tuple[str, ...] = ()
    text_length: int = 0


def open_checkpoint(
    path: Any, overrides: Mapping[str, Any] | None = None, *, named: NamedModel | None = None
) -> ForeignCheckpoint:
    """Opens a checkpoint in OpenCLIP's, Hugging Face's, big_vision's or ALBEF's format.

    Args:
      path: a file, a folder, or `hf-hub:NAME`.
      overrides: settings that the user gave, such as `{"activation": "quick_gelu"}`; see
        `model_settings.apply_overrides`.
      named: the model that it must be; gives the settings, preprocessing and tokenizer that no file beside it has.

    Raises:
      UserError: missing, damaged, unsafe, of another kind of model, or with settings that are not known.
    """
    name, path = str(path), local_path(path)
    weights = find_weights(path) if path.is_dir() else path
    model_name = name.removeprefix(HUB) if name.startswith(HUB) else path.resolve().name if path.is_dir() else path.stem
    if (opened := _open_family(weights, model_name, overrides or {}, named)) is not None:
        return opened
    tensors = _strip_prefixes(open_tensors(weights))
    if albef_files.MARKER in tensors:
        if named is not None:
            raise UserError(f"weights={str(weights)!r}: an ALBEF, and {named.name} is another model; use mmjax.load")
        parts = albef_files.open_parts(tensors, overrides or {})
        return ForeignCheckpoint(path=weights, name=model_name, format="albef", config_file=None, **parts)
    form = _recognize_format(tensors)
    if form == "big_vision":
        tensors = big_vision.normalize_names(tensors)
    folder = weights.parent
    config_file = folder / (OPENCLIP_CONFIG if form == "openclip" else HF_CONFIG)
    config = read_json(config_file) if form != "big_vision" and config_file.is_file() else None
    if openclip_coca.MARKER in tensors:
        parts = openclip_coca.open_parts(tensors, config, config_file, overrides or {}, named)
        read_file = None if config is None else config_file
        return ForeignCheckpoint(path=weights, name=model_name, format=form, config_file=read_file, **parts)
    if form.startswith("hf-") and config is not None:
        form = f"hf-{huggingface.family_of_config(config, config_file)}"
    read = {"openclip": _openclip, "hf-clip": _hugging_face, "hf-siglip": _hugging_face, "big_vision": _big_vision}
    try:
        settings, table, prepared, tokenizer = read[form](tensors, form, config, config_file)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{config_file}: not a config of {FORMATS[form]} ({reason}); fetch it again") from error
    if named is not None:
        tokenizer = tokenizer or named.tokenizer
        if config is None:
            model_settings.check_equal(settings, named.settings, weights, named.name)
            model_settings.fill_missing(settings, named.settings)
            prepared = named.preprocessing if form == "openclip" else prepared
    model_settings.apply_overrides(settings, overrides or {}, None if config is None else config_file)
    model_settings.complete(settings, weights if config is None else config_file)
    if named is not None:
        model_settings.check_equal(settings, named.settings, weights, named.name)
    shapes = param_translation.param_shapes(settings)
    rows = param_translation.select_rows(table, shapes, FORMATS[form])
    param_translation.check_tensors(tensors, rows, shapes)
    return ForeignCheckpoint(
        path=weights,
        name=model_name,
        format=form,
        settings=settings,
        preprocessing=prepared | {"size": settings["image"]["image_size"]},
        tokenizer=tokenizer,
        config_file=config_file if config is not None else None,
        purpose=of_two_towers(settings),
        text_length=openclip.text_length(config, settings) if form == "openclip" else 0,
        tensors=tensors,
        rows=rows,
        shapes=shapes,
    )


def _open_family(
    weights: Path, name: str, overrides: Mapping[str, Any], named: NamedModel | None
) -> ForeignCheckpoint | None:
    """Opens one of `families`; None where the config beside the weights is of none."""
    folder = weights.parent
    config_file = folder / HF_CONFIG
    # OpenCLIP's file may lie beside a config of Hugging Face's.
    if not config_file.is_file() or weights.name.startswith(OPENCLIP_CONFIG.partition("_config")[0]):
        return None
    config = read_json(config_file)
    family = families.of_config(config, config_file)
    if family is None:
        return None
    if named is not None:
        raise UserError(f"weights={str(weights)!r}: {family.name}, and {named.name} has two towers; use mmjax.load")
    for field, value in overrides.items():
        raise UserError(f"{field}={value!r} was given, but {config_file} has all settings of the model; leave it out")
    settings = read_settings(family, config, config_file)
    shapes = param_translation.param_shapes(settings)
    rows = param_translation.select_rows(family.table(settings), shapes, family.name)
    tensors = open_tensors(weights).renamed(lambda name: family.renamed(_WRAPPERS.sub("", name)))
    wanted = param_translation.their_shapes(rows, shapes)
    tensors = without_copies(family, tensors, rows)
    tensors = tensors.renamed(lambda name: None if name not in wanted and family.is_unread(name) else name)
    param_translation.check_tensors(tensors, rows, shapes)
    size = settings["image"]["image_size"]
    prepared, notes = family.prepare_images(folder, size)
    return ForeignCheckpoint(
        path=weights,
        name=name,
        format=family.key,
        settings=settings,
        preprocessing=prepared | {"size": size},
        tokenizer=tokenizer_files.of_family(folder, family.tokenizer_options(settings)),
        config_file=config_file,
        purpose=family.purpose(config, folder),
        notes=notes,
        tensors=tensors,
        rows=rows,
        shapes=shapes,
    )


# Names of parameters that only one format has: all of these are in the file.
_MARKER_PARAMS = {
    "hf-siglip": ("vision_model.head.probe", "text_model.head.weight"),
    "hf-clip": ("vision_model.embeddings.class_embedding", "visual_projection.weight", "text_projection.weight"),
    "openclip": ("visual.conv1.weight", "visual.positional_embedding"),
    "openclip-timm": ("visual.trunk.patch_embed.proj.weight",),
    "openclip-convnext": ("visual.trunk.stages.0.blocks.0.gamma",),
    "openclip-resnet": ("visual.layer1.0.conv1.weight", "visual.attnpool.positional_embedding"),
}


# What wrappers of PyTorch put into names, wherever: DDP, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = re.compile(r"^module\.|_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")
_MODEL_PREFIXES = ("state_dict.", "model_state_dict.", "model.")  # the first that is there holds the model


def _strip_prefixes(tensors: Tensors) -> Tensors:
    """The arrays by names without what trainers put around them; those of the optimizer are left out.

    Raises:
      UserError: there are several models, and which one is meant would have to be guessed.
    """
    around = next((part for part in _MODEL_PREFIXES if any(name.startswith(part) for name in tensors)), "")
    tensors = _without_prefix(tensors, around)
    prefixes = _prefixes_of_models(tensors)
    if "" in prefixes or not prefixes:
        return tensors
    if len(prefixes) > 1:
        names = ", ".join(f"{prefix}*" for prefix in prefixes)
        raise UserError(f"{tensors.path}: holds several models ({names}); save the state_dict of one of them alone")
    return _without_prefix(tensors, prefixes[0])


def _without_prefix(tensors: Tensors, prefix: str) -> Tensors:
    return tensors.renamed(
        lambda name: _WRAPPERS.sub("", name.removeprefix(prefix)) if name.startswith(prefix) else None
    )


def _prefixes_of_models(tensors: Tensors) -> list[str]:
    """What stands before the names of models that are recognised, such as `model.`, as Lightning has it."""
    prefixes = []
    for first, *others in _MARKER_PARAMS.values():
        starts = [name.removesuffix(first) for name in tensors if name.endswith(first)]
        prefixes += [start for start in starts if all(start + other in tensors for other in others)]
    return sorted({prefix for prefix in prefixes if not prefix or prefix.endswith(".")})


# By parameters of Hugging Face's CLIPTextModel, CLIPVisionModel, SiglipVisionModel and their like.
_LONE_TOWERS = {
    "a text tower": "token_embedding.weight",
    "an image tower": "embeddings.patch_embedding.weight",
    "an image tower of OpenCLIP": "transformer.resblocks.0.ln_1.weight",
    "an image tower of timm": "patch_embed.proj.weight",
    "a ResNet": "layer1.0.conv1.weight",
}
_OPENCLIP_WORDS = ("token_embedding.weight", "word_embeddings.weight")
_PEFT = re.compile(r"\.lora_[AB]\.|\.base_layer\.")


def _recognize_format(tensors: Tensors) -> str:
    _refuse_unsupported(tensors)
    if adapter := next(filter(_PEFT.search, tensors), None):
        raise UserError(
            f"{tensors.path}: adapters of peft ({adapter}); save the model that merge_and_unload() gives, and load that"
        )
    for form, names in _MARKER_PARAMS.items():
        if all(name in tensors for name in names):
            if form.startswith("openclip") and not any(name.endswith(_OPENCLIP_WORDS) for name in tensors):
                raise UserError(f"{tensors.path}: an image tower of OpenCLIP alone; give a file with both towers")
            return form.partition("-")[0] if form.startswith("openclip") else form
    if any(name.removeprefix("params/").startswith("img/embedding/") for name in tensors):
        return "big_vision"
    if (tensors.path.parent / f"{tensors.path.name.split('-')[0]}.safetensors.index.json").is_file():
        raise UserError(f"{tensors.path}: one of several files of a model; give their folder, {tensors.path.parent}")
    kind = _model_type(tensors.path.parent / HF_CONFIG)
    if kind in media_configs.FORMATS:
        raise UserError(
            f"{tensors.path}: {media_configs.FORMATS[kind].name}, which has no image and text tower;"
            " mmjax.interop.media_towers.open_tower reads it"
        )
    if lone_bert.is_bert(tensors.path):
        raise UserError(
            f"{tensors.path}: a BERT alone, which sees no images; config.init_from takes it as a text tower, or as the"
            " layers of ALBEF, BLIP or a Q-Former"
        )
    _refuse_lone_tower(tensors)
    shown = ", ".join(list(tensors)[:3]) or "none at all"
    raise UserError(
        f"{tensors.path}: not a CLIP or SigLIP of OpenCLIP, Hugging Face or big_vision; its parameters are {shown} ..."
    )


def _refuse_lone_tower(tensors: Tensors) -> None:
    """Checks that a file is not one tower alone.

    Raises:
      UserError: it is, by the first of `_LONE_TOWERS` that it has.
    """
    for name, sign in _LONE_TOWERS.items():
        if any(param.endswith(sign) for param in tensors):
            raise UserError(
                f"{tensors.path}: {name} alone; give a file or folder with both towers, such as a CLIPModel's, or the"
                " folder with the tower's config.json"
            )


def _model_type(config_file: Path) -> str:
    """What Hugging Face's config says that the model is; empty where there is no such file."""
    return str(read_json(config_file).get("model_type", "")) if config_file.is_file() else ""


# -- what is not read --------------------------------------------------------------------------------------------------

# What a CoCa has, in other models of OpenCLIP.
_OF_COCA = (
    (r"visual\.attn_pool\.", "an OpenCLIP model with CoCa's attentional pooling"),
    (r"text\.cls_emb$", "an OpenCLIP model with a class token in its texts, as CoCa has it"),
)
# Architectures of other libraries, by patterns of names that only they have. The first that matches is reported.
_BLOCKS = r"visual\.trunk\.blocks\.\d+\."
_UNSUPPORTED = (
    (
        r"text\.transformer\.(?!resblocks\.|embeddings\.|encoder\.layer\.|pooler\.)",
        "an OpenCLIP model with a Hugging Face text tower that is none of BERT's kind",
    ),
    (r"visual\.trunk\.final_conv\.", "an OpenCLIP model with a FastViT (MobileCLIP)"),
    (r"visual\.trunk\.stages\.\d+\.blocks\.\d+\.mlp\.grn\.", "an OpenCLIP model with a ConvNeXt V2"),
    (r"visual\.trunk\.patch_embed\.backbone\.stages\.", "an OpenCLIP model with a ViTamin"),
    (r"visual\.trunk\.patch_embed\.backbone\.", "an OpenCLIP model with a hybrid ViT (MobileCLIP)"),
    (r"visual\.trunk\.layers\.\d+\.blocks\.", "an OpenCLIP model with a Swin transformer"),
    (_BLOCKS + r"attn\.rel_pos\.", "an OpenCLIP model with a ViT of relative positions"),
    (r"(text\.)?positional_embedding_res$", "a LongCLIP in its own file, with two tables of positions"),
    (r"(params/)?img/cls$", "a big_vision tower with a class token"),
)
_TRUNK, _POOL = "visual.trunk.", "visual.trunk.attn_pool.latent"


def _refuse_unsupported(tensors: Tensors) -> None:
    """Checks a file's names for what other architectures have.

    Raises:
      UserError: naming the architecture and the parameter that shows it.
    """
    for sign, architecture in (*_UNSUPPORTED, *(() if openclip_coca.MARKER in tensors else _OF_COCA)):
        name = next((name for name in tensors if re.match(sign, name)), None)
        if name is not None:
            raise UserError(f"{tensors.path}: {architecture} ({name}), which is not read")
    is_timm = any(name.startswith(_TRUNK) for name in tensors)
    if is_timm and openclip_image.of_tensors(tensors) in ("timm_siglip", "vit") and _POOL not in tensors:
        raise UserError(
            f"{tensors.path}: an OpenCLIP model with a tower of timm's that is not read; of those mmjax has"
            f" {timm_towers.KNOWN}"
        )


# -- each format -------------------------------------------------------------------------------------------------------


def _openclip(tensors, form, config, config_file):
    naming = openclip.naming_of_tensors(tensors)
    if config is None:
        settings = openclip_bare.from_shapes(tensors, naming)
        is_siglip = naming.image == "timm_siglip"
        text = published_towers.tokenizer("siglip" if is_siglip else "clip", settings["text"]["vocab_size"])
        prepared = openclip_bare.preprocessing(settings["image"], naming)
    else:
        settings = openclip.from_config(config, config_file, tensors)
        prepared = preprocessing_lib.from_openclip(config, settings["image"]["image_size"], config_file)
        text = config.get("model_cfg", config)["text_cfg"]
    vocab = settings["text"]["vocab_size"]
    table = naming.table(settings["image"], tensors)
    return settings, table, prepared, tokenizer_files.openclip_tokenizer(config_file.parent, text, vocab)


def _hugging_face(tensors, form, config, config_file):
    family = form.removeprefix("hf-")
    if config is None:
        settings, size = huggingface.from_shapes(tensors, family), None
    else:
        settings = huggingface.from_config(config, config_file)
        size = settings["image"]["image_size"]
    prepared = preprocessing_lib.of_hf_folder(config_file.parent, huggingface.PROCESSORS[family], size)
    if family == "clip" and settings["text"]["vocab_size"] == tokenizer_files.CLIP_VOCAB:
        return settings, huggingface.table(family), prepared, "clip"
    tokenizer_config = config_file.parent / _HF_TOKENIZER
    class_name = (read_json(tokenizer_config) if tokenizer_config.is_file() else {}).get("tokenizer_class", "")
    tokenizer = tokenizer_files.tokenizer(config_file.parent, class_name, settings["text"]["vocab_size"])
    return settings, huggingface.table(family), prepared, tokenizer


def _big_vision(tensors, form, config, config_file):
    settings = big_vision.from_shapes(tensors)
    tokenizer = tokenizer_files.tokenizer(config_file.parent, "", settings["text"]["vocab_size"])
    return settings, big_vision_names.TABLE, preprocessing_lib.defaults(False, "big_vision"), tokenizer
