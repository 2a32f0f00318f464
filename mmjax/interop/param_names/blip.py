"""Names of Hugging Face's BLIP: its image tower, and BERT's layers with cross-attention."""

import math

from mmjax.interop import param_layouts
from mmjax.interop.param_names.rows import Row, rows, torch_norm, torch_pair

Pairs = list[tuple[str, str, param_layouts.Layout]]

_IMAGE_BLOCK: Pairs = [
    *torch_norm("layer_norm1", "norm1"),
    *torch_pair("self_attn.qkv", "attention/qkv"),
    *torch_pair("self_attn.projection", "attention/out", param_layouts.LINEAR_OUT),
    *torch_norm("layer_norm2", "norm2"),
    *torch_pair("mlp.fc1", "mlp/fc1"),
    *torch_pair("mlp.fc2", "mlp/fc2"),
]


def image(prefix: str) -> list[Row]:
    """The image tower of BLIP and of BLIP-2 under a prefix."""
    return [
        *rows(
            f"{prefix}embeddings.",
            "image/",
            ("class_embedding", "class_token", param_layouts.TOKEN),
            ("position_embedding", "position_embedding", param_layouts.BATCH_OF_ONE),
            ("patch_embedding.weight", "patch_embed/kernel", param_layouts.CONVOLUTION),
            ("patch_embedding.bias", "patch_embed/bias", param_layouts.COPY),
        ),
        *rows(f"{prefix}encoder.layers.{{i}}.", "image/transformer/layers/", *_IMAGE_BLOCK),
        *rows(prefix, "image/", *torch_norm("post_layernorm", "norm")),
    ]


def _attention(theirs: str, ours: str, part: str, names: tuple[str, ...]) -> Pairs:
    """Linear maps of one input as one of ours; of a single one its axis of parts is not there."""
    join = lambda kind: " ".join(f"{theirs}.{name}.{kind}" for name in names)
    kernel, bias = param_layouts.QKV_LINEAR, param_layouts.QKV_BIAS
    if len(names) == 1:
        kernel, bias = param_layouts.LINEAR, param_layouts.FLAT
    return [(join("weight"), f"{ours}/{part}/kernel", kernel), (join("bias"), f"{ours}/{part}/bias", bias)]


def self_attention(theirs: str = "attention.self", ours: str = "") -> Pairs:
    """Self-attention of a layer of BERT; `ours` is what our names begin with."""
    return [
        *_attention(theirs, f"{ours}attention", "qkv", ("query", "key", "value")),
        *torch_pair("attention.output.dense", f"{ours}attention/out", param_layouts.LINEAR_OUT),
        *torch_norm("attention.output.LayerNorm", f"{ours}norm1"),
    ]


def cross_attention(theirs: str = "crossattention.self") -> Pairs:
    """Cross-attention of such a layer."""
    return [
        *_attention(theirs, "cross_attention", "q", ("query",)),
        *_attention(theirs, "cross_attention", "kv", ("key", "value")),
        *torch_pair("crossattention.output.dense", "cross_attention/out", param_layouts.LINEAR_OUT),
        *torch_norm("crossattention.output.LayerNorm", "norm_cross"),
    ]


def mlp(suffix: str = "", ours: str = "") -> Pairs:
    """The MLP of such a layer; BLIP-2's has one more for its queries, whose names have a suffix."""
    return [
        *torch_pair(f"intermediate{suffix}.dense", f"{ours}mlp/fc1"),
        *torch_pair(f"output{suffix}.dense", f"{ours}mlp/fc2"),
        *torch_norm(f"output{suffix}.LayerNorm", f"{ours}norm2"),
    ]


def embeddings(prefix: str, text: str = "text/", norm: str = "LayerNorm") -> list[Row]:
    """BERT's embeddings, with token types where the model has any; another `norm` than its own by its whole name."""
    return [
        *rows(
            prefix,
            text,
            ("word_embeddings.weight", "token_embedding", param_layouts.COPY),
            ("position_embeddings.weight", "position_embedding", param_layouts.COPY),
            ("token_type_embeddings.weight", "type_embedding", param_layouts.COPY),
        ),
        *rows(prefix if norm == "LayerNorm" else "", text, *torch_norm(norm, "norm_embed")),
    ]


def word_head(prefix: str, text: str = "text/", bias: str = "bias") -> list[Row]:
    """BERT's head over the vocabulary, whose matrix is the token table."""
    return rows(
        prefix,
        text,
        *torch_pair("transform.dense", "head_dense"),
        *torch_norm("transform.LayerNorm", "head_norm"),
        (bias, "head_bias", param_layouts.COPY),
    )


def writer(prefix: str, text: str = "text/") -> list[Row]:
    """A `BlipTextLMHeadModel` under a prefix."""
    return [*reader(f"{prefix}bert.", text), *word_head(f"{prefix}cls.predictions.", text)]


def reader(prefix: str, text: str = "text/") -> list[Row]:
    """A `BlipTextModel` under a prefix."""
    layer = [*self_attention(), *cross_attention(), *mlp()]
    return [
        *embeddings(f"{prefix}embeddings.", text),
        *rows(f"{prefix}encoder.layer.{{i}}.", f"{text}transformer/layers/", *layer),
    ]


def retrieval(scale: float) -> list[Row]:
    """A `BlipForImageTextRetrieval`, which has no scale of its logits: that is a number of ours."""
    return [
        *image("vision_model."),
        *reader("text_encoder."),
        *rows(
            "",
            "",
            *torch_pair("vision_proj", "image_projection"),
            *torch_pair("text_proj", "text_projection"),
            *torch_pair("itm_head", "match_head/dense"),
        ),
        Row((), ("logit_scale",), param_layouts.constant(math.log(scale))),
    ]
