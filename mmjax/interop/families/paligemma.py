"""PaliGemma (arXiv:2407.07726): Hugging Face's `PaliGemmaForConditionalGeneration` of SigLIP's tower and a Gemma."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.data.text.json_encoder import NEWLINE_SEP
from mmjax.interop.config_format import Raw, Settings
from mmjax.interop.families import language_model, llava
from mmjax.interop.families.family import Family
from mmjax.interop.families.layers import image_fields, image_settings
from mmjax.interop.param_names import huggingface as siglip_names
from mmjax.interop.param_names import llama as names
from mmjax.interop.preprocessing import HF_FILES
from mmjax.interop.purpose import Purpose

_VISION = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    image_size=224,
    patch_size=16,
    hidden_act="gelu_pytorch_tanh",
    layer_norm_eps=1e-6,
)
_TEXT = language_model.text_defaults(
    vocab_size=256000,
    hidden_size=3072,
    intermediate_size=24576,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=16,
    head_dim=256,
    max_position_embeddings=8192,
    hidden_act="gelu_pytorch_tanh",
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    use_bidirectional_attention=Raw(),
    eos_token_id=1,
)
_NEWLINE = 108  # of Gemma's vocabulary: it ends a question
_IMAGE = 257152  # id that stands for image tokens there


def _from_config(config: Mapping[str, Any]) -> Settings:
    # Whether the head is the token table is not read of the text's own config there.
    text = dict(config["text_config"]) | dict(tie_word_embeddings=config["tie_word_embeddings"], mlp_bias=False)
    if text["hidden_act"] == "gelu":  # in the first files, which mean the other one
        text["hidden_act"] = "gelu_pytorch_tanh"
    if text["use_bidirectional_attention"] not in (None, True):
        raise ValueError(
            f"text_config.use_bidirectional_attention={str(text['use_bidirectional_attention'])[:60]} is not read; the"
            " image and a question see each other here"
        )
    if text["vocab_size"] <= _NEWLINE:
        raise ValueError(f"text_config.vocab_size={text['vocab_size']}: Gemma's has a line feed, id {_NEWLINE}")
    fixed: Settings = dict(class_token=False, patch_bias=True, pre_norm=False)
    return dict(
        kind="prefix_lm",
        image=image_settings(config["vision_config"], **fixed),
        text=language_model.text_settings(text, "gemma_rms_norm") | dict(sep_id=_NEWLINE, embed_scale=True),
        connector="linear",
        prefix="full",
        prefix_text=True,
    )


def _to_config(settings: Settings) -> dict[str, Any]:
    image, text = settings["image"], settings["text"]
    if text["sep_id"] != _NEWLINE:
        raise ValueError(f"model.text.sep_id={text['sep_id']}: there questions end with a line feed, id {_NEWLINE}")
    fields = language_model.text_fields(text)
    if fields.pop("mlp_bias"):
        raise ValueError("model.text.block.mlp_bias=True: there it is False")
    return dict(
        vision_config=image_fields(image) | dict(projection_dim=text["width"]),
        text_config=fields | dict(num_image_tokens=_patches(image)),
        image_token_index=_IMAGE if text["vocab_size"] > _IMAGE else text["vocab_size"] - 1,
        projection_dim=text["width"],
        hidden_size=text["width"],
        tie_word_embeddings=text["head"] == "tied",
        eos_token_id=text["eos_id"],
    )


def _processors(settings: Settings) -> dict[str, dict[str, Any]]:
    processor, image_processor = HF_FILES
    return {
        processor: dict(processor_class="PaliGemmaProcessor"),
        image_processor: dict(image_seq_length=_patches(settings["image"])),
    }


def _patches(image: Settings) -> int:
    return (image["image_size"] // image["patch_size"]) ** 2


def _purpose(config: Mapping[str, Any], folder: Path) -> Purpose:
    return language_model.answers(config, folder, "{question}")


FAMILY = Family(
    name="Hugging Face's PaliGemma",
    model_type="paligemma",
    architecture="PaliGemmaForConditionalGeneration",
    defaults=dict(vision_config=_VISION, text_config=_TEXT, tie_word_embeddings=True),
    fixed=dict(
        vision_config=dict(model_type="siglip_vision_model", num_channels=3, vision_use_head=False),
        text_config=dict(model_type="gemma"),
    ),
    settings=dict(
        kind="prefix_lm",
        qformer=None,
        connector="linear",
        prefix="full",
        prefix_text=True,
        feature_layer=None,
        image=dict(class_token=False, patch_bias=True, pre_norm=False, final_norm=True),
        text=language_model.SETTINGS
        | dict(block=language_model.BLOCK | dict(norm_type="gemma_rms_norm"), embed_scale=True),
    ),
    from_config=_from_config,
    to_config=_to_config,
    table=lambda settings: [
        *siglip_names.vision("vision_tower."),
        *names.connector("multi_modal_projector.", "linear"),
        *names.language_model("language_model."),
    ],
    renamed=llava.renamed,
    unread=r".*\.(position_ids|rotary_emb\.inv_freq)$|vision_tower\.head\.",
    copies={"language_model.lm_head.weight": "text/token_embedding"},
    processor="SiglipImageProcessor",
    tokenizer_options=lambda settings: (NEWLINE_SEP,),
    purpose=_purpose,
    generation=lambda settings: dict(eos_token_id=settings["text"]["eos_id"]),
    processors=_processors,
)
