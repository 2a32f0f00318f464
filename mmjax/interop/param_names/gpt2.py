"""Names of Hugging Face's GPT-2, whose linear maps are stored the other way round than `nn.Linear`'s."""

from mmjax.interop import param_layouts
from mmjax.interop.param_names.rows import Row, rows, torch_norm


def _conv1d(theirs: str, ours: str, layout: param_layouts.Layout) -> list[tuple[str, str, param_layouts.Layout]]:
    return [(f"{theirs}.weight", f"{ours}/kernel", layout), (f"{theirs}.bias", f"{ours}/bias", param_layouts.FLAT)]


_BLOCK = [
    *torch_norm("ln_1", "norm1"),
    *_conv1d("attn.c_attn", "attention/qkv", param_layouts.MATRIX),
    *_conv1d("attn.c_proj", "attention/out", param_layouts.MATRIX_OUT),
    *torch_norm("ln_2", "norm2"),
    *_conv1d("mlp.c_fc", "mlp/fc1", param_layouts.MATRIX),
    *_conv1d("mlp.c_proj", "mlp/fc2", param_layouts.MATRIX),
    *torch_norm("ln_cross_attn", "norm_cross"),
    *_conv1d("crossattention.q_attn", "cross_attention/q", param_layouts.MATRIX),
    *_conv1d("crossattention.c_attn", "cross_attention/kv", param_layouts.MATRIX),
    *_conv1d("crossattention.c_proj", "cross_attention/out", param_layouts.MATRIX_OUT),
]


def table(prefix: str) -> list[Row]:
    """A `GPT2LMHeadModel`, with cross-attention or without; its head has a row for where it is not the token table."""
    return [
        *rows(
            f"{prefix}transformer.",
            "text/",
            ("wte.weight", "token_embedding", param_layouts.COPY),
            ("wpe.weight", "position_embedding", param_layouts.COPY),
            *torch_norm("ln_f", "norm"),
        ),
        *rows(f"{prefix}transformer.h.{{i}}.", "text/transformer/layers/", *_BLOCK),
        *rows(prefix, "text/", ("lm_head.weight", "head/kernel", param_layouts.LINEAR)),
    ]
