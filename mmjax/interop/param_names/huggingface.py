"""Names of Hugging Face's CLIPModel and SiglipModel."""

from mmjax.interop import param_layouts
from mmjax.interop.param_names.rows import SCALE, Row, rows, torch_norm, torch_pair

_BLOCK = [
    *torch_norm("layer_norm1", "norm1"),
    (
        "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight",
        "attention/qkv/kernel",
        param_layouts.QKV_LINEAR,
    ),
    ("self_attn.q_proj.bias self_attn.k_proj.bias self_attn.v_proj.bias", "attention/qkv/bias", param_layouts.QKV_BIAS),
    *torch_pair("self_attn.out_proj", "attention/out", param_layouts.LINEAR_OUT),
    *torch_norm("layer_norm2", "norm2"),
    *torch_pair("mlp.fc1", "mlp/fc1"),
    *torch_pair("mlp.fc2", "mlp/fc2"),
]


def vision(prefix: str, ours: str = "image/") -> list[Row]:
    """The image towers of both under a prefix, without their heads; `ours` is what our names begin with."""
    return [
        *rows(
            prefix,
            ours,
            ("embeddings.patch_embedding.weight", "patch_embed/kernel", param_layouts.CONVOLUTION),
            ("embeddings.patch_embedding.bias", "patch_embed/bias", param_layouts.COPY),
            ("embeddings.position_embedding.weight", "position_embedding", param_layouts.COPY),
            ("embeddings.class_embedding", "class_token", param_layouts.COPY),
            *torch_norm("pre_layrnorm", "norm_pre"),  # spelt so there
            *torch_norm("post_layernorm", "norm"),
        ),
        *rows(f"{prefix}encoder.layers.{{i}}.", f"{ours}transformer/layers/", *_BLOCK),
    ]


def vision_pool(prefix: str, ours: str) -> list[Row]:
    """SigLIP's attention pooling of an image tower's tokens."""
    return rows(
        prefix,
        ours,
        ("probe", "probe", param_layouts.COPY),
        ("attention.in_proj_weight", "attention/q/kernel attention/kv/kernel", param_layouts.IN_PROJ),
        ("attention.in_proj_bias", "attention/q/bias attention/kv/bias", param_layouts.IN_PROJ_BIAS),
        *torch_pair("attention.out_proj", "attention/out", param_layouts.LINEAR_OUT),
        *torch_norm("layernorm", "norm"),
        *torch_pair("mlp.fc1", "mlp/fc1"),
        *torch_pair("mlp.fc2", "mlp/fc2"),
    )


_TOWERS = [
    *vision("vision_model."),
    *rows(
        "text_model.",
        "text/",
        ("embeddings.token_embedding.weight", "token_embedding", param_layouts.COPY),
        ("embeddings.position_embedding.weight", "position_embedding", param_layouts.COPY),
        *torch_norm("final_layer_norm", "norm"),
    ),
    *rows("text_model.encoder.layers.{i}.", "text/transformer/layers/", *_BLOCK),
]

CLIP = [
    *_TOWERS,
    *rows("", "image_head/", ("visual_projection.weight", "projection/kernel", param_layouts.LINEAR)),
    *rows("", "text_head/", ("text_projection.weight", "projection/kernel", param_layouts.LINEAR)),
    SCALE,
]

SIGLIP = [
    *_TOWERS,
    *vision_pool("vision_model.head.", "image_head/pool/"),
    *rows("text_model.", "text_head/", *torch_pair("head", "projection")),
    Row(("logit_scale",), ("logit_scale",), param_layouts.SCALAR_1),
    Row(("logit_bias",), ("logit_bias",), param_layouts.SCALAR_1),
]
