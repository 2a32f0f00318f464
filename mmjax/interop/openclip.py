"""OpenAI's CLIP and OpenCLIP: their config files, both ways.

OpenAI's weights and OpenCLIP's have the same names. A SigLIP in OpenCLIP has an image tower of timm's.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmjax.data.text.tokenizer import LARGEST_ID
from mmjax.errors import UserError
from mmjax.interop import model_settings, param_names, timm_siglip
from mmjax.interop.param_names import Row
from mmjax.interop.preprocessing import exported_interpolation
from mmjax.interop.tensor_files import Tensors


@dataclasses.dataclass(frozen=True)
class Naming:
    """Which of OpenCLIP's names a model has; see `param_names.openclip`."""

    timm: bool
    custom_text: bool
    projection_bias: bool

    @property
    def table(self) -> list[Row]:
        """The table with these names."""
        return param_names.openclip(timm=self.timm, custom_text=self.custom_text, projection_bias=self.projection_bias)


def naming_of_tensors(tensors: Tensors) -> Naming:
    """The naming of a file."""
    custom_text = "text.token_embedding.weight" in tensors
    projection = ("text." if custom_text else "") + "text_projection.weight"
    return Naming("visual.trunk.patch_embed.proj.weight" in tensors, custom_text, projection in tensors)


def naming_of_settings(settings: Mapping[str, Any]) -> Naming:
    """The naming that a model is written with: `CLIP`, or `CustomTextCLIP` with timm's tower."""
    timm = settings["image"]["pool"] == "map"
    return Naming(timm, timm, settings["text"]["projection"] == "bias")


# -- reading -----------------------------------------------------------------------------------------------------------

# Fields that change nothing in what a trained model computes, or that stand elsewhere too.
_IGNORED = {
    "vision": {"patch_dropout", "output_tokens", "timm_model_pretrained", "timm_drop", "timm_drop_path"},
    "text": {
        "output_tokens",
        "pad_id",
        "hf_tokenizer_name",
        "tokenizer_kwargs",
        "tokenizer_mode",
        "hf_model_pretrained",
    },
}
_READ = {
    "vision": {
        "image_size",
        "layers",
        "width",
        "head_width",
        "mlp_ratio",
        "patch_size",
        "no_ln_pre",
        "timm_model_name",
    },
    "text": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "no_causal_mask", "eos_id"},
}
_READ["text"] |= {"proj_bias", "proj_type", "pool_type"}
_KWARGS = {"act_kwargs", "norm_kwargs"}
# Fields that mmjax has at one value alone.
_FIXED = {
    "vision": {"pool_type": ("tok",), "pos_embed_type": ("learnable",), "timm_pool": ("map",), "timm_proj": ("none",)},
    "text": {},
}
# The norm comes before pooling or after it: for one token that is the same.
_IGNORED["vision"].add("final_ln_after_pool")
_IGNORED["text"].add("final_ln_after_pool")
_POOLS = {"argmax": "eos", "eos": "eos", "last": "last"}


def from_config(config: Mapping[str, Any], path: Any) -> model_settings.Settings:
    """A model's settings from open_clip_config.json (or its `model_cfg`).

    Raises:
      UserError: a setting that mmjax does not have.
    """
    model = config.get("model_cfg", config)
    for part in ("embed_dim", "vision_cfg", "text_cfg"):
        if part not in model:
            raise UserError(f"{path}: has no {part}, so it is not a config of OpenCLIP")
    if "multimodal_cfg" in model:
        raise UserError(f"{path}: a CoCa model of OpenCLIP, which is not read")
    vision, text = model["vision_cfg"], model["text_cfg"]
    is_timm = bool(vision.get("timm_model_name"))
    timm_tower = timm_siglip.tower_settings(vision["timm_model_name"], path) if is_timm else {}
    _check_fields(vision, "vision", is_timm, path)
    _check_fields(text, "text", False, path)
    quick = bool(model.get("quick_gelu", False))
    settings = model_settings.siglip_template() if is_timm else model_settings.clip_template()
    settings["embed_dim"] = model["embed_dim"]
    bias = model.get("init_logit_bias")
    settings["logit_bias_init"] = None if bias is None else float(bias)

    image = settings["image"]
    if is_timm:
        image |= timm_tower
        if vision.get("image_size", image["image_size"]) != image["image_size"]:
            raise UserError(f"{path}: vision_cfg.image_size={vision['image_size']} is not that of timm_model_name")
    else:
        width, head_width = vision.get("width", 768), vision.get("head_width", 64)
        if not isinstance(vision.get("layers", 12), int):
            raise UserError(f"{path}: vision_cfg.layers={vision['layers']} is a ResNet; mmjax has vision transformers")
        image |= dict(width=width, depth=vision.get("layers", 12), heads=width // head_width)
        image |= dict(mlp_dim=int(width * vision.get("mlp_ratio", 4.0)), pre_norm=not vision.get("no_ln_pre", False))
        image |= dict(image_size=_side(vision.get("image_size", 224), path), patch_size=vision.get("patch_size", 16))
        image |= dict(activation=_activation(vision, quick, path), norm_eps=_eps(vision))

    width = text.get("width", 512)
    vocab_size, pool = text.get("vocab_size", 49408), text.get("pool_type", "argmax")
    if pool not in _POOLS:
        raise UserError(f"{path}: text_cfg.pool_type={pool!r} is not read; mmjax reads {', '.join(_POOLS)}")
    projection = text.get("proj_type", "linear")
    if projection not in ("linear", "none", "", None):
        raise UserError(f"{path}: text_cfg.proj_type={projection!r} is not read; mmjax reads 'linear' and 'none'")
    settings["text"] |= dict(
        vocab_size=vocab_size,
        context_length=text.get("context_length", 77),
        width=width,
        depth=text.get("layers", 12),
        heads=text.get("heads", 8),
        mlp_dim=int(width * text.get("mlp_ratio", 4.0)),
        causal=not text.get("no_causal_mask", False),
        activation=_activation(text, quick, path),
        norm_eps=_eps(text),
        pool=_POOLS[pool],
        projection="none" if projection != "linear" else "bias" if text.get("proj_bias") else "linear",
    )
    if pool != "last":
        settings["text"]["eos_id"] = text.get("eos_id", 2) if pool == "eos" else LARGEST_ID
    return settings


def _check_fields(cfg: Mapping[str, Any], name: str, is_timm: bool, path: Any) -> None:
    for field, value in cfg.items():
        if field in _READ[name] | _IGNORED[name] | _KWARGS or value in (None, False, ""):
            continue
        if field in _FIXED[name]:
            if is_timm == field.startswith("timm_") and value not in _FIXED[name][field]:
                raise UserError(
                    f"{path}: {name}_cfg.{field}={value!r} is not read; mmjax has {_FIXED[name][field][0]!r}"
                )
        elif field not in ("attn_pooler_queries", "attn_pooler_heads", "hf_proj_type", "hf_pooler_type"):
            raise UserError(f"{path}: {name}_cfg.{field}={value!r} is not read; mmjax has no such setting")


def _side(size: Any, path: Any) -> int:
    if isinstance(size, (list, tuple)):
        if len(set(size)) != 1:
            raise UserError(f"{path}: image_size={size} is not square")
        return size[0]
    return size


def _activation(cfg: Mapping[str, Any], quick: bool, path: Any) -> str:
    kwargs = cfg.get("act_kwargs") or {}
    if quick and not kwargs:
        return "quick_gelu"
    if not quick and kwargs in ({}, {"approximate": "none"}):
        return "gelu"
    if not quick and kwargs == {"approximate": "tanh"}:
        return "gelu_tanh"
    raise UserError(f"{path}: act_kwargs={kwargs} with quick_gelu={quick} is not read")


def _eps(cfg: Mapping[str, Any]) -> float:
    return float((cfg.get("norm_kwargs") or {}).get("eps", 1e-5))


# -- writing -----------------------------------------------------------------------------------------------------------

_TOKENIZERS = {32000: "timm/ViT-B-16-SigLIP", 256000: "timm/ViT-B-16-SigLIP2"}


def to_config(settings: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """The content of open_clip_config.json.

    Raises:
      UserError: a setting that OpenCLIP does not have.
    """
    image, text = settings["image"], settings["text"]
    if settings["logit_bias_init"] is None:
        top: dict[str, Any] = dict(embed_dim=settings["embed_dim"])
    else:
        top = dict(embed_dim=settings["embed_dim"], init_logit_bias=settings["logit_bias_init"])
    naming = naming_of_settings(settings)
    if naming.timm:
        _require("image", image, class_token=False, patch_bias=True, pre_norm=False, projection="none")
        top["custom_text"] = True
        vision = dict(
            image_size=image["image_size"], timm_model_name=timm_siglip.timm_name(image), timm_model_pretrained=False
        )
        vision |= dict(timm_pool="map", timm_proj="none")
        towers = [("text", text)]
    else:
        _require("image", image, class_token=True, patch_bias=False, pool="cls", projection="linear")
        vision = dict(image_size=image["image_size"], patch_size=image["patch_size"], width=image["width"])
        vision |= dict(layers=image["depth"], head_width=image["width"] // image["heads"])
        vision |= _mlp_ratio("image", image) | ({} if image["pre_norm"] else dict(no_ln_pre=True))
        towers = [("image", image), ("text", text)]
    _require("text", text, mask_padding=False)
    pools = {"eos": dict(pool_type="eos", eos_id=text["eos_id"]), "last": dict(pool_type="last")}
    if text["pool"] not in pools:
        raise UserError(f"model.text.pool={text['pool']!r}: OpenCLIP pools texts at one token")
    words = dict(context_length=text["context_length"], vocab_size=text["vocab_size"], width=text["width"])
    words |= dict(heads=text["heads"], layers=text["depth"]) | _mlp_ratio("text", text)
    if text["pool"] != "eos" or text["eos_id"] not in (
        LARGEST_ID,
        text["vocab_size"] - 1,
    ):  # argmax, its default
        words |= pools[text["pool"]]
    words |= {} if text["causal"] else dict(no_causal_mask=True)
    words |= {"linear": {}, "bias": dict(proj_bias=True), "none": dict(proj_type="none")}[text["projection"]]
    if naming.timm and text["vocab_size"] in _TOKENIZERS:
        words |= dict(hf_tokenizer_name=_TOKENIZERS[text["vocab_size"]], tokenizer_kwargs={"clean": "canonicalize"})

    # One switch for both towers, which timm's do not read.
    quick = {tower["activation"] == "quick_gelu" for _, tower in towers}
    if len(quick) > 1:
        raise UserError("model.image.activation and model.text.activation: OpenCLIP has quick_gelu for both or none")
    if quick == {True}:
        top["quick_gelu"] = True
    for name, tower in towers:
        cfg = vision if name == "image" else words
        if tower["activation"] == "gelu_tanh":
            cfg["act_kwargs"] = {"approximate": "tanh"}
        elif tower["activation"] not in ("gelu", "quick_gelu"):
            raise UserError(f"model.{name}.activation={tower['activation']!r}: OpenCLIP has gelu and quick_gelu")
        if tower["norm_eps"] != 1e-5:
            cfg["norm_kwargs"] = {"eps": tower["norm_eps"]}
    resize = {"crop": "shortest", "squash": "squash"}[preprocessing["resize"]]
    prepared = dict(mean=list(preprocessing["mean"]), std=list(preprocessing["std"]), resize_mode=resize)
    prepared |= dict(interpolation=exported_interpolation(preprocessing))
    return dict(model_cfg=top | dict(vision_cfg=vision, text_cfg=words), preprocess_cfg=prepared)


def _require(name: str, tower: Mapping[str, Any], **fixed: Any) -> None:
    for field, value in fixed.items():
        if tower[field] != value:
            raise UserError(f"model.{name}.{field}={tower[field]!r}: OpenCLIP's tower of this kind has {value!r}")


def _mlp_ratio(name: str, tower: Mapping[str, Any]) -> dict[str, float]:
    ratio = tower["mlp_dim"] / tower["width"]
    if int(tower["width"] * ratio) != tower["mlp_dim"]:
        raise UserError(f"model.{name}.mlp_dim={tower['mlp_dim']}: OpenCLIP rounds its mlp_ratio to another width")
    return {} if ratio == 4.0 else dict(mlp_ratio=ratio)
