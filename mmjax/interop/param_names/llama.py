"""Names of Hugging Face's Llama and Gemma as the part that writes, and of the connectors in front of them."""

from mmjax.interop import param_layouts
from mmjax.interop.param_names.rows import Row, rows, torch_pair

_BLOCK = [
    ("input_layernorm.weight", "norm1/scale", param_layouts.COPY),
    # With as many heads of keys and values as of queries all three are one map here; with fewer, the two are.
    (
        "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight",
        "attention/qkv/kernel",
        param_layouts.QKV_LINEAR,
    ),
    ("self_attn.q_proj.bias self_attn.k_proj.bias self_attn.v_proj.bias", "attention/qkv/bias", param_layouts.QKV_BIAS),
    *torch_pair("self_attn.q_proj", "attention/q"),
    ("self_attn.k_proj.weight self_attn.v_proj.weight", "attention/kv/kernel", param_layouts.QKV_LINEAR),
    ("self_attn.k_proj.bias self_attn.v_proj.bias", "attention/kv/bias", param_layouts.QKV_BIAS),
    *torch_pair("self_attn.o_proj", "attention/out", param_layouts.LINEAR_OUT),
    ("post_attention_layernorm.weight", "norm2/scale", param_layouts.COPY),
    *torch_pair("mlp.gate_proj", "mlp/gate"),
    *torch_pair("mlp.up_proj", "mlp/fc1"),
    *torch_pair("mlp.down_proj", "mlp/fc2"),
]


def language_model(prefix: str) -> list[Row]:
    """A model with its head; the head has a row for where it is not the token table."""
    return [
        *rows(
            f"{prefix}model.",
            "text/",
            ("embed_tokens.weight", "token_embedding", param_layouts.COPY),
            ("norm.weight", "norm/scale", param_layouts.COPY),
        ),
        *rows(f"{prefix}model.layers.{{i}}.", "text/transformer/layers/", *_BLOCK),
        *rows(prefix, "text/", ("lm_head.weight", "head/kernel", param_layouts.LINEAR)),
    ]


def connector(prefix: str, *names: str) -> list[Row]:
    """Its linear layers, one after the other."""
    return [row for i, name in enumerate(names) for row in rows(prefix, "connector/", *torch_pair(name, f"fc{i + 1}"))]
