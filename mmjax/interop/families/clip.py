"""Chinese-CLIP and MetaCLIP 2, CLIPs of Hugging Face's with other texts, and the towers of OWL-ViT."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.data.text.tokenizer import LARGEST_ID
from mmjax.interop import bert_towers
from mmjax.interop.config_format import Settings
from mmjax.interop.families.family import Family
from mmjax.interop.families.layers import image_fields, image_settings, layer_fields, layers
from mmjax.interop.param_names import bert
from mmjax.interop.param_names import huggingface as names
from mmjax.interop.param_names.rows import Row
from mmjax.interop.purpose import Purpose

_LAYERS = dict(num_hidden_layers=12, num_attention_heads=12, hidden_act="quick_gelu", layer_norm_eps=1e-5)
_VISION = _LAYERS | dict(hidden_size=768, intermediate_size=3072, image_size=224, patch_size=32)
_BERT = _LAYERS | dict(hidden_size=768, intermediate_size=3072, hidden_act="gelu", layer_norm_eps=1e-12)
_BERT |= dict(vocab_size=30_522, max_position_embeddings=512, type_vocab_size=2, pad_token_id=0)
_WORDS = _LAYERS | dict(hidden_size=512, intermediate_size=2048, num_attention_heads=8)
_WORDS |= dict(vocab_size=49_408, max_position_embeddings=77, eos_token_id=49_407)
_IMAGE: Settings = dict(
    class_token=True, patch_bias=False, pre_norm=True, final_norm=True, pool="cls", projection="linear"
)
_CAUSAL = dict(causal=True, mask_padding=False, norm="pre", positions="first", token_types=0, embedding_norm=False)
_CAUSAL |= dict(final_norm=True, pool="eos", pooler=False, projection="linear")
_BIDIRECTIONAL = dict(causal=False, mask_padding=True, norm="post", positions="first", embedding_norm=True)
_BIDIRECTIONAL |= dict(final_norm=False, pool="cls", pooler=False, projection="linear")


def is_other_clip(settings: Mapping[str, Any]) -> bool:
    """Whether two towers are written as one of these, and not as a CLIPModel, where 2 is no id of the end of text."""
    text = settings["text"]
    is_clip = settings["image"].get("class_token") and settings["logit_bias_init"] is None
    return bool(is_clip) and (text.get("norm") == "post" or (text["pool"], text["eos_id"]) == ("eos", 2))


def _model(config: Mapping[str, Any], text: Settings) -> Settings:
    """A model with such texts."""
    image = image_settings(config["vision_config"], **_IMAGE)
    return dict(kind="two_tower", embed_dim=config["projection_dim"], image=image, text=text, max_logit_scale=100.0)


def _fields(settings: Settings, text: dict[str, Any]) -> dict[str, Any]:
    vision = image_fields(settings["image"])
    size = dict(projection_dim=settings["embed_dim"])
    return dict(vision_config=vision | size, text_config=text, **size)


def _from_chinese(config: Mapping[str, Any]) -> Settings:
    text = bert_towers.from_config({**config["text_config"], "model_type": "bert"}, "text_config")
    return _model(config, text | dict(pool="cls", projection="linear"))


def _to_chinese(settings: Settings) -> dict[str, Any]:
    return _fields(settings, bert_towers.to_config(settings["text"]) | dict(model_type="chinese_clip_text_model"))


def _chinese_table(settings: Settings) -> list[Row]:
    return [*(row for row in names.CLIP if not row.ours[0].startswith("text/")), *bert.tower("text_model.")]


def _from_metaclip(config: Mapping[str, Any]) -> Settings:
    text = config["text_config"]
    ids = dict(vocab_size=text["vocab_size"], context_length=text["max_position_embeddings"])
    return _model(config, layers(text, "text_config") | _CAUSAL | ids | dict(eos_id=text["eos_token_id"]))


def _to_metaclip(settings: Settings) -> dict[str, Any]:
    text = settings["text"]
    if text["eos_id"] < 0:
        raise ValueError("model.text.eos_id=-1 (the largest id of a text): there is the id itself")
    ids = dict(vocab_size=text["vocab_size"], max_position_embeddings=text["context_length"])
    ids |= dict(eos_token_id=text["eos_id"], bos_token_id=None, pad_token_id=None)
    return _fields(settings, layer_fields(text) | ids | dict(projection_dim=settings["embed_dim"]))


def _from_owlvit(config: Mapping[str, Any]) -> Settings:
    text = config["text_config"]
    ids = dict(vocab_size=text["vocab_size"], context_length=text["max_position_embeddings"])
    return _model(config, layers(text, "text_config") | _CAUSAL | ids | dict(eos_id=LARGEST_ID))


def _owlvit_name(name: str) -> str:
    """A name as CLIPModel has it; those of the model that finds objects begin with what it is."""
    return name.removeprefix("owlvit.").replace("vision_model.pre_layernorm.", "vision_model.pre_layrnorm.")


def _not_written(settings: Settings) -> dict[str, Any]:
    raise ValueError("its towers are written as a CLIPModel")


def _purpose(config: Mapping[str, Any], folder: Path) -> Purpose:
    return Purpose(objectives={"itc": 1.0})


CHINESE = Family(
    name="Hugging Face's Chinese-CLIP",
    model_type="chinese_clip",
    architecture="ChineseCLIPModel",
    defaults=dict(text_config=_BERT, vision_config=_VISION, projection_dim=512),
    fixed=dict(vision_config=dict(num_channels=3)),
    settings=dict(kind="two_tower", logit_bias_init=None, image=_IMAGE, text=_BIDIRECTIONAL),
    from_config=_from_chinese,
    to_config=_to_chinese,
    table=_chinese_table,
    unread=r".*position_ids$",
    processor="ChineseCLIPImageProcessor",
    purpose=_purpose,
)
METACLIP_2 = Family(
    name="Hugging Face's MetaCLIP 2",
    model_type="metaclip_2",
    architecture="MetaClip2Model",
    defaults=dict(text_config=_WORDS, vision_config=_VISION, projection_dim=512),
    fixed=dict(vision_config=dict(num_channels=3)),
    settings=dict(kind="two_tower", logit_bias_init=None, image=_IMAGE, text=_CAUSAL),
    from_config=_from_metaclip,
    to_config=_to_metaclip,
    table=lambda settings: names.CLIP,
    unread=r".*position_ids$",
    processor="CLIPImageProcessor",
    purpose=_purpose,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _OwlVit(Family):
    """The towers of OWL-ViT (arXiv:2205.06230), with which a CLIP begins and ends."""

    def prepare_images(self, folder: Path, size: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        prepared, notes = super().prepare_images(folder, size)
        return prepared, (*notes, "of OWL-ViT the towers are read, and no heads for classes and boxes")


OWLVIT = _OwlVit(
    name="the towers of Hugging Face's OWL-ViT",
    model_type="owlvit",
    architecture="OwlViTModel",
    aliases=("OwlViTForObjectDetection",),
    defaults=dict(
        text_config=_WORDS | dict(max_position_embeddings=16),
        vision_config=_VISION | dict(image_size=768),
        projection_dim=512,
    ),
    fixed=dict(vision_config=dict(num_channels=3)),
    settings=dict(kind="two_tower", logit_bias_init=None, image=_IMAGE, text=_CAUSAL),
    from_config=_from_owlvit,
    to_config=_not_written,
    table=lambda settings: names.CLIP,
    renamed=_owlvit_name,
    unread=r".*position_ids$|class_head\.|box_head\.|layer_norm\.",
    processor="OwlViTImageProcessor",
    purpose=_purpose,
)
