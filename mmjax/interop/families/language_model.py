"""What Hugging Face's models of an image tower, a connector and a language model have in common: LLaVA, PaliGemma."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.interop import huggingface
from mmjax.interop.config_format import Raw, Settings, Unset
from mmjax.interop.families.family import activation, read_decoding
from mmjax.interop.families.layers import SIZES
from mmjax.interop.purpose import Purpose

CONTEXT = 512  # tokens of a text that training and evaluation make room for
_LARGEST_THETA = 1e9

# What all of them have in `model.text` and in its `block`.
SETTINGS = dict(
    **dict(norm="pre", token_types=0, embedding_norm=False, final_norm=True, learned_positions=False),
    **dict(cross_from=0, cross_mlp=False),
)
BLOCK = dict(
    **dict(res_post_norm=False, layer_scale=0.0, key_bias=True, attention_norm=False, mlp_norm=False),
    **dict(mlp_gate=True, rope="half"),
)


def text_defaults(**sizes: Any) -> dict[str, Any]:
    """Fields of a `text_config` with the defaults of its class."""
    rotary = dict.fromkeys(("rope_parameters", "rope_theta", "rope_scaling"), Raw())
    return dict(num_key_value_heads=Unset(8), head_dim=Unset(128), attention_bias=False) | rotary | sizes


def text_settings(text: Mapping[str, Any], norm_type: str) -> Settings:
    """Llama or Gemma; `norm_type` is of its norms.

    Raises:
      ValueError: something that mmjax does not have.
    """
    settings: Settings = {ours: text[theirs] for ours, theirs in SIZES.items()}
    heads, width = settings["heads"], settings["width"]
    kv_heads = text["num_key_value_heads"] or heads
    if heads % kv_heads:
        raise ValueError(f"text_config.num_key_value_heads={kv_heads} does not divide num_attention_heads={heads}")
    head_dim = text["head_dim"] or width // heads
    if head_dim % 2:
        raise ValueError(f"text_config.head_dim={head_dim} is odd, and rotary positions turn pairs of numbers")
    block = dict(
        norm_type=norm_type,
        kv_heads=0 if kv_heads == heads else kv_heads,
        head_dim=0 if head_dim * heads == width else head_dim,
        qkv_bias=text["attention_bias"],
        out_bias=text["attention_bias"],
        mlp_bias=text["mlp_bias"],
        mlp_gate=True,
        rope="half",
        rope_theta=_theta(text),
    )
    return settings | dict(
        vocab_size=text["vocab_size"],
        context_length=text["max_position_embeddings"],
        activation=activation("text_config.hidden_act", text["hidden_act"]),
        norm_eps=float(text["rms_norm_eps"]),
        block=block,
        learned_positions=False,
        head="tied" if text["tie_word_embeddings"] else "linear",
        head_bias=text["tie_word_embeddings"],  # of a linear head alone
        eos_id=first_id(text["eos_token_id"]),
    )


def text_fields(text: Settings) -> dict[str, Any]:
    """The fields of a `text_config`.

    Raises:
      ValueError: the library has no such model.
    """
    block = text["block"]
    if text["head"] not in ("tied", "linear") or (text["head"] == "linear" and text["head_bias"]):
        raise ValueError(f"model.text.head={text['head']!r} with its bias: there is 'tied', or 'linear' without a bias")
    if block["out_bias"] != block["qkv_bias"]:
        raise ValueError("model.text.block.qkv_bias and out_bias differ, which are one there")
    fields: dict[str, Any] = {theirs: text[ours] for ours, theirs in SIZES.items()}
    return fields | dict(
        vocab_size=text["vocab_size"],
        max_position_embeddings=text["context_length"],
        num_key_value_heads=block["kv_heads"] or text["heads"],
        head_dim=block["head_dim"] or text["width"] // text["heads"],
        hidden_act=huggingface.HF_ACTIVATIONS[text["activation"]],
        rms_norm_eps=text["norm_eps"],
        rope_parameters=dict(rope_type="default", rope_theta=block["rope_theta"]),
        rope_theta=block["rope_theta"],  # where older versions look
        attention_bias=block["qkv_bias"],
        mlp_bias=block["mlp_bias"],
        tie_word_embeddings=text["head"] == "tied",
        eos_token_id=text["eos_id"],
    )


def _theta(text: Mapping[str, Any]) -> float:
    """Base of the wavelengths of rotary positions; of older files in a field of its own.

    Raises:
      ValueError: positions of another kind.
    """
    fields = text["rope_parameters"] or {}
    fields = text["rope_scaling"] or fields  # as older versions called the group
    if not isinstance(fields, Mapping):
        raise ValueError(f"text_config.rope_parameters={str(fields)[:60]}: wants a group of fields")
    kind = fields.get("rope_type") or fields.get("type") or "default"
    if kind != "default":
        raise ValueError(f"text_config.rope_parameters.rope_type={str(kind)[:60]!r} is not read; mmjax has 'default'")
    theta = fields.get("rope_theta") or text["rope_theta"] or 10_000.0
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not 1 <= theta <= _LARGEST_THETA:
        raise ValueError(f"text_config.rope_theta={str(theta)[:60]}: wants a number from 1 to {_LARGEST_THETA:g}")
    return float(theta)


def first_id(ids: int | list[int]) -> int:
    """The id that ends texts.

    Raises:
      ValueError: there are several.
    """
    if isinstance(ids, list) and any(other != ids[0] for other in ids):
        raise ValueError(f"text_config.eos_token_id={str(ids)[:60]}: mmjax ends a text at one id; leave that one")
    return ids[0] if isinstance(ids, list) else ids


def answers(config: Mapping[str, Any], folder: Path, template: str) -> Purpose:
    """What such a model does: it answers questions, which stand in a template, in words."""
    return Purpose(
        objectives={"caption": 1.0},
        texts="answers",
        decoding=read_decoding(config.get("text_config") or {}, folder, prompt=None),
        question_template=template,
        context_length=CONTEXT,
    )
