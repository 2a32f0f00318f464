"""Names of Hugging Face's ViT and DINOv2 as image towers."""

from mmjax.interop import param_layouts
from mmjax.interop.param_names.media import vit_block
from mmjax.interop.param_names.rows import Row, rows, torch_norm, torch_pair


def table(prefix: str, ours: str = "image/") -> list[Row]:
    """A `ViTModel` under a prefix, without its pooler; `ours` is what our names of the tower begin with."""
    return [
        *rows(
            f"{prefix}embeddings.",
            ours,
            ("cls_token", "class_token", param_layouts.TOKEN),
            ("position_embeddings", "position_embedding", param_layouts.BATCH_OF_ONE),
            ("patch_embeddings.projection.weight", "patch_embed/kernel", param_layouts.CONVOLUTION),
            ("patch_embeddings.projection.bias", "patch_embed/bias", param_layouts.COPY),
        ),
        *rows(f"{prefix}encoder.layer.{{i}}.", f"{ours}transformer/layers/", *vit_block(key_bias=True)),
        *rows(prefix, ours, *torch_norm("layernorm", "norm")),
    ]


def dinov2(prefix: str, ours: str, *, is_gated: bool) -> list[Row]:
    """A `Dinov2Model` or `Dinov2WithRegistersModel`, with a gated MLP or a plain one; else as `table`."""
    names = lambda part: " ".join(f"attention.attention.{name}.{part}" for name in ("query", "key", "value"))
    block = [
        *torch_norm("norm1", "norm1"),
        (names("weight"), "attention/qkv/kernel", param_layouts.QKV_LINEAR),
        (names("bias"), "attention/qkv/bias", param_layouts.QKV_BIAS),
        *torch_pair("attention.output.dense", "attention/out", param_layouts.LINEAR_OUT),
        ("layer_scale1.lambda1", "layer_scale1", param_layouts.COPY),
        *torch_norm("norm2", "norm2"),
        ("layer_scale2.lambda1", "layer_scale2", param_layouts.COPY),
    ]
    plain = [*torch_pair("mlp.fc1", "mlp/fc1"), *torch_pair("mlp.fc2", "mlp/fc2")]
    gated = [
        ("mlp.weights_in.weight", "mlp/gate/kernel mlp/fc1/kernel", param_layouts.HALVES),
        ("mlp.weights_in.bias", "mlp/gate/bias mlp/fc1/bias", param_layouts.HALVES_BIAS),
        *torch_pair("mlp.weights_out", "mlp/fc2"),
    ]
    layers = (f"{prefix}encoder.layer.{{i}}.", f"{ours}transformer/layers/")
    return [
        *rows(
            f"{prefix}embeddings.",
            ours,
            ("cls_token", "class_token", param_layouts.TOKEN),
            ("register_tokens", "register_tokens", param_layouts.BATCH_OF_ONE),
            ("position_embeddings", "position_embedding", param_layouts.BATCH_OF_ONE),
            ("patch_embeddings.projection.weight", "patch_embed/kernel", param_layouts.CONVOLUTION),
            ("patch_embeddings.projection.bias", "patch_embed/bias", param_layouts.COPY),
        ),
        *rows(*layers, *block, *(gated if is_gated else plain)),
        *rows(prefix, ours, *torch_norm("layernorm", "norm")),
    ]
