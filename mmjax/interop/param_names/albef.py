"""Names of the ALBEF repository's own files: timm's ViT, and one BERT whose later layers look at the image."""

import dataclasses

from mmjax.interop import param_layouts
from mmjax.interop.param_names import bert, blip
from mmjax.interop.param_names.rows import Row, rows, torch_norm, torch_pair


def table(bert_prefix: str, first_fusion: int) -> list[Row]:
    """The table of a file.

    Args:
      bert_prefix: what the names of BERT begin with, with its dot: it is another one beside a head for words.
      first_fusion: the first layer that looks at the image.
    """
    fusion = [*blip.self_attention(), *blip.cross_attention(), *blip.mlp()]
    layers = f"{bert_prefix}encoder.layer.{{i}}."
    return [
        *rows(
            "visual_encoder.",
            "image/",
            ("cls_token", "class_token", param_layouts.TOKEN),
            ("pos_embed", "position_embedding", param_layouts.BATCH_OF_ONE),
            ("patch_embed.proj.weight", "patch_embed/kernel", param_layouts.CONVOLUTION),
            ("patch_embed.proj.bias", "patch_embed/bias", param_layouts.COPY),
            *torch_norm("norm", "norm"),
        ),
        *rows(
            "visual_encoder.blocks.{i}.",
            "image/transformer/layers/",
            *torch_norm("norm1", "norm1"),
            *torch_pair("attn.qkv", "attention/qkv"),
            *torch_pair("attn.proj", "attention/out", param_layouts.LINEAR_OUT),
            *torch_norm("norm2", "norm2"),
            *torch_pair("mlp.fc1", "mlp/fc1"),
            *torch_pair("mlp.fc2", "mlp/fc2"),
        ),
        *blip.embeddings(f"{bert_prefix}embeddings."),
        *rows(layers, "text/transformer/layers/", *bert.LAYER),
        *(dataclasses.replace(row, first=first_fusion) for row in rows(layers, "fusion/layers/", *fusion)),
        *blip.word_head("text_encoder.cls.predictions."),
        *rows(
            "",
            "",
            *torch_pair("vision_proj", "image_projection"),
            *torch_pair("text_proj", "text_projection"),
            *torch_pair("itm_head", "match_head/dense"),
            ("temp", "logit_scale", param_layouts.TEMPERATURE),
        ),
    ]
