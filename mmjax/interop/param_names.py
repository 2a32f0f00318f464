"""Names of the parameters in every format: one table each, read in both directions.

A row maps parameters of theirs to those of ours, in a layout. `{i}` counts layers; our side of such a row is
one layer of a stacked parameter. Rows whose parameters a model does not have are left out (a class token, a bias).
"""

import dataclasses

from mmjax.interop import param_layouts


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
      theirs: their names, `{i}` for the layer.
      ours: paths of our parameters.
      layout: between the two.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    layout: param_layouts.Layout

    @property
    def stacked(self) -> bool:
        """Whether this is a row for each layer."""
        return "{i}" in self.theirs[0]


def _rows(their_prefix: str, our_prefix: str, *pairs) -> list[Row]:
    """Rows under common prefixes; names are strings, several of them in one string apart by a space."""
    return [
        Row(
            tuple(their_prefix + name for name in theirs.split()),
            tuple(our_prefix + name for name in ours.split()),
            layout,
        )
        for theirs, ours, layout in pairs
    ]


def _torch_pair(
    theirs: str, ours: str, layout: param_layouts.Layout = param_layouts.LINEAR
) -> list[tuple[str, str, param_layouts.Layout]]:
    """nn.Linear's weight and bias."""
    return [(f"{theirs}.weight", f"{ours}/kernel", layout), (f"{theirs}.bias", f"{ours}/bias", param_layouts.FLAT)]


def _torch_norm(theirs: str, ours: str) -> list[tuple[str, str, param_layouts.Layout]]:
    return [
        (f"{theirs}.weight", f"{ours}/scale", param_layouts.COPY),
        (f"{theirs}.bias", f"{ours}/bias", param_layouts.COPY),
    ]


# -- OpenAI's CLIP and OpenCLIP ----------------------------------------------------------------------------------------

_OPENCLIP_BLOCK = [
    *_torch_norm("ln_1", "norm1"),
    ("attn.in_proj_weight", "attention/qkv/kernel", param_layouts.LINEAR),
    ("attn.in_proj_bias", "attention/qkv/bias", param_layouts.FLAT),
    *_torch_pair("attn.out_proj", "attention/out", param_layouts.LINEAR_OUT),
    *_torch_norm("ln_2", "norm2"),
    *_torch_pair("mlp.c_fc", "mlp/fc1"),
    *_torch_pair("mlp.c_proj", "mlp/fc2"),
]

_OPENCLIP_IMAGE = [
    *_rows(
        "visual.",
        "image/",
        ("conv1.weight", "patch_embed/kernel", param_layouts.CONVOLUTION),
        ("class_embedding", "class_token", param_layouts.COPY),
        ("positional_embedding", "position_embedding", param_layouts.COPY),
        *_torch_norm("ln_pre", "norm_pre"),
        *_torch_norm("ln_post", "norm"),
    ),
    *_rows("visual.transformer.resblocks.{i}.", "image/transformer/layers/", *_OPENCLIP_BLOCK),
    *_rows("visual.", "image_head/", ("proj", "projection/kernel", param_layouts.COPY)),
]

# timm's ViT with attention pooling, which OpenCLIP takes for SigLIP.
_TIMM_IMAGE = [
    *_rows(
        "visual.trunk.",
        "image/",
        ("patch_embed.proj.weight", "patch_embed/kernel", param_layouts.CONVOLUTION),
        ("patch_embed.proj.bias", "patch_embed/bias", param_layouts.COPY),
        ("pos_embed", "position_embedding", param_layouts.BATCH_OF_ONE),
        *_torch_norm("norm", "norm"),
    ),
    *_rows(
        "visual.trunk.blocks.{i}.",
        "image/transformer/layers/",
        *_torch_norm("norm1", "norm1"),
        *_torch_pair("attn.qkv", "attention/qkv"),
        *_torch_pair("attn.proj", "attention/out", param_layouts.LINEAR_OUT),
        *_torch_norm("norm2", "norm2"),
        *_torch_pair("mlp.fc1", "mlp/fc1"),
        *_torch_pair("mlp.fc2", "mlp/fc2"),
    ),
    *_rows(
        "visual.trunk.attn_pool.",
        "image_head/pool/",
        ("latent", "probe", param_layouts.COPY),
        *_torch_pair("q", "attention/q"),
        *_torch_pair("kv", "attention/kv"),
        *_torch_pair("proj", "attention/out", param_layouts.LINEAR_OUT),
        *_torch_norm("norm", "norm"),
        *_torch_pair("mlp.fc1", "mlp/fc1"),
        *_torch_pair("mlp.fc2", "mlp/fc2"),
    ),
]

_OPENCLIP_TEXT = [
    *_rows(
        "",
        "text/",
        ("token_embedding.weight", "token_embedding", param_layouts.COPY),
        ("positional_embedding", "position_embedding", param_layouts.COPY),
        *_torch_norm("ln_final", "norm"),
    ),
    *_rows("transformer.resblocks.{i}.", "text/transformer/layers/", *_OPENCLIP_BLOCK),
]

_SCALE = Row(("logit_scale",), ("logit_scale",), param_layouts.COPY)
_BIAS = Row(("logit_bias",), ("logit_bias",), param_layouts.COPY)


def _in_text(rows: list[Row]) -> list[Row]:
    """The same rows under `text.`, as CustomTextCLIP has them."""
    return [Row(tuple(f"text.{name}" for name in row.theirs), row.ours, row.layout) for row in rows]


def openclip(*, timm: bool, custom_text: bool, projection_bias: bool) -> list[Row]:
    """OpenCLIP's table.

    Args:
      timm: the image tower is timm's, under `visual.trunk.`, as SigLIP's are.
      custom_text: the text tower's names start with `text.` (`CustomTextCLIP`).
      projection_bias: the text projection is a linear layer with a bias, not a bare matrix.
    """
    projection = (
        _rows("", "text_head/", *_torch_pair("text_projection", "projection"))
        if projection_bias
        else _rows("", "text_head/", ("text_projection", "projection/kernel", param_layouts.COPY))
    )
    text = _OPENCLIP_TEXT + projection
    image = _TIMM_IMAGE if timm else _OPENCLIP_IMAGE
    return [*image, *(_in_text(text) if custom_text else text), _SCALE, _BIAS]


# -- Hugging Face ------------------------------------------------------------------------------------------------------

_HF_BLOCK = [
    *_torch_norm("layer_norm1", "norm1"),
    (
        "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight",
        "attention/qkv/kernel",
        param_layouts.QKV_LINEAR,
    ),
    ("self_attn.q_proj.bias self_attn.k_proj.bias self_attn.v_proj.bias", "attention/qkv/bias", param_layouts.QKV_BIAS),
    *_torch_pair("self_attn.out_proj", "attention/out", param_layouts.LINEAR_OUT),
    *_torch_norm("layer_norm2", "norm2"),
    *_torch_pair("mlp.fc1", "mlp/fc1"),
    *_torch_pair("mlp.fc2", "mlp/fc2"),
]

_HF_TOWERS = [
    *_rows(
        "vision_model.",
        "image/",
        ("embeddings.patch_embedding.weight", "patch_embed/kernel", param_layouts.CONVOLUTION),
        ("embeddings.position_embedding.weight", "position_embedding", param_layouts.COPY),
        *_torch_norm("post_layernorm", "norm"),
    ),
    *_rows("vision_model.encoder.layers.{i}.", "image/transformer/layers/", *_HF_BLOCK),
    *_rows(
        "text_model.",
        "text/",
        ("embeddings.token_embedding.weight", "token_embedding", param_layouts.COPY),
        ("embeddings.position_embedding.weight", "position_embedding", param_layouts.COPY),
        *_torch_norm("final_layer_norm", "norm"),
    ),
    *_rows("text_model.encoder.layers.{i}.", "text/transformer/layers/", *_HF_BLOCK),
]

HF_CLIP = [
    *_HF_TOWERS,
    *_rows(
        "vision_model.",
        "image/",
        ("embeddings.class_embedding", "class_token", param_layouts.COPY),
        *_torch_norm("pre_layrnorm", "norm_pre"),  # spelt so there
    ),
    *_rows("", "image_head/", ("visual_projection.weight", "projection/kernel", param_layouts.LINEAR)),
    *_rows("", "text_head/", ("text_projection.weight", "projection/kernel", param_layouts.LINEAR)),
    _SCALE,
]

HF_SIGLIP = [
    *_HF_TOWERS,
    *_rows("vision_model.", "image/", ("embeddings.patch_embedding.bias", "patch_embed/bias", param_layouts.COPY)),
    *_rows(
        "vision_model.head.",
        "image_head/pool/",
        ("probe", "probe", param_layouts.COPY),
        ("attention.in_proj_weight", "attention/q/kernel attention/kv/kernel", param_layouts.IN_PROJ),
        ("attention.in_proj_bias", "attention/q/bias attention/kv/bias", param_layouts.IN_PROJ_BIAS),
        *_torch_pair("attention.out_proj", "attention/out", param_layouts.LINEAR_OUT),
        *_torch_norm("layernorm", "norm"),
        *_torch_pair("mlp.fc1", "mlp/fc1"),
        *_torch_pair("mlp.fc2", "mlp/fc2"),
    ),
    *_rows("text_model.", "text_head/", *_torch_pair("head", "projection")),
    Row(("logit_scale",), ("logit_scale",), param_layouts.SCALAR_1),
    Row(("logit_bias",), ("logit_bias",), param_layouts.SCALAR_1),
]


# -- Hugging Face's towers of video and sound --------------------------------------------------------------------------
# `prefix` is what stands before a tower's names where the file holds its classifier, too.


def _hf_vit_block(*, key_bias: bool) -> list[tuple[str, str, param_layouts.Layout]]:
    """A layer as their ViT has it; VideoMAE's without a bias of keys."""
    biases = ("query.bias", "key.bias", "value.bias") if key_bias else ("q_bias", "v_bias")
    names = lambda *parts: " ".join(f"attention.attention.{part}" for part in parts)
    return [
        *_torch_norm("layernorm_before", "norm1"),
        (names("query.weight", "key.weight", "value.weight"), "attention/qkv/kernel", param_layouts.QKV_LINEAR),
        (names(*biases), "attention/qkv/bias", param_layouts.QKV_BIAS),
        *_torch_pair("attention.output.dense", "attention/out", param_layouts.LINEAR_OUT),
        *_torch_norm("layernorm_after", "norm2"),
        *_torch_pair("intermediate.dense", "mlp/fc1"),
        *_torch_pair("output.dense", "mlp/fc2"),
    ]


def hf_video(prefix: str, *, key_bias: bool) -> list[Row]:
    """ViViT, and without `key_bias` VideoMAE, whose positions are no parameter."""
    return [
        *_rows(
            f"{prefix}embeddings.",
            "video/",
            ("cls_token", "class_token", param_layouts.TOKEN),
            ("position_embeddings", "position_embedding", param_layouts.BATCH_OF_ONE),
            ("patch_embeddings.projection.weight", "tubelet_embed/kernel", param_layouts.CONVOLUTION),
            ("patch_embeddings.projection.bias", "tubelet_embed/bias", param_layouts.COPY),
        ),
        *_rows(f"{prefix}encoder.layer.{{i}}.", "video/transformer/layers/", *_hf_vit_block(key_bias=key_bias)),
        *_rows(prefix, "video/", *_torch_norm("layernorm", "norm")),
        *_rows("", "", *_torch_norm("fc_norm", "head_norm"), *_torch_pair("classifier", "head")),
    ]


def hf_ast(prefix: str, bins: int, frames: int) -> list[Row]:
    """AST; `bins` and `frames` are its patches along either axis, see `param_layouts.spectrogram_positions`."""
    positions = param_layouts.spectrogram_positions(bins, frames, 2)
    return [
        *_rows(
            f"{prefix}embeddings.",
            "audio/",
            ("cls_token", "class_token", param_layouts.TOKEN),
            ("distillation_token", "distillation_token", param_layouts.TOKEN),
            ("position_embeddings", "position_embedding", positions),
            ("patch_embeddings.projection.weight", "patch_embed/kernel", param_layouts.CONVOLUTION_OF_SPECTROGRAMS),
            ("patch_embeddings.projection.bias", "patch_embed/bias", param_layouts.COPY),
        ),
        *_rows(f"{prefix}encoder.layer.{{i}}.", "audio/transformer/layers/", *_hf_vit_block(key_bias=True)),
        *_rows(prefix, "audio/", *_torch_norm("layernorm", "norm")),
        *_rows("classifier.", "", *_torch_norm("layernorm", "head_norm"), *_torch_pair("dense", "head")),
    ]


_HF_WHISPER_BLOCK = [
    *_torch_norm("self_attn_layer_norm", "norm1"),
    (
        "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight",
        "attention/qkv/kernel",
        param_layouts.QKV_LINEAR,
    ),
    ("self_attn.q_proj.bias self_attn.v_proj.bias", "attention/qkv/bias", param_layouts.QKV_BIAS),
    *_torch_pair("self_attn.out_proj", "attention/out", param_layouts.LINEAR_OUT),
    *_torch_norm("final_layer_norm", "norm2"),
    *_torch_pair("fc1", "mlp/fc1"),
    *_torch_pair("fc2", "mlp/fc2"),
]


def hf_whisper(prefix: str) -> list[Row]:
    """Whisper's encoder and decoder; the head has rows for where it is not the token table."""
    return [
        *_rows(
            f"{prefix}encoder.",
            "audio/",
            ("conv1.weight", "conv1/kernel", param_layouts.CONVOLUTION),
            ("conv1.bias", "conv1/bias", param_layouts.COPY),
            ("conv2.weight", "conv2/kernel", param_layouts.CONVOLUTION),
            ("conv2.bias", "conv2/bias", param_layouts.COPY),
            ("embed_positions.weight", "position_embedding", param_layouts.COPY),
            *_torch_norm("layer_norm", "norm"),
        ),
        *_rows(f"{prefix}encoder.layers.{{i}}.", "audio/transformer/layers/", *_HF_WHISPER_BLOCK),
        *_rows(
            f"{prefix}decoder.",
            "text/",
            ("embed_tokens.weight", "token_embedding", param_layouts.COPY),
            ("embed_positions.weight", "position_embedding", param_layouts.COPY),
            *_torch_norm("layer_norm", "norm"),
        ),
        *_rows(
            f"{prefix}decoder.layers.{{i}}.",
            "text/transformer/layers/",
            *_HF_WHISPER_BLOCK,
            *_torch_norm("encoder_attn_layer_norm", "norm_cross"),
            *_torch_pair("encoder_attn.q_proj", "cross_attention/q"),
            (
                "encoder_attn.k_proj.weight encoder_attn.v_proj.weight",
                "cross_attention/kv/kernel",
                param_layouts.QKV_LINEAR,
            ),
            ("encoder_attn.v_proj.bias", "cross_attention/kv/bias", param_layouts.QKV_BIAS),
            *_torch_pair("encoder_attn.out_proj", "cross_attention/out", param_layouts.LINEAR_OUT),
        ),
        *_rows("", "text/", ("proj_out.weight", "head/kernel", param_layouts.LINEAR)),
    ]


# -- big_vision --------------------------------------------------------------------------------------------------------


def _flax_norm(theirs: str, ours: str) -> list[tuple[str, str, param_layouts.Layout]]:
    return [(f"{theirs}/{part}", f"{ours}/{part}", param_layouts.COPY) for part in ("scale", "bias")]


def _flax_dense(theirs: str, ours: str) -> list[tuple[str, str, param_layouts.Layout]]:
    return [(f"{theirs}/{part}", f"{ours}/{part}", param_layouts.COPY) for part in ("kernel", "bias")]


_ATTENTION = "MultiHeadDotProductAttention_0"
_BIG_VISION_BLOCK = [
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

BIG_VISION = [
    *_rows(
        "img/",
        "image/",
        *_flax_dense("embedding", "patch_embed"),
        ("pos_embedding", "position_embedding", param_layouts.BATCH_OF_ONE),
        *_flax_norm("Transformer/encoder_norm", "norm"),
    ),
    *_rows("img/Transformer/encoderblock_{i}/", "image/transformer/layers/", *_BIG_VISION_BLOCK),
    *_rows(
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
    *_rows("img/", "image_head/", *_flax_dense("head", "projection")),
    *_rows(
        "txt/",
        "text/",
        ("Embed_0/embedding", "token_embedding", param_layouts.COPY),
        ("pos_embedding", "position_embedding", param_layouts.BATCH_OF_ONE),
        *_flax_norm("Encoder_0/encoder_norm", "norm"),
    ),
    *_rows("txt/Encoder_0/encoderblock_{i}/", "text/transformer/layers/", *_BIG_VISION_BLOCK),
    *_rows("txt/", "text_head/", *_flax_dense("head", "projection")),
    Row(("t",), ("logit_scale",), param_layouts.SCALAR_1),
    Row(("b",), ("logit_bias",), param_layouts.SCALAR_1),
]
