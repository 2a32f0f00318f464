"""Names of Hugging Face's OPT as the part that writes."""

from mmjax.interop import param_layouts
from mmjax.interop.param_names.rows import Row, rows, torch_norm, torch_pair

_BLOCK = [
    *torch_norm("self_attn_layer_norm", "norm1"),
    (
        "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight",
        "attention/qkv/kernel",
        param_layouts.QKV_LINEAR,
    ),
    ("self_attn.q_proj.bias self_attn.k_proj.bias self_attn.v_proj.bias", "attention/qkv/bias", param_layouts.QKV_BIAS),
    *torch_pair("self_attn.out_proj", "attention/out", param_layouts.LINEAR_OUT),
    *torch_norm("final_layer_norm", "norm2"),
    *torch_pair("fc1", "mlp/fc1"),
    *torch_pair("fc2", "mlp/fc2"),
]


def language_model(prefix: str) -> list[Row]:
    """An `OPTForCausalLM`; its head has a row for where it is not the token table."""
    return [
        *rows(
            f"{prefix}model.decoder.",
            "text/",
            ("embed_tokens.weight", "token_embedding", param_layouts.COPY),
            ("embed_positions.weight", "position_embedding", param_layouts.BEHIND_TWO),
            *torch_norm("final_layer_norm", "norm"),
        ),
        *rows(f"{prefix}model.decoder.layers.{{i}}.", "text/transformer/layers/", *_BLOCK),
        *rows(prefix, "text/", ("lm_head.weight", "head/kernel", param_layouts.LINEAR)),
    ]
