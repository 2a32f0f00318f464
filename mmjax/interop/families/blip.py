"""BLIP (arXiv:2201.12086): Hugging Face's classes for captions, for questions and for retrieval."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.interop.config_format import Settings
from mmjax.interop.families.family import Family, Params, complete, read_decoding
from mmjax.interop.families.layers import SIZES, VIT, image_fields, image_settings, layer_fields, layers
from mmjax.interop.param_names import blip as names
from mmjax.interop.purpose import Purpose

VISION = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    image_size=384,
    patch_size=16,
    hidden_act="gelu",
    layer_norm_eps=1e-5,
)
_TEXT = dict(
    vocab_size=30524,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=8,
    max_position_embeddings=512,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    bos_token_id=30522,
    pad_token_id=0,
    sep_token_id=102,
)
IMAGE = VIT | dict(class_token=True, final_norm=True, crop_to_patches=False)
IMAGE |= dict(registers=0, block=None)
BERT = dict(norm="post", token_types=0, embedding_norm=True, final_norm=False, block=None)
WRITER = dict(causal=True, cross_every=1, cross_from=0, cross_mlp=False, key_bias=True)
WRITER |= dict(learned_positions=True, embed_scale=False)


def _text(config: Mapping[str, Any]) -> Settings:
    """BERT, as far as all classes have it."""
    text = config["text_config"]  # the library sets its `encoder_hidden_size` to the vision tower's width
    sizes = dict(vocab_size=text["vocab_size"], context_length=text["max_position_embeddings"])
    bert = dict(norm="post", embedding_norm=True, final_norm=False)
    return sizes | layers(text, "text_config") | bert | dict(eos_id=text["sep_token_id"])


def _fields(settings: Settings) -> dict[str, Any]:
    """The fields that all classes have."""
    image, text = settings["image"], settings["text"]
    first = settings["caption_id"]
    return dict(
        vision_config=image_fields(image),
        text_config=layer_fields(text)
        | dict(
            vocab_size=text["vocab_size"],
            max_position_embeddings=text["context_length"],
            encoder_hidden_size=image["width"],
            bos_token_id=text["eos_id"] if first is None else first,
            eos_token_id=text["eos_id"],
            sep_token_id=text["eos_id"],
            pad_token_id=0,
        ),
    )


def _captioner(config: Mapping[str, Any]) -> Settings:
    text = _text(config) | dict(cross_every=1, head="mlm")
    first = config["text_config"]["bos_token_id"]
    return dict(kind="captioner", image=image_settings(config["vision_config"], **VIT), text=text, caption_id=first)


def _captions(config: Mapping[str, Any], folder: Path) -> Purpose:
    return Purpose(objectives={"caption": 1.0}, decoding=read_decoding(config.get("text_config") or {}, folder))


def _generation(settings: Settings) -> dict[str, Any]:
    text = _fields(settings)["text_config"]
    return {name: text[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _check_whole(settings: Settings) -> None:
    """Checks that a model is BLIP's whole mixture of encoder and decoder.

    Raises:
      ValueError: it is another one.
    """
    if settings["kind"] != "blip" or not settings["caption"]:
        raise ValueError(f"a part of model.kind='blip' with model.caption=True, and this is {settings['kind']!r}")


def _writing_part(settings: Settings, params: Params) -> tuple[Settings, Params]:
    """The captioner within a model of three passes."""
    _check_whole(settings)
    text = settings["text"] | WRITER | dict(head="mlm")
    part = dict(kind="captioner", image=settings["image"], text=text, caption_id=settings["caption_id"])
    writer = {
        path.replace("text_writer/", "text/transformer/"): x for path, x in params.items() if "text_writer" in path
    }
    return complete(part), {path: x for path, x in params.items() if path.startswith(("image/", "text/"))} | writer


def _reading_part(settings: Settings, params: Params) -> tuple[Settings, Params]:
    """What embeds and matches in a model of three passes; its own first token of texts that match is not there."""
    _check_whole(settings)
    left_out = ("text_writer/", "text/head_", "answer_head/")
    settings = settings | dict(caption=False, answers=0, caption_id=None, match_id=None)
    return settings, {path: x for path, x in params.items() if not path.startswith(left_out)}


_SHARED: dict[str, Any] = dict(
    model_type="blip",
    fixed=dict(
        tie_word_embeddings=True,
        vision_config=dict(model_type="blip_vision_model", num_channels=3),
        text_config=dict(model_type="blip_text_model", tie_word_embeddings=True),
    ),
    processor="BlipImageProcessor",
)
CAPTIONING = Family(
    name="Hugging Face's BLIP for captions",
    architecture="BlipForConditionalGeneration",
    defaults=dict(vision_config=VISION, text_config=_TEXT),
    settings=dict(
        kind="captioner",
        decoder="transformer",
        question=None,
        image=IMAGE,
        text=BERT | WRITER | dict(head="mlm"),
    ),
    from_config=_captioner,
    to_config=_fields,
    table=lambda settings: [*names.image("vision_model."), *names.writer("text_decoder.")],
    unread=r".*\.position_ids$",
    copies={
        "text_decoder.cls.predictions.decoder.weight": "text/token_embedding",
        "text_decoder.cls.predictions.decoder.bias": "text/head_bias",
    },
    purpose=_captions,
    part_of=_writing_part,
    larger=("blip",),
    generation=_generation,
    **_SHARED,
)


# -- questions: one text encoder reads them with the image, a decoder looks at what it gives ---------------------------


def _answerer(config: Mapping[str, Any]) -> Settings:
    vision, text = config["vision_config"]["hidden_size"], config["text_config"]["hidden_size"]
    if vision != text:
        raise ValueError(
            f"vision_config.hidden_size={vision} is not text_config.hidden_size={text}: the decoder there looks at"
            " questions through maps as wide as images"
        )
    settings = _captioner(config)
    settings["text"] |= dict(sep_id=settings["text"]["eos_id"])
    return settings | dict(question=_text(config) | dict(eos_id=None))


def _answerer_fields(settings: Settings) -> dict[str, Any]:
    image, text, question = settings["image"], settings["text"], settings["question"]
    if text["sep_id"] != text["eos_id"]:
        raise ValueError(
            f"model.text.sep_id={text['sep_id']} is not model.text.eos_id={text['eos_id']}: there one token ends"
            " questions and answers"
        )
    if image["width"] != text["width"]:
        raise ValueError(
            f"model.image.width={image['width']} is not model.text.width={text['width']}, which it is there"
        )
    for name in (*SIZES, "activation", "norm_eps", "vocab_size", "context_length"):
        if question[name] != text[name]:
            raise ValueError(
                f"model.question.{name}={question[name]!r} is not model.text.{name}={text[name]!r}: there one config is"
                " of both"
            )
    return _fields(settings)


def _answers(config: Mapping[str, Any], folder: Path) -> Purpose:
    return dataclasses.replace(_captions(config, folder), texts="answers")


def _answering_part(settings: Settings, params: Params) -> tuple[Settings, Params]:
    """Where training on questions starts in a model of three passes: its readers and its writer, apart from now on."""
    part, writing = _writing_part(settings, params)
    part["text"]["sep_id"] = part["text"]["eos_id"]
    of_reader = {path: x for path, x in params.items() if path.startswith("text/") and "text/head_" not in path}
    reading = {path.replace("text/", "question/", 1): x for path, x in of_reader.items()}
    return complete(part | dict(question=settings["text"] | dict(eos_id=None))), {**writing, **reading}


QUESTION_ANSWERING = Family(
    name="Hugging Face's BLIP for questions",
    architecture="BlipForQuestionAnswering",
    defaults=dict(vision_config=VISION, text_config=_TEXT),
    settings=dict(
        kind="captioner",
        decoder="transformer",
        image=IMAGE,
        text=BERT | WRITER | dict(head="mlm"),
        question=BERT,
    ),
    from_config=_answerer,
    to_config=_answerer_fields,
    table=lambda settings: [
        *names.image("vision_model."),
        *names.reader("text_encoder.", "question/"),
        *names.writer("text_decoder."),
    ],
    unread=r".*\.position_ids$",
    copies=CAPTIONING.copies,
    purpose=_answers,
    part_of=_answering_part,
    larger=("blip",),
    generation=_generation,
    **_SHARED,
)


# -- retrieval: contrast and matching by one text encoder --------------------------------------------------------------

TEMPERATURE = 0.07  # of contrast, which their files do not have


def _retriever(config: Mapping[str, Any]) -> Settings:
    return dict(
        kind="blip",
        embed_dim=config["image_text_hidden_size"],
        image=image_settings(config["vision_config"], **VIT),
        text=_text(config),
        match=True,
        logit_scale_init=1 / TEMPERATURE,
    )


def _retriever_fields(settings: Settings) -> dict[str, Any]:
    return _fields(settings) | dict(image_text_hidden_size=settings["embed_dim"])


def retrieval(config: Mapping[str, Any], folder: Path) -> Purpose:
    del config, folder
    return Purpose(objectives={"itc": 1.0, "itm": 1.0})


RETRIEVAL = Family(
    name="Hugging Face's BLIP for retrieval",
    architecture="BlipForImageTextRetrieval",
    defaults=dict(vision_config=VISION, text_config=_TEXT, image_text_hidden_size=256),
    settings=dict(
        kind="blip",
        image=IMAGE,
        text=BERT,
        match=True,
        caption=False,
        answers=0,
        match_id=None,
        logit_bias_init=None,
    ),
    from_config=_retriever,
    to_config=_retriever_fields,
    table=lambda settings: names.retrieval(settings["logit_scale_init"]),
    unread=r".*\.position_ids$|text_encoder\.pooler\.",
    purpose=retrieval,
    part_of=_reading_part,
    larger=("blip",),
    **_SHARED,
)
