"""Names of Hugging Face's towers of video and sound."""

from mmjax.interop import param_layouts
from mmjax.interop.param_names.rows import Row, rows, torch_norm, torch_pair

# `prefix` is what stands before a tower's names where the file holds its classifier, too.


def vit_block(*, key_bias: bool) -> list[tuple[str, str, param_layouts.Layout]]:
    """A layer as their ViT has it; VideoMAE's without a bias of keys."""
    biases = ("query.bias", "key.bias", "value.bias") if key_bias else ("q_bias", "v_bias")
    names = lambda *parts: " ".join(f"attention.attention.{part}" for part in parts)
    return [
        *torch_norm("layernorm_before", "norm1"),
        (names("query.weight", "key.weight", "value.weight"), "attention/qkv/kernel", param_layouts.QKV_LINEAR),
        (names(*biases), "attention/qkv/bias", param_layouts.QKV_BIAS),
        *torch_pair("attention.output.dense", "attention/out", param_layouts.LINEAR_OUT),
        *torch_norm("layernorm_after", "norm2"),
        *torch_pair("intermediate.dense", "mlp/fc1"),
        *torch_pair("output.dense", "mlp/fc2"),
    ]


def video(prefix: str, *, key_bias: bool) -> list[Row]:
    """ViViT, and without `key_bias` VideoMAE, whose positions are no parameter."""
    return [
        *rows(
            f"{prefix}embeddings.",
            "video/",
            ("cls_token", "class_token", param_layouts.TOKEN),
            ("position_embeddings", "position_embedding", param_layouts.BATCH_OF_ONE),
            ("patch_embeddings.projection.weight", "tubelet_embed/kernel", param_layouts.CONVOLUTION),
            ("patch_embeddings.projection.bias", "tubelet_embed/bias", param_layouts.COPY),
        ),
        *rows(f"{prefix}encoder.layer.{{i}}.", "video/transformer/layers/", *vit_block(key_bias=key_bias)),
        *rows(prefix, "video/", *torch_norm("layernorm", "norm")),
        *rows("", "", *torch_norm("fc_norm", "head_norm"), *torch_pair("classifier", "head")),
    ]


def ast(prefix: str, bins: int, frames: int) -> list[Row]:
    """AST; `bins` and `frames` are its patches along either axis, see `param_layouts.spectrogram_positions`."""
    positions = param_layouts.spectrogram_positions(bins, frames, 2)
    return [
        *rows(
            f"{prefix}embeddings.",
            "audio/",
            ("cls_token", "class_token", param_layouts.TOKEN),
            ("distillation_token", "distillation_token", param_layouts.TOKEN),
            ("position_embeddings", "position_embedding", positions),
            ("patch_embeddings.projection.weight", "patch_embed/kernel", param_layouts.CONVOLUTION_OF_SPECTROGRAMS),
            ("patch_embeddings.projection.bias", "patch_embed/bias", param_layouts.COPY),
        ),
        *rows(f"{prefix}encoder.layer.{{i}}.", "audio/transformer/layers/", *vit_block(key_bias=True)),
        *rows(prefix, "audio/", *torch_norm("layernorm", "norm")),
        *rows("classifier.", "", *torch_norm("layernorm", "head_norm"), *torch_pair("dense", "head")),
    ]


_WHISPER_BLOCK = [
    *torch_norm("self_attn_layer_norm", "norm1"),
    (
        "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight",
        "attention/qkv/kernel",
        param_layouts.QKV_LINEAR,
    ),
    ("self_attn.q_proj.bias self_attn.v_proj.bias", "attention/qkv/bias", param_layouts.QKV_BIAS),
    *torch_pair("self_attn.out_proj", "attention/out", param_layouts.LINEAR_OUT),
    *torch_norm("final_layer_norm", "norm2"),
    *torch_pair("fc1", "mlp/fc1"),
    *torch_pair("fc2", "mlp/fc2"),
]


def whisper(prefix: str) -> list[Row]:
    """Whisper's encoder and decoder; the head has rows for where it is not the token table."""
    return [
        *rows(
            f"{prefix}encoder.",
            "audio/",
            ("conv1.weight", "conv1/kernel", param_layouts.CONVOLUTION),
            ("conv1.bias", "conv1/bias", param_layouts.COPY),
            ("conv2.weight", "conv2/kernel", param_layouts.CONVOLUTION),
            ("conv2.bias", "conv2/bias", param_layouts.COPY),
            ("embed_positions.weight", "position_embedding", param_layouts.COPY),
            *torch_norm("layer_norm", "norm"),
        ),
        *rows(f"{prefix}encoder.layers.{{i}}.", "audio/transformer/layers/", *_WHISPER_BLOCK),
        *rows(
            f"{prefix}decoder.",
            "text/",
            ("embed_tokens.weight", "token_embedding", param_layouts.COPY),
            ("embed_positions.weight", "position_embedding", param_layouts.COPY),
            *torch_norm("layer_norm", "norm"),
        ),
        *rows(
            f"{prefix}decoder.layers.{{i}}.",
            "text/transformer/layers/",
            *_WHISPER_BLOCK,
            *torch_norm("encoder_attn_layer_norm", "norm_cross"),
            *torch_pair("encoder_attn.q_proj", "cross_attention/q"),
            (
                "encoder_attn.k_proj.weight encoder_attn.v_proj.weight",
                "cross_attention/kv/kernel",
                param_layouts.QKV_LINEAR,
            ),
            ("encoder_attn.v_proj.bias", "cross_attention/kv/bias", param_layouts.QKV_BIAS),
            *torch_pair("encoder_attn.out_proj", "cross_attention/out", param_layouts.LINEAR_OUT),
        ),
        *rows("", "text/", ("proj_out.weight", "head/kernel", param_layouts.LINEAR)),
    ]
