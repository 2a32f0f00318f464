"""BLIP-2 (arXiv:2301.12597): Hugging Face's class of its first stage, and that of its second in front of an OPT."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.data.text.json_encoder import NEWLINE_END
from mmjax.interop import huggingface
from mmjax.interop.config_format import Settings, Unset
from mmjax.interop.families import blip, language_model
from mmjax.interop.families.family import Family, Params, activation
from mmjax.interop.families.layers import SIZES, VIT, image_fields, image_settings, layer_fields, layers
from mmjax.interop.param_names import blip2 as names
from mmjax.interop.preprocessing import HF_FILES
from mmjax.interop.purpose import Purpose

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

_OF_TEXTS = ("vocab_size", "max_position_embeddings")  # which the second stage does not read


def _check_queries(vision: Mapping[str, Any], qformer: Mapping[str, Any]) -> None:
    """Checks that queries can look at an image.

    Raises:
      ValueError: they cannot.
    """
    if qformer["encoder_hidden_size"] != vision["hidden_size"]:
        raise ValueError(
            f"qformer_config.encoder_hidden_size={qformer['encoder_hidden_size']} is not vision_config.hidden_size="
            f"{vision['hidden_size']}"
        )
    depth, every = qformer["num_hidden_layers"], qformer["cross_attention_frequency"]
    if depth % every:
        raise ValueError(f"qformer_config.cross_attention_frequency={every} does not divide its {depth} layers")


def _from_config(config: Mapping[str, Any]) -> Settings:
    vision, qformer = config["vision_config"], config["qformer_config"]
    _check_queries(vision, qformer)
    text = layers(qformer, "qformer_config") | dict(norm="post", embedding_norm=True, final_norm=False)
    text |= dict(vocab_size=qformer["vocab_size"], context_length=qformer["max_position_embeddings"])
    return dict(
        kind="qformer",
        embed_dim=config["image_text_hidden_size"],
        image=image_settings(vision, **VIT),
        text=text | dict(cross_every=qformer["cross_attention_frequency"]),
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


# -- the second stage: what the queries gathered, in front of the text of an OPT -------------------------------------

_OPT = dict(
    vocab_size=50272,
    hidden_size=768,
    num_hidden_layers=12,
    ffn_dim=3072,
    max_position_embeddings=2048,
    num_attention_heads=12,
    activation_function="relu",
    word_embed_proj_dim=Unset(768),
    tie_word_embeddings=True,
    eos_token_id=2,
)
_SIZES = SIZES | dict(mlp_dim="ffn_dim")
_NORM_EPS = 1e-5  # of OPT's layer norms, whatever its config says
_LINE_FEED = 50118  # of OPT's vocabulary: it ends what BLIP-2's writes
_TEMPLATE = "Question: {question} Answer:"


def _writer(config: Mapping[str, Any]) -> Settings:
    vision, qformer, text = config["vision_config"], config["qformer_config"], config["text_config"]
    _check_queries(vision, qformer)
    if text["word_embed_proj_dim"] not in (None, text["hidden_size"]):
        raise ValueError(
            f"text_config.word_embed_proj_dim={text['word_embed_proj_dim']} is not text_config.hidden_size="
            f"{text['hidden_size']}, and maps between the two are not read"
        )
    image_id, vocabulary, tied = config["image_token_index"], text["vocab_size"], text["tie_word_embeddings"]
    if image_id is not None and image_id >= vocabulary:
        raise ValueError(f"image_token_index={image_id} is none of the {vocabulary} ids of text_config.vocab_size")
    queries = config["num_query_tokens"]
    if queries + 2 > text["max_position_embeddings"]:
        raise ValueError(
            f"num_query_tokens={queries} leaves no room for a text within the"
            f" {text['max_position_embeddings']} positions of text_config.max_position_embeddings"
        )
    reader = layers(qformer, "qformer_config")
    return dict(
        kind="prefix_lm",
        image=image_settings(vision, **VIT),
        qformer=reader | dict(queries=queries, cross_every=qformer["cross_attention_frequency"]),
        text={ours: text[theirs] for ours, theirs in _SIZES.items()}
        | dict(
            vocab_size=vocabulary,
            context_length=text["max_position_embeddings"],
            activation=activation("text_config.activation_function", text["activation_function"]),
            norm_eps=_NORM_EPS,
            head="tied" if tied else "linear",
            head_bias=tied,  # of a linear head alone
            eos_id=language_model.first_id(text["eos_token_id"]),
        ),
        connector="linear",
        prefix="causal",
        image_id=image_id,
    )


def _writer_fields(settings: Settings) -> dict[str, Any]:
    image, reader, text = settings["image"], settings["qformer"], settings["text"]
    if text["norm_eps"] != _NORM_EPS:
        raise ValueError(f"model.text.norm_eps={text['norm_eps']}: there it is {_NORM_EPS}")
    if text["head"] not in ("tied", "linear") or (text["head"] == "linear" and text["head_bias"]):
        raise ValueError(f"model.text.head={text['head']!r} with its bias: there is 'tied', or 'linear' without a bias")
    opt: dict[str, Any] = {theirs: text[ours] for ours, theirs in _SIZES.items()}
    opt |= dict(
        vocab_size=text["vocab_size"],
        max_position_embeddings=text["context_length"],
        activation_function=huggingface.HF_ACTIVATIONS[text["activation"]],
        word_embed_proj_dim=text["width"],
        tie_word_embeddings=text["head"] == "tied",
        eos_token_id=text["eos_id"],
    )
    image_id = settings["image_id"]
    return dict(
        vision_config=image_fields(image),
        qformer_config=layer_fields(reader)
        | dict(cross_attention_frequency=reader["cross_every"], encoder_hidden_size=image["width"]),
        text_config=opt,
        num_query_tokens=reader["queries"],
        image_token_index=text["vocab_size"] - 1 if image_id is None else image_id,
        tie_word_embeddings=text["head"] == "tied",
    )


def _writing(config: Mapping[str, Any], folder: Path) -> Purpose:
    return language_model.answers(config, folder, _TEMPLATE)


CONDITIONAL = Family(
    name="Hugging Face's BLIP-2 with OPT",
    model_type="blip-2",
    architecture="Blip2ForConditionalGeneration",
    defaults=dict(
        vision_config=_VISION,
        qformer_config={name: value for name, value in _QFORMER.items() if name not in _OF_TEXTS},
        text_config=_OPT,
        num_query_tokens=32,
        image_token_index=Unset(50265),
    ),
    fixed=dict(
        vision_config=dict(model_type="blip_2_vision_model", qkv_bias=True),
        qformer_config=dict(model_type="blip_2_qformer", use_qformer_text_input=False),
        text_config=dict(
            model_type="opt",
            do_layer_norm_before=True,
            _remove_final_layer_norm=False,
            enable_bias=True,
            layer_norm_elementwise_affine=True,
        ),
    ),
    settings=dict(
        kind="prefix_lm",
        connector="linear",
        prefix="causal",
        feature_layer=None,
        image=blip.IMAGE,
        qformer=dict(block=None),
        text=dict(
            **dict(norm="pre", token_types=0, embedding_norm=False, final_norm=True, learned_positions=True),
            **dict(cross_from=0, cross_mlp=False, embed_scale=False, block=None),
        ),
    ),
    from_config=_writer,
    to_config=_writer_fields,
    table=lambda settings: names.writer(settings["qformer"]["cross_every"]),
    unread=r".*\.position_ids$",
    copies={"language_model.lm_head.weight": "text/token_embedding"},
    processor="BlipImageProcessor",
    tokenizer_options=lambda settings: (NEWLINE_END,) if settings["text"]["eos_id"] == _LINE_FEED else (),
    purpose=_writing,
    generation=lambda settings: dict(eos_token_id=settings["text"]["eos_id"]),
    processors=lambda settings: {
        HF_FILES[0]: dict(processor_class="Blip2Processor", num_query_tokens=settings["qformer"]["queries"])
    },
)
