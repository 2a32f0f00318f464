"""OpenAI's and OpenCLIP's files without a config beside them: settings from shapes, names and published models."""

from collections.abc import Mapping
from typing import Any

from mmjax.data.image import transforms
from mmjax.data.text.tokenizer import LARGEST_ID
from mmjax.interop import (
    model_settings,
    openclip,
    openclip_text,
    published_towers,
    timm_dinov2,
    timm_siglip,
    timm_towers,
)
from mmjax.interop import preprocessing as preprocessing_lib
from mmjax.interop.tensor_files import Tensors

# What OpenAI's archives hold beside the parameters, and no other library's files do.
_OPENAI = ("input_resolution", "context_length", "vocab_size")
_LAYER_SCALE = {"layer_scale": 1e-4}  # as ViT-M-16-alt's starts


def from_shapes(tensors: Tensors, naming: openclip.Naming) -> model_settings.Settings:
    """A model's settings; others are `published_towers.MissingSetting`.

    A file with SigLIP's tower of timm's is a SigLIP, any other a CLIP. OpenAI's archives are run by its own rules:
    QuickGELU, epsilon 1e-5, pixels in whole patches, causal texts that are pooled at the largest id.

    Raises:
      UserError: an array that such a model must have is missing or misshapen, or a tower of timm's is none of those
        published.
    """
    is_siglip = naming.image == "timm_siglip"
    family = "siglip" if is_siglip else "clip"
    is_openai = not is_siglip and all(name in tensors for name in _OPENAI)
    settings = naming.image_tower.template()
    image, text = settings["image"], settings["text"]
    of_tensors, known_text = naming.image_tower.from_tensors, {}
    if naming.image in timm_towers.KINDS:
        tower, known_text = _timm_image(tensors, naming.image)
    else:
        tower = of_tensors(tensors) if of_tensors else _siglip_image(tensors) if is_siglip else _clip_image(tensors)
    image |= tower
    settings["logit_bias_init"] = -10.0 if "logit_bias" in tensors else None
    if naming.hf_text:
        words, settings["embed_dim"] = openclip_text.bare_hugging_face(tensors)
        text |= words
        return settings
    prefix = "text." if naming.custom_text else ""
    vocab_size, width = model_settings.param_shape(tensors, f"{prefix}token_embedding.weight", 2)
    mlp_dim = model_settings.param_shape(tensors, f"{prefix}transformer.resblocks.0.mlp.c_fc.weight", 2)[0]
    text |= dict(vocab_size=vocab_size, width=width, mlp_dim=mlp_dim) | published_towers.heads_and_norm(
        family, "text", width, mlp_dim
    )
    text["context_length"] = model_settings.param_shape(tensors, f"{prefix}positional_embedding", 2)[0]
    text["depth"] = model_settings.count_layers(
        tensors, prefix.replace(".", r"\.") + r"transformer\.resblocks\.(\d+)\."
    )
    text["activation"] = published_towers.ACTIVATION
    text |= published_towers.vocabulary(family, vocab_size) or published_towers.missing_text_settings(
        family, vocab_size
    )
    if isinstance(text["heads"], published_towers.MissingSetting):  # another tower than that of the vocabulary's model
        text["activation"] = published_towers.ACTIVATION
    text |= known_text
    if is_openai:
        for tower in (text,) if of_tensors else (image, text):
            tower |= dict(activation="quick_gelu", norm_eps=1e-5)
        text |= dict(causal=True, pool="eos", eos_id=LARGEST_ID)
        image["image_size"] = image["image_size"] if of_tensors else image["patch_size"] * _side(tensors)
    elif naming.image == "vit" and not image["pre_norm"]:
        if vocab_size == published_towers.CLIPA_VOCABULARY:
            image |= dict(pool="mean", pool_norm=True, final_norm=False, activation="gelu")
        else:
            image["pool"] = published_towers.MissingSetting('"cls"', "without visual.ln_pre")
    if f"{prefix}transformer.resblocks.0.ls_1.gamma" in tensors:
        text["block"] = _LAYER_SCALE
    text["projection"], settings["embed_dim"] = _projection(tensors, naming, prefix, width)
    return settings


def preprocessing(image: Mapping[str, Any], naming: openclip.Naming) -> dict[str, Any]:
    """How the published models of such a file prepare images."""
    is_clipa = bool(image.get("pool_norm"))
    is_pe = naming.image == "timm_vit" and image["pool"] == "map"
    prepared = preprocessing_lib.defaults(not (is_clipa or is_pe or naming.image == "timm_siglip"), "open_clip")
    if is_clipa:
        mean, std = transforms.MEAN_STD["imagenet"]
        prepared |= dict(mean=mean, std=std)
    return prepared | (dict(interpolation="bilinear") if is_clipa or is_pe else {})


def _clip_image(tensors: Tensors) -> dict[str, Any]:
    width, _, patch, _ = model_settings.param_shape(tensors, "visual.conv1.weight", 4)
    mlp_dim = model_settings.param_shape(tensors, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0]
    return published_towers.heads_and_norm("clip", "image", width, mlp_dim) | dict(
        width=width,
        mlp_dim=mlp_dim,
        depth=model_settings.count_layers(tensors, r"visual\.transformer\.resblocks\.(\d+)\."),
        patch_size=patch,
        image_size=published_towers.image_size("clip", patch, _side(tensors)),
        pre_norm="visual.ln_pre.weight" in tensors,
        activation=published_towers.ACTIVATION,
        **({"block": _LAYER_SCALE} if "visual.transformer.resblocks.0.ls_1.gamma" in tensors else {}),
    )


def _timm_image(tensors: Tensors, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A tower of timm's, which goes by its name, and that by its sizes; and what that tells of the texts."""
    trunk = "visual.trunk."
    width, _, patch, _ = model_settings.param_shape(tensors, f"{trunk}patch_embed.proj.weight", 4)
    mlp_dim = model_settings.param_shape(tensors, f"{trunk}blocks.0.mlp.fc2.weight", 2)[1]
    registers, patches = 0, model_settings.param_shape(tensors, f"{trunk}pos_embed", 3)[1]
    if f"{trunk}reg_token" in tensors:  # the table then has no row for the class token
        registers = model_settings.param_shape(tensors, f"{trunk}reg_token", 3)[1]
    elif f"{trunk}cls_token" in tensors:
        patches -= 1
    pool = "map" if f"{trunk}attn_pool.latent" in tensors else None
    settings, text = timm_towers.published(kind, width, mlp_dim, patch, patches, registers, pool, tensors.path)
    if kind == timm_dinov2.KIND:
        settings["projection"] = timm_dinov2.projection_of_tensors(tensors)
    return settings | {"depth": model_settings.count_layers(tensors, r"visual\.trunk\.blocks\.(\d+)\.")}, text


def _side(tensors: Tensors) -> int:
    """Patches a side of a CLIP's images."""
    table = "visual.positional_embedding"
    return model_settings.grid_side(tensors, table, model_settings.param_shape(tensors, table, 2)[0] - 1)


def _siglip_image(tensors: Tensors) -> dict[str, Any]:
    """timm's tower, whose activation goes by its name, which goes by its size and patches."""
    trunk = "visual.trunk."
    width, _, patch, _ = model_settings.param_shape(tensors, f"{trunk}patch_embed.proj.weight", 4)
    mlp_dim = model_settings.param_shape(tensors, f"{trunk}blocks.0.mlp.fc1.weight", 2)[0]
    side = model_settings.grid_side(
        tensors, f"{trunk}pos_embed", model_settings.param_shape(tensors, f"{trunk}pos_embed", 3)[1]
    )
    return published_towers.heads_and_norm("siglip", "image", width, mlp_dim) | dict(
        width=width,
        mlp_dim=mlp_dim,
        depth=model_settings.count_layers(tensors, r"visual\.trunk\.blocks\.(\d+)\."),
        patch_size=patch,
        image_size=published_towers.image_size("siglip", patch, side),
        activation=timm_siglip.activation(width, mlp_dim, patch, side) or published_towers.ACTIVATION,
    )


def _projection(tensors: Tensors, naming: openclip.Naming, prefix: str, width: int) -> tuple[str, int]:
    """The kind of the text projection, and E."""
    if naming.projection_bias:
        return "bias", model_settings.param_shape(tensors, f"{prefix}text_projection.weight", 2)[0]
    if naming.image_tower.custom_text and f"{prefix}text_projection" not in tensors:
        return "none", width  # SigLIP i18n
    return "linear", model_settings.param_shape(tensors, f"{prefix}text_projection", 2)[1]
