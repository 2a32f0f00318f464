"""ViT-GPT2: Hugging Face's `VisionEncoderDecoderModel` of a ViT and a GPT-2 that looks at its tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.data.text.json_encoder import BOS
from mmjax.interop import huggingface
from mmjax.interop.config_format import Settings, Unset
from mmjax.interop.families import blip
from mmjax.interop.families.family import Family, activation, read_decoding
from mmjax.interop.families.layers import VIT, image_fields, image_settings
from mmjax.interop.param_names import gpt2, vit
from mmjax.interop.purpose import Purpose

_ENCODER = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    image_size=224,
    patch_size=16,
)
_DECODER = dict(
    vocab_size=50257,
    n_positions=1024,
    n_embd=768,
    n_layer=12,
    n_head=12,
    n_inner=Unset(3072),
    activation_function="gelu_new",
    layer_norm_epsilon=1e-5,
    tie_word_embeddings=True,
    bos_token_id=Unset(50256),
    eos_token_id=50256,
)


def _from_config(config: Mapping[str, Any]) -> Settings:
    encoder, decoder = config["encoder"], config["decoder"]
    if encoder["hidden_size"] != decoder["n_embd"]:
        raise ValueError(
            f"encoder.hidden_size={encoder['hidden_size']} is not decoder.n_embd={decoder['n_embd']}, and a layer"
            " between the two (enc_to_dec_proj) is not read"
        )
    eos = config["eos_token_id"] if config["eos_token_id"] is not None else decoder["eos_token_id"]
    start = config["decoder_start_token_id"]
    text = dict(
        vocab_size=decoder["vocab_size"],
        context_length=decoder["n_positions"],
        width=decoder["n_embd"],
        depth=decoder["n_layer"],
        heads=decoder["n_head"],
        mlp_dim=decoder["n_inner"] or 4 * decoder["n_embd"],
        activation=activation("decoder.activation_function", decoder["activation_function"]),
        norm_eps=float(decoder["layer_norm_epsilon"]),
        cross_every=1,
        head="tied" if decoder["tie_word_embeddings"] else "linear",
        head_bias=decoder["tie_word_embeddings"],  # of a linear head alone
        eos_id=eos,
    )
    image = image_settings(encoder, "encoder", **VIT)
    return dict(kind="captioner", image=image, text=text, caption_id=None if start in (None, eos) else start)


def _to_config(settings: Settings) -> dict[str, Any]:
    image, text = settings["image"], settings["text"]
    if image["width"] != text["width"]:
        raise ValueError(
            f"model.image.width={image['width']} is not model.text.width={text['width']}, which it is there"
        )
    if text["head"] not in ("tied", "linear") or (text["head"] == "linear" and text["head_bias"]):
        raise ValueError(f"model.text.head={text['head']!r} with its bias: there is 'tied', or 'linear' without a bias")
    start = text["eos_id"] if settings["caption_id"] is None else settings["caption_id"]
    decoder = dict(
        vocab_size=text["vocab_size"],
        n_positions=text["context_length"],
        n_embd=text["width"],
        n_layer=text["depth"],
        n_head=text["heads"],
        n_inner=text["mlp_dim"],
        activation_function=huggingface.HF_ACTIVATIONS[text["activation"]],
        layer_norm_epsilon=text["norm_eps"],
        tie_word_embeddings=text["head"] == "tied",
        is_decoder=True,
        bos_token_id=start,
        eos_token_id=text["eos_id"],
    )
    encoder = image_fields(image)
    ids = dict(decoder_start_token_id=start, eos_token_id=text["eos_id"], pad_token_id=text["eos_id"])
    return dict(encoder=encoder, decoder=decoder, is_encoder_decoder=True, tie_word_embeddings=False) | ids


def _purpose(config: Mapping[str, Any], folder: Path) -> Purpose:
    return Purpose(objectives={"caption": 1.0}, decoding=read_decoding(config, folder))


def _generation(settings: Settings) -> dict[str, Any]:
    config = _to_config(settings)
    return {name: config[name] for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id")}


def _pooler(settings: Settings) -> dict[str, tuple[int, ...]]:
    width = settings["image"]["width"]
    return {"encoder.pooler.dense.weight": (width, width), "encoder.pooler.dense.bias": (width,)}


FAMILY = Family(
    name="Hugging Face's ViT-GPT2",
    model_type="vision-encoder-decoder",
    architecture="VisionEncoderDecoderModel",
    defaults=dict(encoder=_ENCODER, decoder=_DECODER, decoder_start_token_id=Unset(50256), eos_token_id=Unset(50256)),
    fixed=dict(
        encoder=dict(model_type="vit", num_channels=3, qkv_bias=True),
        decoder=dict(
            model_type="gpt2",
            add_cross_attention=True,
            scale_attn_weights=True,
            scale_attn_by_inverse_layer_idx=False,
            reorder_and_upcast_attn=False,
        ),
    ),
    settings=dict(
        kind="captioner",
        decoder="transformer",
        question=None,
        image=blip.IMAGE,
        text=blip.WRITER | dict(norm="pre", token_types=0, embedding_norm=False, final_norm=True, block=None),
    ),
    from_config=_from_config,
    to_config=_to_config,
    table=lambda settings: [*vit.table("encoder."), *gpt2.table("decoder.")],
    unread=r"encoder\.pooler\.|.*\.(attn|crossattention)\.(masked_)?bias$",
    copies={"decoder.lm_head.weight": "text/token_embedding"},
    unused=_pooler,
    processor="ViTImageProcessor",
    tokenizer_options=lambda settings: (BOS,),
    purpose=_purpose,
    generation=_generation,
)
