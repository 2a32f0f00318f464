"""Names of OpenAI's CLIP and of OpenCLIP's models."""

from mmjax.interop import param_layouts
from mmjax.interop.param_names import bert
from mmjax.interop.param_names.rows import BIAS, SCALE, Row, rows, torch_norm, torch_pair

BLOCK = [
    *torch_norm("ln_1", "norm1"),
    ("ls_1.gamma", "layer_scale1", param_layouts.COPY),
    ("ls_2.gamma", "layer_scale2", param_layouts.COPY),
    ("attn.in_proj_weight", "attention/qkv/kernel", param_layouts.LINEAR),
    ("attn.in_proj_bias", "attention/qkv/bias", param_layouts.FLAT),
    *torch_pair("attn.out_proj", "attention/out", param_layouts.LINEAR_OUT),
    *torch_norm("ln_2", "norm2"),
    *torch_pair("mlp.c_fc", "mlp/fc1"),
    *torch_pair("mlp.c_proj", "mlp/fc2"),
]

VIT = [
    *rows(
        "visual.",
        "image/",
        ("conv1.weight", "patch_embed/kernel", param_layouts.CONVOLUTION),
        ("class_embedding", "class_token", param_layouts.COPY),
        ("positional_embedding", "position_embedding", param_layouts.COPY),
        *torch_norm("ln_pre", "norm_pre"),
        *torch_norm("ln_post", "norm"),
    ),
    # CLIPA's comes after the pool.
    *rows("visual.", "image_head/", *torch_norm("ln_post", "norm")),
    *rows("visual.transformer.resblocks.{i}.", "image/transformer/layers/", *BLOCK),
    *rows("visual.", "image_head/", ("proj", "projection/kernel", param_layouts.COPY)),
]

_TIMM_EMBEDDING = rows(
    "visual.trunk.",
    "image/",
    ("patch_embed.proj.weight", "patch_embed/kernel", param_layouts.CONVOLUTION),
    ("patch_embed.proj.bias", "patch_embed/bias", param_layouts.COPY),
    ("cls_token", "class_token", param_layouts.TOKEN),
    ("pos_embed", "position_embedding", param_layouts.BATCH_OF_ONE),
    *torch_norm("norm_pre", "norm_pre"),
    *torch_norm("norm", "norm"),
)


def _timm_layers(*attention) -> list[Row]:
    """Layers of timm's vision transformers, which differ in how queries, keys and values are stored."""
    return rows(
        "visual.trunk.blocks.{i}.",
        "image/transformer/layers/",
        *attention,
        *torch_norm("attn.norm", "attention/norm"),
        *torch_pair("attn.proj", "attention/out", param_layouts.LINEAR_OUT),
        ("ls1.gamma", "layer_scale1", param_layouts.COPY),
        ("ls2.gamma", "layer_scale2", param_layouts.COPY),
        *torch_norm("norm1", "norm1"),
        *torch_norm("norm2", "norm2"),
        *torch_norm("mlp.norm", "mlp/norm"),
        *torch_pair("mlp.fc2", "mlp/fc2"),
    )


_TIMM_FC1 = rows("visual.trunk.blocks.{i}.mlp.", "image/transformer/layers/mlp/", *torch_pair("fc1", "fc1"))
_TIMM_HEAD = rows("visual.trunk.", "image_head/", *torch_pair("head", "projection"))
_OPENCLIP_HEAD = rows("visual.head.", "image_head/", *torch_pair("proj", "projection"))

# timm's ViT with attention pooling, which OpenCLIP takes for SigLIP.
TIMM_SIGLIP = [
    *_TIMM_EMBEDDING,
    *_timm_layers(*torch_pair("attn.qkv", "attention/qkv")),
    *_TIMM_FC1,
    *rows(
        "visual.trunk.attn_pool.",
        "image_head/pool/",
        ("latent", "probe", param_layouts.COPY),
        *torch_pair("q", "attention/q"),
        *torch_pair("kv", "attention/kv"),
        *torch_pair("proj", "attention/out", param_layouts.LINEAR_OUT),
        *torch_norm("norm", "norm"),
        *torch_pair("mlp.fc1", "mlp/fc1"),
        *torch_pair("mlp.fc2", "mlp/fc2"),
    ),
]

# Perception Encoder, and the tower of MobileCLIP2-L/14.
TIMM_VIT = [*TIMM_SIGLIP, *_TIMM_HEAD]
# Means of patches, whose projection is OpenCLIP's own.
TIMM_GAP = [*TIMM_SIGLIP, *_OPENCLIP_HEAD]


def timm_dinov2(positions: Row, projection: str, *, is_gated: bool) -> list[Row]:
    """timm's DINOv2 with a gated MLP or a plain one; `positions` is the row of its positions."""
    gated = rows(
        "visual.trunk.blocks.{i}.mlp.",
        "image/transformer/layers/mlp/",
        ("fc1.weight", "gate/kernel fc1/kernel", param_layouts.HALVES),
        ("fc1.bias", "gate/bias fc1/bias", param_layouts.HALVES_BIAS),
    )
    return [
        *(row for row in _TIMM_EMBEDDING if not set(row.ours) & set(positions.ours)),
        positions,
        *rows("visual.trunk.", "image/", ("reg_token", "register_tokens", param_layouts.BATCH_OF_ONE)),
        *_timm_layers(*torch_pair("attn.qkv", "attention/qkv")),
        *(gated if is_gated else _TIMM_FC1),
        *(_TIMM_HEAD if projection == "bias" else _OPENCLIP_HEAD),
    ]


# EVA-01 and the largest EVA-02: biases of queries and values beside a map of all three.
TIMM_EVA = [
    *_TIMM_EMBEDDING,
    *_timm_layers(
        ("attn.qkv.weight", "attention/qkv/kernel", param_layouts.LINEAR),
        ("attn.q_bias attn.v_bias", "attention/qkv/bias", param_layouts.QKV_BIAS),
    ),
    *_TIMM_FC1,
    *_TIMM_HEAD,
]
TIMM_EVA02 = [
    *_TIMM_EMBEDDING,
    *_timm_layers(
        ("attn.q_proj.weight attn.k_proj.weight attn.v_proj.weight", "attention/qkv/kernel", param_layouts.QKV_LINEAR),
        ("attn.q_proj.bias attn.v_proj.bias", "attention/qkv/bias", param_layouts.QKV_BIAS),
    ),
    *rows(
        "visual.trunk.blocks.{i}.mlp.",
        "image/transformer/layers/mlp/",
        *torch_pair("fc1_g", "gate"),
        *torch_pair("fc1_x", "fc1"),
    ),
    *_TIMM_HEAD,
]

_TEXT = [
    *rows(
        "",
        "text/",
        ("token_embedding.weight", "token_embedding", param_layouts.COPY),
        ("positional_embedding", "position_embedding", param_layouts.COPY),
        *torch_norm("ln_final", "norm"),
    ),
    *rows("transformer.resblocks.{i}.", "text/transformer/layers/", *BLOCK),
]

LOGITS = [SCALE, BIAS]


def text(*, custom_text: bool, projection_bias: bool) -> list[Row]:
    """The table of the text tower.

    Args:
      custom_text: the names start with `text.` (`CustomTextCLIP`).
      projection_bias: the text projection is a linear layer with a bias, not a bare matrix.
    """
    projection = (
        rows("", "text_head/", *torch_pair("text_projection", "projection"))
        if projection_bias
        else rows("", "text_head/", ("text_projection", "projection/kernel", param_layouts.COPY))
    )
    table = _TEXT + projection
    if not custom_text:
        return table
    return [Row(tuple(f"text.{name}" for name in row.theirs), row.ours, row.layout) for row in table]


# A text tower of Hugging Face's, with its projection: of one layer, or of two.
HF_TEXT = [
    *bert.tower("text.transformer."),
    *rows(
        "text.proj.",
        "text_head/projection/",
        ("weight", "kernel", param_layouts.LINEAR),
        ("0.weight", "fc1/kernel", param_layouts.LINEAR),
        ("2.weight", "fc2/kernel", param_layouts.LINEAR),
    ),
]
