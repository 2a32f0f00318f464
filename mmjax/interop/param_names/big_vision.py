"""Names of big_vision's SigLIP."""

from mmjax.interop import param_layouts
from mmjax.interop.param_names.rows import Row, rows


def _flax_norm(theirs: str, ours: str) -> list[tuple[str, str, param_layouts.Layout]]:
    return [(f"{theirs}/{part}", f"{ours}/{part}", param_layouts.COPY) for part in ("scale", "bias")]


def _flax_dense(theirs: str, ours: str) -> list[tuple[str, str, param_layouts.Layout]]:
    return [(f"{theirs}/{part}", f"{ours}/{part}", param_layouts.COPY) for part in ("kernel", "bias")]


_ATTENTION = "MultiHeadDotProductAttention_0"
_BLOCK = [
    *_flax_norm("LayerNorm_0", "norm1"),
    (
        " ".join(f"{_ATTENTION}/{part}/kernel" for part in ("query", "key", "value")),
        "attention/qkv/kernel",
        param_layouts.QKV_HEADS,
    ),
    (
        " ".join(f"{_ATTENTION}/{part}/bias" for part in ("query", "key", "value")),
        "attention/qkv/bias",
        param_layouts.QKV_HEADS_BIAS,
    ),
    *_flax_dense(f"{_ATTENTION}/out", "attention/out"),
    *_flax_norm("LayerNorm_1", "norm2"),
    *_flax_dense("MlpBlock_0/Dense_0", "mlp/fc1"),
    *_flax_dense("MlpBlock_0/Dense_1", "mlp/fc2"),
]

TABLE = [
    *rows(
        "img/",
        "image/",
        *_flax_dense("embedding", "patch_embed"),
        ("pos_embedding", "position_embedding", param_layouts.BATCH_OF_ONE),
        *_flax_norm("Transformer/encoder_norm", "norm"),
    ),
    *rows("img/Transformer/encoderblock_{i}/", "image/transformer/layers/", *_BLOCK),
    *rows(
        "img/MAPHead_0/",
        "image_head/pool/",
        ("probe", "probe", param_layouts.COPY),
        *_flax_dense(f"{_ATTENTION}/query", "attention/q"),
        (f"{_ATTENTION}/key/kernel {_ATTENTION}/value/kernel", "attention/kv/kernel", param_layouts.QKV_HEADS),
        (f"{_ATTENTION}/key/bias {_ATTENTION}/value/bias", "attention/kv/bias", param_layouts.QKV_HEADS_BIAS),
        *_flax_dense(f"{_ATTENTION}/out", "attention/out"),
        *_flax_norm("LayerNorm_0", "norm"),
        *_flax_dense("MlpBlock_0/Dense_0", "mlp/fc1"),
        *_flax_dense("MlpBlock_0/Dense_1", "mlp/fc2"),
    ),
    *rows("img/", "image_head/", *_flax_dense("head", "projection")),
    *rows(
        "txt/",
        "text/",
        ("Embed_0/embedding", "token_embedding", param_layouts.COPY),
        ("pos_embedding", "position_embedding", param_layouts.BATCH_OF_ONE),
        *_flax_norm("Encoder_0/encoder_norm", "norm"),
    ),
    *rows("txt/Encoder_0/encoderblock_{i}/", "text/transformer/layers/", *_BLOCK),
    *rows("txt/", "text_head/", *_flax_dense("head", "projection")),
    Row(("t",), ("logit_scale",), param_layouts.SCALAR_1),
    Row(("b",), ("logit_bias",), param_layouts.SCALAR_1),
]
