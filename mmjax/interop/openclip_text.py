"""Text towers of OpenCLIP: their config both ways."""

from collections.abc import Mapping
from typing import Any

from mmjax.data.text.tokenizer import LARGEST_ID
from mmjax.errors import UserError
from mmjax.interop import openclip_config

_FIELDS = {
    *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "no_causal_mask", "eos_id"),
    *("proj_bias", "proj_type", "pool_type", "act_kwargs", "norm_kwargs"),
}
# Fields that change nothing in what a trained model computes, or that stand elsewhere, too.
_IGNORED = {
    "output_tokens",
    "pad_id",
    "hf_tokenizer_name",
    "tokenizer_kwargs",
    "tokenizer_mode",
    "hf_model_pretrained",
    "hf_proj_type",
    "hf_pooler_type",
    "final_ln_after_pool",  # the norm comes before pooling or after it: for one token that is the same
}
_POOLS = {"argmax": "eos", "eos": "eos", "last": "last"}
_TOKENIZERS = {32000: "timm/ViT-B-16-SigLIP", 256000: "timm/ViT-B-16-SigLIP2"}


def from_config(text: Mapping[str, Any], quick: bool, path: Any) -> dict[str, Any]:
    """Settings of `model.text` from `text_cfg`; `quick` is the model's `quick_gelu`.

    Raises:
      UserError: a setting that mmjax does not have.
    """
    openclip_config.check_fields(text, "text_cfg", path, known=_FIELDS | _IGNORED)
    width, pool = text.get("width", 512), text.get("pool_type", "argmax")
    if pool not in _POOLS:
        raise UserError(f"{path}: text_cfg.pool_type={pool!r} is not read; mmjax reads {', '.join(_POOLS)}")
    projection = text.get("proj_type", "linear")
    if projection not in ("linear", "none", "", None):
        raise UserError(f"{path}: text_cfg.proj_type={projection!r} is not read; mmjax reads 'linear' and 'none'")
    settings = dict(
        vocab_size=text.get("vocab_size", 49408),
        context_length=text.get("context_length", 77),
        width=width,
        depth=text.get("layers", 12),
        heads=text.get("heads", 8),
        mlp_dim=int(width * text.get("mlp_ratio", 4.0)),
        causal=not text.get("no_causal_mask", False),
        activation=openclip_config.activation(text, quick, path),
        norm_eps=openclip_config.norm_eps(text),
        pool=_POOLS[pool],
        projection="none" if projection != "linear" else "bias" if text.get("proj_bias") else "linear",
    )
    if pool != "last":
        settings["eos_id"] = text.get("eos_id", 2) if pool == "eos" else LARGEST_ID
    return settings


def to_config(text: Mapping[str, Any], *, is_timm: bool) -> dict[str, Any]:
    """The content of `text_cfg`; `is_timm`: beside an image tower of timm's, as SigLIP's are.

    Raises:
      UserError: a setting that OpenCLIP does not have.
    """
    openclip_config.require("text", text, mask_padding=False)
    pools = {"eos": dict(pool_type="eos", eos_id=text["eos_id"]), "last": dict(pool_type="last")}
    if text["pool"] not in pools:
        raise UserError(f"model.text.pool={text['pool']!r}: OpenCLIP pools texts at one token")
    fields = dict(context_length=text["context_length"], vocab_size=text["vocab_size"], width=text["width"])
    fields |= dict(heads=text["heads"], layers=text["depth"]) | openclip_config.written_mlp_ratio("text", text)
    # At the largest id, its default, the tower pools where the end-of-text token has that id.
    if text["pool"] != "eos" or text["eos_id"] not in (LARGEST_ID, text["vocab_size"] - 1):
        fields |= pools[text["pool"]]
    fields |= {} if text["causal"] else dict(no_causal_mask=True)
    fields |= {"linear": {}, "bias": dict(proj_bias=True), "none": dict(proj_type="none")}[text["projection"]]
    if is_timm and text["vocab_size"] in _TOKENIZERS:
        fields |= dict(hf_tokenizer_name=_TOKENIZERS[text["vocab_size"]], tokenizer_kwargs={"clean": "canonicalize"})
    return fields | openclip_config.written_layers("text", text)
