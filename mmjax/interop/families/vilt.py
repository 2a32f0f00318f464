"""ViLT (arXiv:2102.03334): Hugging Face's classes for questions, retrieval and masked words, and the bare model."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.interop.config_format import Raw, Settings, one_size
from mmjax.interop.families.family import Family, read_labels
from mmjax.interop.families.layers import image_fields, layers
from mmjax.interop.param_names import vilt as names
from mmjax.interop.purpose import Purpose

_DEFAULTS = dict(
    vocab_size=30522,
    type_vocab_size=2,
    max_position_embeddings=40,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    image_size=384,
    patch_size=32,
)
_FIXED = dict(num_channels=3, qkv_bias=True, modality_type_vocab_size=2)


_answers = functools.partial(read_labels, what="answer", least=2, numbered=False)


def _from_config(head: str, config: Mapping[str, Any]) -> Settings:
    common = layers(config, "config")
    image = common | {name: one_size(name, config[name]) for name in ("image_size", "patch_size")}
    text = dict(
        vocab_size=config["vocab_size"],
        context_length=config["max_position_embeddings"],
        token_types=config["type_vocab_size"],
        embedding_norm=True,
        activation=common["activation"],
        norm_eps=common["norm_eps"],
    )
    heads = dict(match=False, mlm=False, answers=0)
    if head:
        heads[head] = len(_answers(config["id2label"])) if head == "answers" else True
    return dict(kind="vilt", image=image, text=text, pooler=True, mim=False, **heads)


def _to_config(settings: Settings) -> dict[str, Any]:
    image, text = settings["image"], settings["text"]
    for field in ("activation", "norm_eps"):
        if text[field] != image[field]:
            raise ValueError(f"model.text.{field}={text[field]!r} is not model.image.{field}={image[field]!r}")
    return image_fields(image) | dict(
        vocab_size=text["vocab_size"],
        max_position_embeddings=text["context_length"],
        type_vocab_size=text["token_types"],
        max_image_length=-1,
        tie_word_embeddings=True,  # so it is in 5.24 whatever a file says, and before that where it does
    )


def _purpose(objective: str, config: Mapping[str, Any], folder: Path) -> Purpose:
    del folder
    if objective != "vqa":
        return Purpose(objectives={objective: 1.0} if objective else {})
    return Purpose(objectives={"vqa": 1.0}, texts="questions", answers=_answers(config.get("id2label")))


def _family(name: str, architecture: str, head: str, objective: str) -> Family:
    heads = dict(match=False, mlm=False, mim=False) | ({} if head in ("", "answers") else {head: True})
    return Family(
        name=f"Hugging Face's ViLT {name}",
        model_type="vilt",
        architecture=architecture,
        defaults=_DEFAULTS | (dict(id2label=Raw()) if head == "answers" else {}),
        fixed=_FIXED,
        settings=dict(
            kind="vilt",
            image=dict(class_token=True, patch_bias=True, block=None),
            text=dict(norm="pre", embedding_norm=True),
            pooler=True,
            **heads,
            **({} if head == "answers" else dict(answers=0)),
        ),
        from_config=functools.partial(_from_config, head),
        to_config=_to_config,
        table=lambda settings: names.table("vilt." if head else ""),
        unread=r".*\.position_ids$|(vilt\.)?embeddings\.text_embeddings\.token_type_ids$",
        aliases=("ViltForVisualQuestionAnswering",) if head == "answers" else (),
        copies={"mlm_score.decoder.weight": "text/token_embedding", "mlm_score.bias": "text/head_bias"}
        if head == "mlm"
        else {},
        processor="ViltImageProcessor",
        purpose=functools.partial(_purpose, objective),
    )


FAMILIES = (
    _family("without a head", "ViltModel", "", ""),
    _family("for questions", "ViltForQuestionAnswering", "answers", "vqa"),
    _family("for retrieval", "ViltForImageAndTextRetrieval", "match", "itm"),
    _family("for masked words", "ViltForMaskedLM", "mlm", "mlm"),
)
