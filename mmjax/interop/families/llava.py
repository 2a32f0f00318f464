"""LLaVA 1.5 (arXiv:2310.03744): Hugging Face's `LlavaForConditionalGeneration` of CLIP's image tower and a Llama."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.interop.config_format import Raw, Settings
from mmjax.interop.families import language_model
from mmjax.interop.families.family import Family
from mmjax.interop.families.layers import image_fields, image_settings
from mmjax.interop.param_names import huggingface as clip_names
from mmjax.interop.param_names import llama as names
from mmjax.interop.preprocessing import HF_FILES
from mmjax.interop.purpose import Purpose

_VISION = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    image_size=224,
    patch_size=32,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)
_TEXT = language_model.text_defaults(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    max_position_embeddings=2048,
    hidden_act="silu",
    rms_norm_eps=1e-6,
    mlp_bias=False,
    tie_word_embeddings=False,
    eos_token_id=2,
)
# What Vicuna, the language model of LLaVA 1.5, was tuned to read.
_IMAGE = "<image>"
_TEMPLATE = f"USER: {_IMAGE}\n{{question}} ASSISTANT:"


def renamed(name: str) -> str:
    """Names of any version as those of the versions before 4.52, which 5.24 writes again."""
    name = re.sub(r"^model\.(?=vision_tower\.|multi_modal_projector\.)", "", name)
    name = re.sub(r"^model\.language_model\.", "language_model.model.", name)
    return re.sub(r"^lm_head\.", "language_model.lm_head.", name).replace(
        "vision_tower.vision_model.", "vision_tower.", 1
    )


def _from_config(config: Mapping[str, Any]) -> Settings:
    image = image_settings(config["vision_config"], class_token=True, patch_bias=False, pre_norm=True)
    layer, depth = config["vision_feature_layer"], image["depth"]
    layer = -2 if layer is None else layer
    if isinstance(layer, bool) or not isinstance(layer, int) or not -depth <= layer <= depth or layer == 0:
        raise ValueError(f"vision_feature_layer={str(layer)[:60]}: wants one of {depth} layers, such as -2")
    image_id, vocabulary = config["image_token_index"], config["text_config"]["vocab_size"]
    # Either of the two ties the head to the token table.
    tied = config["tie_word_embeddings"] or config["text_config"]["tie_word_embeddings"]
    text = dict(config["text_config"]) | dict(tie_word_embeddings=tied)
    if image_id >= vocabulary:
        raise ValueError(f"image_token_index={image_id} is none of the {vocabulary} ids of text_config.vocab_size")
    return dict(
        kind="prefix_lm",
        image=image,
        text=language_model.text_settings(text, "rms_norm"),
        connector="mlp2x_gelu",
        feature_layer=layer if layer < 0 else layer - 1 - depth,  # there 0 is what the first layer reads
        prefix="causal",
        image_id=image_id,
    )


def _to_config(settings: Settings) -> dict[str, Any]:
    image, layer, image_id = settings["image"], settings["feature_layer"], settings["image_id"]
    if layer is None or image_id is None:
        name = "image_id" if layer is not None else "feature_layer"
        raise ValueError(f"model.{name}=None: there it is a number")
    return dict(
        vision_config=image_fields(image),
        text_config=language_model.text_fields(settings["text"]),
        image_token_index=image_id,
        image_seq_length=(image["image_size"] // image["patch_size"]) ** 2,
        vision_feature_layer=layer if layer < 0 else layer - image["depth"],
        tie_word_embeddings=settings["text"]["head"] == "tied",
    )


def _processors(settings: Settings) -> dict[str, dict[str, Any]]:
    fields = dict(processor_class="LlavaProcessor", image_token=_IMAGE, vision_feature_select_strategy="default")
    return {HF_FILES[0]: fields | dict(patch_size=settings["image"]["patch_size"], num_additional_image_tokens=1)}


def _purpose(config: Mapping[str, Any], folder: Path) -> Purpose:
    return language_model.answers(config, folder, _TEMPLATE)


FAMILY = Family(
    name="Hugging Face's LLaVA",
    model_type="llava",
    architecture="LlavaForConditionalGeneration",
    defaults=dict(
        vision_config=_VISION,
        text_config=_TEXT,
        vision_feature_layer=Raw(),
        image_token_index=32000,
        tie_word_embeddings=False,
    ),
    fixed=dict(
        vision_config=dict(model_type="clip_vision_model", num_channels=3),
        text_config=dict(model_type="llama"),
        projector_hidden_act="gelu",
        multimodal_projector_bias=True,
        vision_feature_select_strategy="default",
    ),
    settings=dict(
        kind="prefix_lm",
        qformer=None,
        connector="mlp2x_gelu",
        prefix="causal",
        image=dict(class_token=True, patch_bias=False, pre_norm=True, final_norm=True),
        text=language_model.SETTINGS | dict(block=language_model.BLOCK | dict(norm_type="rms_norm"), embed_scale=False),
    ),
    from_config=_from_config,
    to_config=_to_config,
    table=lambda settings: [
        *clip_names.vision("vision_tower."),
        *names.connector("multi_modal_projector.", "linear_1", "linear_2"),
        *names.language_model("language_model."),
    ],
    renamed=renamed,
    unread=r".*\.(position_ids|rotary_emb\.inv_freq)$",
    copies={"language_model.lm_head.weight": "text/token_embedding"},
    processor="CLIPImageProcessor",
    purpose=_purpose,
    generation=lambda settings: dict(eos_token_id=settings["text"]["eos_id"]),
    processors=_processors,
)
