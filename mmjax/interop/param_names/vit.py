"""Names of Hugging Face's ViT as an image tower."""

from mmjax.interop import param_layouts
from mmjax.interop.param_names.media import vit_block
from mmjax.interop.param_names.rows import Row, rows, torch_norm


def table(prefix: str) -> list[Row]:
    """A `ViTModel` under a prefix, without its pooler."""
    return [
        *rows(
            f"{prefix}embeddings.",
            "image/",
            ("cls_token", "class_token", param_layouts.TOKEN),
            ("position_embeddings", "position_embedding", param_layouts.BATCH_OF_ONE),
            ("patch_embeddings.projection.weight", "patch_embed/kernel", param_layouts.CONVOLUTION),
            ("patch_embeddings.projection.bias", "patch_embed/bias", param_layouts.COPY),
        ),
        *rows(f"{prefix}encoder.layer.{{i}}.", "image/transformer/layers/", *vit_block(key_bias=True)),
        *rows(prefix, "image/", *torch_norm("layernorm", "norm")),
    ]
