"""Names of Hugging Face's BERT, RoBERTa and XLM-RoBERTa, wherever in a file such a text tower stands."""

from mmjax.interop import param_layouts
from mmjax.interop.param_names.rows import Row, rows, torch_norm, torch_pair

LAYER = [
    (
        "attention.self.query.weight attention.self.key.weight attention.self.value.weight",
        "attention/qkv/kernel",
        param_layouts.QKV_LINEAR,
    ),
    (
        "attention.self.query.bias attention.self.key.bias attention.self.value.bias",
        "attention/qkv/bias",
        param_layouts.QKV_BIAS,
    ),
    *torch_pair("attention.output.dense", "attention/out", param_layouts.LINEAR_OUT),
    *torch_norm("attention.output.LayerNorm", "norm1"),
    *torch_pair("intermediate.dense", "mlp/fc1"),
    *torch_pair("output.dense", "mlp/fc2"),
    *torch_norm("output.LayerNorm", "norm2"),
]


def tower(prefix: str) -> list[Row]:
    """The table of a tower in `model.text`, with its pooler.

    Args:
      prefix: what the tower's names begin with, with its dot; may be empty.
    """
    return [
        *rows(
            f"{prefix}embeddings.",
            "text/",
            ("word_embeddings.weight", "token_embedding", param_layouts.COPY),
            ("position_embeddings.weight", "position_embedding", param_layouts.COPY),
            ("token_type_embeddings.weight", "type_embedding", param_layouts.COPY),
            *torch_norm("LayerNorm", "norm_embed"),
        ),
        *rows(f"{prefix}encoder.layer.{{i}}.", "text/transformer/layers/", *LAYER),
        *rows(prefix, "text_head/", *torch_pair("pooler.dense", "pooler/dense")),
    ]
