"""OpenCLIP's CoCa: its config both ways, its names, and what it was trained for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.errors import UserError
from mmjax.interop import (
    model_settings,
    openclip_config,
    openclip_image,
    openclip_text,
    param_translation,
    tokenizer_files,
)
from mmjax.interop import preprocessing as preprocessing_lib
from mmjax.interop.families.family import complete
from mmjax.interop.model_settings import Settings
from mmjax.interop.named_models import NamedModel
from mmjax.interop.param_names import openclip_coca as names
from mmjax.interop.param_names.rows import Row
from mmjax.interop.purpose import Purpose
from mmjax.interop.tensor_files import Tensors

MARKER = "text_decoder.text_projection"  # a parameter that no other model has
_END = 49_407  # the end of text, CLIP's; other vocabularies of OpenCLIP's CoCa have none of their own
_QUERIES, _POOL_HEADS, _EPS, _MLP_RATIO = 256, 8, 1e-5, 4
# OpenCLIP's weights of the two losses; it writes up to 30 tokens, the first one and the end included, and at least 5.
PURPOSE = Purpose(objectives={"itc": 1.0, "caption": 2.0}, decoding={"max_tokens": 29, "min_tokens": 4})

_POOL_FIELDS = {"attentional_pool", "attn_pooler_queries", "attn_pooler_heads", "output_tokens"}
_DECODER_FIELDS = {"context_length", "vocab_size", "width", "heads", "layers"}
# Fields that OpenCLIP's decoder does not read.
_DECODER_IGNORED = {"mlp_ratio", "dim_head", "n_queries", "attn_pooler_heads", "output_tokens"}
_IMAGE = ("image_size", "patch_size", "width", "depth", "heads", "mlp_dim", "activation", "norm_eps", "pre_norm")
_TEXT = ("vocab_size", "context_length", "width", "depth", "heads", "mlp_dim", "activation", "norm_eps")


def is_coca(config: Mapping[str, Any]) -> bool:
    """Whether open_clip_config.json (or its `model_cfg`) is of a CoCa."""
    return "multimodal_cfg" in config.get("model_cfg", config)


def from_config(config: Mapping[str, Any], path: Any) -> Settings:
    """A model's settings from open_clip_config.json (or its `model_cfg`).

    Raises:
      UserError: a setting that mmjax does not have.
    """
    model = config.get("model_cfg", config)
    for part in ("embed_dim", "vision_cfg", "text_cfg"):
        if part not in model:
            raise UserError(f"{path}: has no {part}, so it is not a config of OpenCLIP")
    vision, text, decoder = model["vision_cfg"], model["text_cfg"], model["multimodal_cfg"]
    quick, bias = bool(model.get("quick_gelu", False)), model.get("init_logit_bias")
    if openclip_text.is_hugging_face(text):
        raise UserError(
            f"{path}: a CoCa with a text tower of Hugging Face's (text_cfg.hf_model_name), which sees what comes"
            " later, is not read"
        )
    if not text.get("embed_cls") or text.get("no_causal_mask"):
        raise UserError(f"{path}: a CoCa without text_cfg.embed_cls, or with no_causal_mask, is not read")
    if openclip_image.of_config(vision) != "vit":
        raise UserError(f"{path}: vision_cfg of another tower than OpenCLIP's own beside multimodal_cfg is not read")
    if vision.get("attentional_pool") not in (None, False, True):
        raise UserError(
            f"{path}: vision_cfg.attentional_pool={vision['attentional_pool']!r} is not read; mmjax has True"
        )
    pooled = bool(vision.get("attentional_pool"))
    image = openclip_image.TOWERS["vit"].from_config(_without(vision, _POOL_FIELDS), quick, path)
    words = openclip_text.from_config(_without(text, {"embed_cls", "output_tokens"}), quick, path)
    openclip_config.check_fields(decoder, "multimodal_cfg", path, known=_DECODER_FIELDS | _DECODER_IGNORED)
    width = decoder.get("width", 512)
    for name, part in (("vision_cfg", image), ("text_cfg", words)):
        if part["norm_eps"] != _EPS:
            raise UserError(
                f"{path}: {name}.norm_kwargs with eps={part['norm_eps']}; its CoCa is read with {_EPS} alone"
            )
    if width != words["width"] or words["projection"] != "linear":
        raise UserError(
            f"{path}: multimodal_cfg.width={width} and text_cfg.proj_type: mmjax has a decoder as wide as the text"
            f" tower ({words['width']}), and a linear projection"
        )
    vocab_size = words["vocab_size"]
    settings: Settings = dict(
        kind="coca",
        embed_dim=model["embed_dim"],
        image={field: image[field] for field in _IMAGE if field in image},
        text={field: words[field] for field in _TEXT},
        decoder=dict(
            depth=decoder.get("layers", 12),
            heads=decoder.get("heads", 8),
            mlp_dim=_MLP_RATIO * width,
            activation="quick_gelu" if quick else "gelu",
        ),
        queries=vision.get("attn_pooler_queries", _QUERIES) if pooled else 0,
        pool_heads=vision.get("attn_pooler_heads", _POOL_HEADS) if pooled else _POOL_HEADS,
        class_token_mask="shifted",
        logit_bias_init=None if bias is None else float(bias),
        max_logit_scale=100.0,
    )
    _check_sizes(settings, path)
    settings["text"] |= dict(eos_id=min(_END, vocab_size - 1), pad_id=text.get("pad_id", 0))
    return complete(settings)


def _check_sizes(settings: Settings, path: Any) -> None:
    """Checks the sizes of a model's parts, before memory is taken by them.

    Raises:
      UserError: one is no size that a model has.
    """
    for name, tower in (("image", "image"), ("text", "text"), ("decoder", "text")):
        for field, value in settings[name].items():
            if field in model_settings.clip_template()[tower]:
                model_settings.validate_field(f"{path}: {name}.{field}", value, tower, field)
    for field in ("embed_dim", "pool_heads", *(["queries"] if settings["queries"] else [])):
        model_settings.validate_field(f"{path}: {field}", settings[field], "text", "width")


def _without(fields: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {field: value for field, value in fields.items() if field not in names}


def table(settings: Mapping[str, Any]) -> list[Row]:
    """The table of names."""
    return names.table(is_as_wide=settings["image"]["width"] == settings["embed_dim"])


def to_config(settings: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """The content of open_clip_config.json.

    Raises:
      UserError: a setting that OpenCLIP does not have.
    """
    image, text, decoder = settings["image"], settings["text"], settings["decoder"]
    if settings["class_token_mask"] != "shifted":
        raise UserError("model.class_token_mask='exact': OpenCLIP's CoCa has 'shifted', so its embeddings would differ")
    wanted = dict(norm_eps=_EPS, activation=text["activation"])
    for name, part in (("image", image), ("text", text), ("decoder", decoder)):
        openclip_config.require(name, part, **wanted)
    openclip_config.require("decoder", decoder, mlp_dim=_MLP_RATIO * text["width"])
    openclip_config.require("text", text, norm="pre", token_types=0, embedding_norm=False)
    vision = openclip_image.TOWERS["vit"].to_config({**image, "pool": "cls", "projection": "linear"})
    vision |= dict(output_tokens=True)
    if settings["queries"]:
        vision |= dict(attentional_pool=True, attn_pooler_queries=settings["queries"])
        vision |= dict(attn_pooler_heads=settings["pool_heads"])
    tower = {**text, "pool": "eos", "eos_id": text["vocab_size"] - 1, "projection": "linear", "causal": True}
    tower |= dict(mask_padding=False)
    words = openclip_text.to_config(tower, is_timm=False, length=text["context_length"])
    words |= dict(embed_cls=True, output_tokens=True, pad_id=text["pad_id"])
    width = text["width"]
    multimodal = dict(context_length=text["context_length"], vocab_size=text["vocab_size"], width=width)
    multimodal |= dict(heads=decoder["heads"], layers=decoder["depth"])
    top: dict[str, Any] = dict(embed_dim=settings["embed_dim"], custom_text=True)
    if settings["logit_bias_init"] is not None:
        top["init_logit_bias"] = settings["logit_bias_init"]
    if text["activation"] == "quick_gelu":
        top["quick_gelu"] = True
    parts = dict(vision_cfg=vision, text_cfg=words, multimodal_cfg=multimodal)
    return dict(model_cfg=top | parts, preprocess_cfg=preprocessing_lib.to_openclip(preprocessing))


def open_parts(
    tensors: Tensors,
    config: Mapping[str, Any] | None,
    config_file: Path,
    overrides: Mapping[str, Any],
    named: NamedModel | None,
) -> dict[str, Any]:
    """The fields of a `ForeignCheckpoint` that a CoCa's weights and its config, or its name, decide.

    Raises:
      UserError: neither says what the model is, or they are not of one model; or as `from_config`.
    """
    for field, value in overrides.items():
        raise UserError(f"{field}={value!r} was given, but a CoCa's config has all settings of it; leave it out")
    if config is None and named is None:
        raise UserError(
            f"{tensors.path}: a CoCa of OpenCLIP without {config_file.name} beside it, which its shapes do not tell;"
            ' fetch that file, too, or name the model: mmjax.create_model("coca_ViT-B-32", weights=FILE)'
        )
    settings: Mapping[str, Any] = {} if named is None else named.settings
    prepared: Mapping[str, Any] = {} if named is None else named.preprocessing
    text: Mapping[str, Any] = {}
    if config is not None:
        if not is_coca(config):
            raise UserError(f"{tensors.path}: a CoCa of OpenCLIP ({MARKER}), and {config_file} has no multimodal_cfg")
        settings = from_config(config, config_file)
        prepared = preprocessing_lib.from_openclip(config, settings["image"]["image_size"], config_file)
        text = config.get("model_cfg", config)["text_cfg"]
    if settings.get("kind") != "coca" or (named is not None and settings != named.settings):
        raise UserError(f"{tensors.path}: a CoCa of OpenCLIP, which is not {named and named.name}; use mmjax.load")
    shapes = param_translation.param_shapes(settings)
    rows = param_translation.select_rows(table(settings), shapes, "OpenCLIP's CoCa")
    param_translation.check_tensors(tensors, rows, shapes)
    return dict(
        settings=dict(settings),
        preprocessing={**prepared, "size": settings["image"]["image_size"]},
        tokenizer=tokenizer_files.openclip_tokenizer(config_file.parent, text, settings["text"]["vocab_size"]),
        purpose=PURPOSE,
        tensors=tensors,
        rows=rows,
        shapes=shapes,
    )
