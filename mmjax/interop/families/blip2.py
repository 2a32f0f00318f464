"""BLIP-2's first stage (arXiv:2301.12597): Hugging Face's `Blip2ForImageTextRetrieval`."""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.config_format import Settings
from mmjax.interop.families import blip
from mmjax.interop.families.family import Family, Params
from mmjax.interop.families.layers import VIT, image_fields, image_settings, layer_fields, layers
from mmjax.interop.param_names import blip2 as names

_VISION = dict(
    hidden_size=1408,
    intermediate_size=6144,
    num_hidden_layers=39,
    num_attention_heads=16,
    image_size=224,
    patch_size=14,
    hidden_act="gelu",
    layer_norm_eps=1e-6,
)
_QFORMER = dict(
    vocab_size=30522,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    max_position_embeddings=512,
    cross_attention_frequency=2,
    encoder_hidden_size=1408,
)


def _from_config(config: Mapping[str, Any]) -> Settings:
    vision, qformer = config["vision_config"], config["qformer_config"]
    if qformer["encoder_hidden_size"] != vision["hidden_size"]:
        raise ValueError(
            f"qformer_config.encoder_hidden_size={qformer['encoder_hidden_size']} is not vision_config.hidden_size="
            f"{vision['hidden_size']}"
        )
    depth, every = qformer["num_hidden_layers"], qformer["cross_attention_frequency"]
    if depth % every:
        raise ValueError(f"qformer_config.cross_attention_frequency={every} does not divide its {depth} layers")
    text = layers(qformer, "qformer_config") | dict(norm="post", embedding_norm=True, final_norm=False)
    text |= dict(vocab_size=qformer["vocab_size"], context_length=qformer["max_position_embeddings"])
    return dict(
        kind="qformer",
        embed_dim=config["image_text_hidden_size"],
        image=image_settings(vision, **VIT),
        text=text | dict(cross_every=every),
        queries=config["num_query_tokens"],
        match=True,
        logit_scale_init=1 / blip.TEMPERATURE,
    )


def _to_config(settings: Settings) -> dict[str, Any]:
    image, text = settings["image"], settings["text"]
    qformer = layer_fields(text) | dict(
        vocab_size=text["vocab_size"],
        max_position_embeddings=text["context_length"],
        cross_attention_frequency=text["cross_every"],
        encoder_hidden_size=image["width"],
    )
    return dict(
        vision_config=image_fields(image),
        qformer_config=qformer,
        num_query_tokens=settings["queries"],
        image_text_hidden_size=settings["embed_dim"],
    )


def _without_captions(settings: Settings, params: Params) -> tuple[Settings, Params]:
    """A Q-Former without its head for captions."""
    if settings["kind"] != "qformer":
        raise ValueError(f"a part of model.kind='qformer', and this is {settings['kind']!r}")
    settings = settings | dict(caption=False, caption_id=None)
    return settings, {path: x for path, x in params.items() if not path.startswith("text/head_")}


RETRIEVAL = Family(
    name="Hugging Face's BLIP-2 for retrieval",
    model_type="blip-2",
    architecture="Blip2ForImageTextRetrieval",
    defaults=dict(vision_config=_VISION, qformer_config=_QFORMER, num_query_tokens=32, image_text_hidden_size=256),
    fixed=dict(
        vision_config=dict(model_type="blip_2_vision_model", qkv_bias=True),
        qformer_config=dict(model_type="blip_2_qformer", use_qformer_text_input=True),
    ),
    settings=dict(
        kind="qformer",
        image=blip.IMAGE,
        text=blip.BERT | dict(cross_from=0),
        match=True,
        caption=False,
        caption_id=None,
        answers=0,
        logit_bias_init=None,
    ),
    from_config=_from_config,
    to_config=_to_config,
    table=lambda settings: names.retrieval(settings["text"]["cross_every"], settings["logit_scale_init"]),
    unread=r".*\.position_ids$",
    processor="BlipImageProcessor",
    purpose=blip.retrieval,
    part_of=_without_captions,
    larger=("qformer",),
)
