"""Hugging Face's `CLIPModel` and `SiglipModel` (and SigLIP 2 of fixed resolution): their config files, both ways."""

from collections.abc import Mapping
from typing import Any

from mmjax.data.text.tokenizer import LARGEST_ID
from mmjax.errors import UserError
from mmjax.interop import model_settings, published_towers
from mmjax.interop import preprocessing as preprocessing_lib
from mmjax.interop.param_names import huggingface as names
from mmjax.interop.param_names.rows import Row
from mmjax.interop.tensor_files import Tensors

ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
HF_ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "silu": "silu",
}

# What a config file that leaves a field out means, as the library's own classes have it.
DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "clip": dict(
        text=dict(
            vocab_size=49408,
            hidden_size=512,
            intermediate_size=2048,
            num_hidden_layers=12,
            num_attention_heads=8,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
            eos_token_id=49407,
        ),
        vision=dict(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            num_channels=3,
            image_size=224,
            patch_size=32,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
        ),
    ),
    "siglip": dict(
        text=dict(
            vocab_size=32000,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=64,
            hidden_act="gelu_pytorch_tanh",
            layer_norm_eps=1e-6,
        ),
        vision=dict(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            num_channels=3,
            image_size=224,
            patch_size=16,
            hidden_act="gelu_pytorch_tanh",
            layer_norm_eps=1e-6,
        ),
    ),
}
# Our fields of a tower and theirs.
_FIELDS = {
    "width": "hidden_size",
    "mlp_dim": "intermediate_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "norm_eps": "layer_norm_eps",
}
PROCESSORS = {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor"}
_LARGEST_ID = 2  # `eos_token_id` of models that pool at the largest id


def table(family: str) -> list[Row]:
    """The table of `clip` or `siglip`."""
    return names.CLIP if family == "clip" else names.SIGLIP


def family_of_config(config: Mapping[str, Any], path: Any) -> str:
    """`clip` or `siglip`, from a config.json.

    Raises:
      UserError: a model of another kind.
    """
    kind = config.get("model_type")
    if kind == "siglip2":
        raise UserError(
            f"{path}: a SigLIP 2 NaFlex model, whose images have any shape; mmjax reads those of fixed resolution,"
            " such as google/siglip2-base-patch16-224"
        )
    if kind not in DEFAULTS:
        raise UserError(f"{path}: model_type={kind!r} is not read; mmjax reads 'clip' and 'siglip'")
    return kind


def from_config(config: Mapping[str, Any], path: Any) -> model_settings.Settings:
    """A model's settings from config.json.

    Raises:
      UserError: a model of another kind, or a setting that mmjax does not have.
    """
    family = family_of_config(config, path)
    defaults = DEFAULTS[family]
    vision, text = (
        # Old files have the same under another name, which the library prefers.
        defaults[tower] | _set_fields(config.get(f"{tower}_config")) | _set_fields(config.get(f"{tower}_config_dict"))
        for tower in ("vision", "text")
    )
    settings = model_settings.clip_template() if family == "clip" else model_settings.siglip_template()
    for ours, theirs, name in ((settings["image"], vision, "vision"), (settings["text"], text, "text")):
        ours |= {field: theirs[other] for field, other in _FIELDS.items()}
        field = f"{path}: {name}_config.hidden_act"
        ours["activation"] = model_settings.translate_activation(field, theirs["hidden_act"], ACTIVATIONS)
    if vision["num_channels"] != 3:
        raise UserError(f"{path}: vision_config.num_channels={vision['num_channels']}; mmjax takes RGB images")
    if not vision.get("vision_use_head", True):
        raise UserError(f"{path}: vision_config.vision_use_head is false, so there is no image embedding to load")
    settings["image"] |= {field: vision[field] for field in ("image_size", "patch_size")}
    for field in ("image_size", "patch_size"):
        if type(vision[field]) is not int:
            raise UserError(f"{path}: vision_config.{field}={vision[field]} is not one number; mmjax takes squares")
    settings["text"] |= dict(vocab_size=text["vocab_size"], context_length=text["max_position_embeddings"])
    if family == "clip":
        settings["embed_dim"] = config.get("projection_dim", 512)
        # 2 is from before the field meant anything: such models pool at the largest id, an added token's too.
        eos = text["eos_token_id"]
        settings["text"]["eos_id"] = LARGEST_ID if eos == _LARGEST_ID else eos
    else:
        settings["embed_dim"] = vision["hidden_size"]
        size = text.get("projection_size") or text["hidden_size"]
        if size != vision["hidden_size"]:
            raise UserError(
                f"{path}: text_config.projection_size={size} is not vision_config.hidden_size={vision['hidden_size']}"
            )
    return settings


def _set_fields(fields: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (fields or {}).items() if value is not None}


def from_shapes(tensors: Tensors, family: str) -> model_settings.Settings:
    """A model's settings as far as shapes and published models have them; others are `MissingSetting`."""
    settings = model_settings.clip_template() if family == "clip" else model_settings.siglip_template()
    for name, tower in (("vision", settings["image"]), ("text", settings["text"])):
        layers = f"{name}_model.encoder.layers."
        hidden, width = model_settings.param_shape(tensors, f"{layers}0.mlp.fc1.weight", 2)
        tower |= dict(width=width, mlp_dim=hidden, activation=published_towers.ACTIVATION)
        tower |= published_towers.heads_and_norm(family, "image" if name == "vision" else name, width, hidden)
        tower["depth"] = model_settings.count_layers(tensors, layers.replace(".", r"\.") + r"(\d+)\.")
    patch = model_settings.param_shape(tensors, "vision_model.embeddings.patch_embedding.weight", 4)[2]
    name = "vision_model.embeddings.position_embedding.weight"
    positions = model_settings.param_shape(tensors, name, 2)[0] - int(family == "clip")
    side = model_settings.grid_side(tensors, name, positions)
    settings["image"] |= dict(patch_size=patch, image_size=published_towers.image_size(family, patch, side))
    vocab_size = model_settings.param_shape(tensors, "text_model.embeddings.token_embedding.weight", 2)[0]
    context = model_settings.param_shape(tensors, "text_model.embeddings.position_embedding.weight", 2)[0]
    settings["text"] |= dict(vocab_size=vocab_size, context_length=context)
    if family == "clip":
        settings["embed_dim"] = model_settings.param_shape(tensors, "text_projection.weight", 2)[0]
        vocabulary = published_towers.vocabulary(family, vocab_size) or published_towers.missing_text_settings(
            family, vocab_size
        )
        settings["text"]["eos_id"] = vocabulary["eos_id"]
    else:
        settings["embed_dim"] = settings["image"]["width"]
    return settings


# -- writing -----------------------------------------------------------------------------------------------------------

_CLIP_FIXED = {
    "image": dict(class_token=True, patch_bias=False, pre_norm=True, pool="cls", projection="linear"),
    "text": dict(causal=True, mask_padding=False, pool="eos", projection="linear"),
}
_SIGLIP_FIXED = {
    "image": dict(class_token=False, patch_bias=True, pre_norm=False, pool="map", projection="none"),
    "text": dict(causal=False, mask_padding=False, pool="last", projection="bias"),
}


def family_of_settings(settings: Mapping[str, Any]) -> str:
    """`clip` or `siglip`, from a model's settings.

    Raises:
      UserError: neither; the first field that differs from the nearer one is named.
    """
    if "kind" in settings["image"]:
        raise UserError(
            f"model.image.kind={settings['image']['kind']!r}: Hugging Face's CLIPModel has a vision transformer;"
            " --to=openclip writes it"
        )
    family = "clip" if settings["image"]["class_token"] else "siglip"
    fixed = _CLIP_FIXED if family == "clip" else _SIGLIP_FIXED
    name = {"clip": "CLIPModel", "siglip": "SiglipModel"}[family]
    for tower, fields in fixed.items():
        for field, value in fields.items():
            if settings[tower][field] != value:
                raise UserError(
                    f"model.{tower}.{field}={settings[tower][field]!r}: Hugging Face's {name} has {value!r} there"
                )
    model_settings.require_plain(settings, f"Hugging Face's {name}")
    has_bias = settings["logit_bias_init"] is not None
    if has_bias != (family == "siglip"):
        theirs = "has no logit_bias" if family == "clip" else "has a logit_bias"
        raise UserError(f"model.logit_bias_init={settings['logit_bias_init']}: Hugging Face's {name} {theirs}")
    if family == "clip" and settings["text"]["eos_id"] == _LARGEST_ID:
        raise UserError(
            "model.text.eos_id=2: Hugging Face's CLIPModel takes 2 for 'the largest id' there; --to=openclip writes it"
        )
    return family


def to_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json for `from_pretrained`.

    Raises:
      UserError: the model is not one of theirs.
    """
    family = family_of_settings(settings)
    image, text = settings["image"], settings["text"]
    vision_config, text_config = (
        {theirs: tower[ours] for ours, theirs in _FIELDS.items()} | {"hidden_act": HF_ACTIVATIONS[tower["activation"]]}
        for tower in (image, text)
    )
    vision_config |= dict(image_size=image["image_size"], patch_size=image["patch_size"], num_channels=3)
    text_config |= dict(vocab_size=text["vocab_size"], max_position_embeddings=text["context_length"])
    eos = _LARGEST_ID if text["eos_id"] == LARGEST_ID else text["eos_id"]
    text_config |= dict(eos_token_id=eos, bos_token_id=None, pad_token_id=None)
    if family == "clip":
        if text["vocab_size"] == 49408:
            text_config |= dict(bos_token_id=49406, pad_token_id=1)
        for config in (vision_config, text_config):
            config["projection_dim"] = settings["embed_dim"]
        top = dict(architectures=["CLIPModel"], model_type="clip", projection_dim=settings["embed_dim"])
    else:
        text_config |= dict(projection_size=settings["embed_dim"], pad_token_id=eos)
        top = dict(architectures=["SiglipModel"], model_type="siglip")
    return top | dict(vision_config=vision_config, text_config=text_config, dtype="float32")


def to_preprocessor(preprocessing: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The content of preprocessor_config.json."""
    name = PROCESSORS[family]
    return preprocessing_lib.to_hf(preprocessing, name, name.replace("ImageProcessor", "Processor"))
