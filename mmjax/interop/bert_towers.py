"""Text towers of BERT's kind (BERT, RoBERTa, XLM-RoBERTa): Hugging Face's config of one, both ways, and published ones.

In OpenCLIP's files such a tower is named by `hf_model_name`. Its numbers come from a config beside the weights, from
the table of published names, or from shapes; nothing is fetched.
"""

from collections.abc import Mapping
from typing import Any

from mmjax.errors import UserError, validate_choice
from mmjax.interop import huggingface, model_settings, published_towers
from mmjax.interop.config_format import LARGEST, LARGEST_TABLE
from mmjax.interop.published_towers import MissingSetting
from mmjax.interop.tensor_files import Tensors

# What such a tower computes whatever its size; the first token type alone is read.
_BERT = dict(causal=False, mask_padding=True, positions="first", norm="post", embedding_norm=True, final_norm=False)
_ROBERTA = _BERT | dict(positions="after_pad")
# What a config that leaves a field out means, as the library's own classes have it.
_DEFAULTS: dict[str, Any] = dict(vocab_size=30_522, hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
_DEFAULTS |= dict(intermediate_size=3072, hidden_act="gelu", layer_norm_eps=1e-12, max_position_embeddings=512)
_DEFAULTS |= dict(type_vocab_size=2, pad_token_id=0, position_embedding_type="absolute", is_decoder=False)
_FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bert": (_BERT, _DEFAULTS),
    "chinese_clip_text_model": (_BERT, _DEFAULTS),
    "roberta": (_ROBERTA, _DEFAULTS | dict(vocab_size=50_265, pad_token_id=1, eos_token_id=2)),
    "xlm-roberta": (_ROBERTA, _DEFAULTS | dict(pad_token_id=1, eos_token_id=2)),
}
# The text towers of OpenCLIP's models by name, as their config.json has them.
_PUBLISHED_ROBERTA = dict(max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, bos_token_id=0)
_LARGE = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
PUBLISHED: dict[str, dict[str, Any]] = {
    "roberta-base": dict(model_type="roberta", vocab_size=50_265) | _PUBLISHED_ROBERTA,
    "roberta-large": dict(model_type="roberta", vocab_size=50_265) | _PUBLISHED_ROBERTA | _LARGE,
    "xlm-roberta-base": dict(model_type="xlm-roberta", vocab_size=250_002) | _PUBLISHED_ROBERTA,
    "xlm-roberta-large": dict(model_type="xlm-roberta", vocab_size=250_002) | _PUBLISHED_ROBERTA | _LARGE,
}
_MOST_LAYERS = 1_000
_NO_END = 1  # `eos_id`, which no such tower reads, where a config has none


def is_family(kind: Any) -> bool:
    """Whether a `model_type` is of this kind."""
    return kind in _FAMILIES


def from_config(config: Mapping[str, Any], path: Any) -> dict[str, Any]:
    """A text tower's settings, but for its head, from a Hugging Face config.

    Args:
      config: the content of config.json.
      path: of the file, for messages.

    Raises:
      UserError: a config of another kind, or with a setting that mmjax does not have.
    """
    kind = config.get("model_type")
    if not is_family(kind):
        known = ", ".join(map(repr, _FAMILIES))
        raise UserError(f"{path}: model_type={kind!r} is no text tower that mmjax reads; it reads {known}")
    fixed, defaults = _FAMILIES[str(kind)]
    config = defaults | {name: value for name, value in config.items() if value is not None}
    for name in ("position_embedding_type", "is_decoder"):
        if config[name] != defaults[name]:
            raise UserError(f"{path}: {name}={config[name]!r} is not read; mmjax has {defaults[name]!r}")
    counts = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    for name in (*counts, "max_position_embeddings", "type_vocab_size", "pad_token_id"):
        least, most = 0 if name == "pad_token_id" else 1, _MOST_LAYERS if name == "num_hidden_layers" else LARGEST
        if type(config[name]) is not int or not least <= config[name] <= most:
            raise UserError(f"{path}: {name}={config[name]!r:.60} is no number that a tower has; fetch the file again")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise UserError(
            f"{path}: num_attention_heads={config['num_attention_heads']} does not divide"
            f" hidden_size={config['hidden_size']}; fetch the file again"
        )
    for name in ("vocab_size", "max_position_embeddings", "type_vocab_size"):
        if config[name] * config["hidden_size"] > LARGEST_TABLE:
            raise UserError(f"{path}: {name}={config[name]} makes a table of numbers that no model has")
    eps = config["layer_norm_eps"]
    if type(eps) is not float or not 0 < eps < 1:
        raise UserError(f"{path}: layer_norm_eps={eps!r:.60} must be greater than 0 and less than 1")
    before = config["pad_token_id"] + 1 if fixed["positions"] == "after_pad" else 0
    context = config["max_position_embeddings"] - before
    if context < 1:
        raise UserError(
            f"{path}: max_position_embeddings={config['max_position_embeddings']} leaves no position after those of"
            f" pad_token_id={config['pad_token_id']}; fetch the file again"
        )
    end = config.get("eos_token_id")
    return fixed | dict(
        vocab_size=config["vocab_size"],
        context_length=context,
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"],
        activation=huggingface.ACTIVATIONS[
            validate_choice(f"{path}: hidden_act", config["hidden_act"], huggingface.ACTIVATIONS)
        ],
        norm_eps=eps,
        token_types=config["type_vocab_size"],
        pad_id=config["pad_token_id"],
        eos_id=end if type(end) is int and end >= 0 else _NO_END,
    )


def from_shapes(tensors: Tensors, prefix: str, family: str = "") -> dict[str, Any]:
    """The same as far as shapes tell; others are `MissingSetting`.

    Args:
      tensors: the file.
      prefix: of the tower's names, with its dot; may be empty.
      family: `model_type` where it is known. RoBERTa's have one row of token types, BERT's two.
    """
    shape = lambda name: model_settings.param_shape(tensors, f"{prefix}{name}", 2)
    vocab_size, width = shape("embeddings.word_embeddings.weight")
    rows, types = shape("embeddings.position_embeddings.weight")[0], shape("embeddings.token_type_embeddings.weight")[0]
    fixed, defaults = _FAMILIES[family or ("bert" if types == 2 else "roberta")]
    hidden = shape("encoder.layer.0.intermediate.dense.weight")[0]
    pattern = prefix.replace(".", r"\.") + r"encoder\.layer\.(\d+)\."
    depth = model_settings.count_layers(tensors, pattern)
    sizes = dict(hidden_size=width, intermediate_size=hidden, num_hidden_layers=depth, vocab_size=vocab_size)
    sizes |= dict(max_position_embeddings=rows, type_vocab_size=types)
    for config in PUBLISHED.values():
        if sizes.items() <= (_DEFAULTS | config).items():
            return from_config(config, tensors.path)
    why = f"no published text tower has width {width}, MLPs of {hidden} and {vocab_size} ids"
    before = defaults["pad_token_id"] + 1 if fixed["positions"] == "after_pad" else 0
    return fixed | dict(
        vocab_size=vocab_size,
        context_length=rows - before,
        width=width,
        depth=depth,
        heads=MissingSetting(str(max(1, width // 64)), why),
        mlp_dim=hidden,
        activation=MissingSetting('"gelu"'),
        norm_eps=published_towers.NORM_EPS,
        token_types=types,
        pad_id=defaults["pad_token_id"],
        eos_id=defaults.get("eos_token_id", _NO_END),
    )


def to_config(text: Mapping[str, Any], family: str = "") -> dict[str, Any]:
    """Hugging Face's config of a text tower.

    Args:
      text: its settings.
      family: `model_type`; empty for `bert` or `xlm-roberta`, by where its positions begin.

    Raises:
      UserError: it is none of BERT's kind.
    """
    family = family or ("xlm-roberta" if text.get("positions") == "after_pad" else "bert")
    fixed, defaults = _FAMILIES[family]
    for field, value in fixed.items():
        if text.get(field) != value:
            raise UserError(f"model.text.{field}={text.get(field)!r}: Hugging Face's {family} has {value!r} there")
    for field, least in (("token_types", 1), ("pad_id", 0)):
        if text.get(field) is None or text[field] < least:
            raise UserError(
                f"model.text.{field}={text.get(field)!r}: Hugging Face's {family} has {least} or more there"
            )
    before = text["pad_id"] + 1 if fixed["positions"] == "after_pad" else 0
    config = dict(
        model_type=family,
        vocab_size=text["vocab_size"],
        hidden_size=text["width"],
        num_hidden_layers=text["depth"],
        num_attention_heads=text["heads"],
        intermediate_size=text["mlp_dim"],
        hidden_act=huggingface.HF_ACTIVATIONS[text["activation"]],
        layer_norm_eps=text["norm_eps"],
        max_position_embeddings=text["context_length"] + before,
        type_vocab_size=text["token_types"],
        pad_token_id=text["pad_id"],
    )
    return config | ({} if "eos_token_id" not in defaults else dict(bos_token_id=0, eos_token_id=text["eos_id"]))


def published_name(text: Mapping[str, Any]) -> str | None:
    """The name of the published tower that a text tower's settings are those of; None for another one."""
    for name, config in PUBLISHED.items():
        if all(text.get(field) == value for field, value in from_config(config, name).items()):
            return name
    return None
