"""Text towers of OpenCLIP: their config both ways; its own, and Hugging Face's of BERT's kind."""

from collections.abc import Mapping
from typing import Any

from mmjax.data.text.tokenizer import LARGEST_ID
from mmjax.errors import UserError
from mmjax.interop import bert_towers, model_settings, openclip_config
from mmjax.interop.tensor_files import Tensors, read_json
from mmjax.interop.weights_path import HF_CONFIG

_FIELDS = {
    *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "no_causal_mask", "eos_id"),
    *("proj_bias", "proj_type", "pool_type", "act_kwargs", "norm_kwargs", "ls_init_value"),
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


def from_config(
    text: Mapping[str, Any], quick: bool, path: Any, *, embed_dim: int = 0, tensors: Tensors | None = None
) -> dict[str, Any]:
    """Settings of `model.text` from `text_cfg`.

    Args:
      text: the config.
      quick: the model's `quick_gelu`.
      path: of the file, for messages.
      embed_dim: E.
      tensors: the weights that the config lies beside; None for those of a published model.

    Raises:
      UserError: a setting that mmjax does not have.
    """
    if is_hugging_face(text):
        return _from_hugging_face(text, path, embed_dim, tensors)
    if tensors is not None and _WORDS in tensors:
        raise UserError(f"{path}: text_cfg.hf_model_name is not set, but the weights hold such a tower ({_WORDS})")
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
    settings |= openclip_config.layer_scale(text, path)
    if pool != "last":
        settings["eos_id"] = text.get("eos_id", 2) if pool == "eos" else LARGEST_ID
    return settings


def to_config(text: Mapping[str, Any], *, is_timm: bool, length: int) -> dict[str, Any]:
    """The content of `text_cfg`.

    Args:
      text: settings of `model.text`.
      is_timm: whether it stands beside an image tower of timm's, as SigLIP's do.
      length: tokens that texts are cut to; read of a tower of Hugging Face's alone.

    Raises:
      UserError: a setting that OpenCLIP does not have.
    """
    if writes_hugging_face(text):
        return _to_hugging_face(text, length)
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
    fields |= openclip_config.written_layer_scale("text", text)
    return fields | openclip_config.written_layers("text", text)


# -- Hugging Face's text towers ----------------------------------------------------------------------------------------

# Those of OpenCLIP's own towers are not read beside them.
_HF_FIELDS = _FIELDS | _IGNORED | {"hf_model_name"}
_OLDER_FIELDS = {"proj": "hf_proj_type", "pooler_type": "hf_pooler_type"}  # of older files
_HF_POOLS: dict[str, dict[str, Any]] = {
    "mean_pooler": dict(pool="mean", pooler=False),
    "cls_pooler": dict(pool="cls", pooler=True),
    "cls_last_hidden_state_pooler": dict(pool="cls", pooler=False),
}
_HF_PROJECTIONS = {"mlp": "mlp", "linear": "linear", "": "none"}
_CONTEXT = 77  # what OpenCLIP cuts texts to where a config does not say
_HERE = "."  # in place of a name: the folder that the program runs in
_TOWER = "text.transformer."
_WORDS = f"{_TOWER}embeddings.word_embeddings.weight"


def is_hugging_face(text: Mapping[str, Any]) -> bool:
    """Whether a `text_cfg` names a text tower of Hugging Face's."""
    return bool(text.get("hf_model_name"))


def writes_hugging_face(text: Mapping[str, Any]) -> bool:
    """Whether settings of `model.text` are written as a text tower of Hugging Face's."""
    return text.get("norm") == "post"


def text_length(text: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """Tokens that texts are cut to, where the tower has positions for more; else 0.

    Args:
      text: `text_cfg`; empty where there is none.
      settings: of `model.text`.
    """
    return text.get("context_length", _CONTEXT) if writes_hugging_face(settings) else 0


def _from_hugging_face(text: Mapping[str, Any], path: Any, embed_dim: int, tensors: Tensors | None) -> dict[str, Any]:
    older = {new: text[old] for old, new in _OLDER_FIELDS.items() if old in text and new not in text}
    text = {name: value for name, value in text.items() if _OLDER_FIELDS.get(name) not in older} | older
    openclip_config.check_fields(text, "text_cfg", path, known=_HF_FIELDS)
    settings = _architecture(str(text["hf_model_name"]), path, tensors)
    if tensors is not None:
        model_settings.param_shape(tensors, _WORDS, 2)  # there
    # OpenCLIP's own defaults: those of `CLIPTextCfg` where a field is missing, of the tower's kind where it is null.
    default = "cls_pooler" if settings["positions"] == "first" else "mean_pooler"
    pooler = text.get("hf_pooler_type", "mean_pooler") or default
    projection = text.get("hf_proj_type", "mlp") or ""
    for field, value, known in (("pooler", pooler, _HF_POOLS), ("proj", projection, _HF_PROJECTIONS)):
        if value not in known:
            names = ", ".join(filter(None, known))
            raise UserError(f"{path}: text_cfg.hf_{field}_type={value!r} is not read; mmjax reads {names}")
    if not projection and settings["width"] != embed_dim:
        raise UserError(
            f"{path}: text_cfg.hf_proj_type={text['hf_proj_type']!r}, but the tower's width of {settings['width']} is"
            f" not embed_dim={embed_dim}"
        )
    return settings | _HF_POOLS[pooler] | dict(projection=_HF_PROJECTIONS[projection])


def _architecture(name: str, path: Any, tensors: Tensors | None) -> dict[str, Any]:
    """The tower's numbers: by a config beside the weights, by its published name, or by the weights' shapes."""
    beside = None if tensors is None else tensors.path.parent / HF_CONFIG
    if beside is not None and beside.is_file():
        config = read_json(beside)
        if bert_towers.is_family(config.get("model_type")):
            return bert_towers.from_config(config, beside)
    published = bert_towers.PUBLISHED.get(name.removeprefix("FacebookAI/"))
    if published is not None:
        return bert_towers.from_config(published, path)
    if tensors is not None and _WORDS in tensors:
        return bert_towers.from_shapes(tensors, _TOWER)
    known = ", ".join(bert_towers.PUBLISHED)
    raise UserError(
        f"{path}: text_cfg.hf_model_name={name!r} is not read; of Hugging Face's text towers mmjax has those of BERT's"
        f" kind, such as {known}"
    )


def bare_hugging_face(tensors: Tensors) -> tuple[dict[str, Any], int]:
    """Settings of `model.text` from a file alone, and E; what shapes do not tell is a `MissingSetting`."""
    settings = bert_towers.from_shapes(tensors, _TOWER)
    if f"{_TOWER}pooler.dense.weight" in tensors:
        settings |= _HF_POOLS["cls_pooler"]
    elif isinstance(settings["heads"], bert_towers.MissingSetting):
        settings |= dict(pool=bert_towers.MissingSetting('"mean"'), pooler=False)
    else:
        settings |= _HF_POOLS["mean_pooler"]  # of all published models
    layers = {"text.proj.2.weight": "mlp", "text.proj.weight": "linear"}
    for name, projection in layers.items():
        if name in tensors:
            return settings | dict(projection=projection), tensors[name][0]
    return settings | dict(projection="none"), settings["width"]


def _to_hugging_face(text: Mapping[str, Any], length: int) -> dict[str, Any]:
    chosen = dict(pool=text["pool"], pooler=text.get("pooler", False))
    pooler = next((name for name, fields in _HF_POOLS.items() if fields == chosen), None)
    projection = next((theirs for theirs, ours in _HF_PROJECTIONS.items() if ours == text["projection"]), None)
    if pooler is None or projection is None:
        field = "pool" if pooler is None else "projection"
        raise UserError(f"model.text.{field}={text[field]!r}: OpenCLIP has no such tower of Hugging Face's")
    name = bert_towers.published_name(text) or _HERE
    fields = dict(hf_model_name=name, hf_model_pretrained=False, hf_pooler_type=pooler, hf_proj_type=projection or None)
    return fields | dict(context_length=length, hf_tokenizer_name=name)
