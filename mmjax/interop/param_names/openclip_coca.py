"""Names of OpenCLIP's CoCa."""

from mmjax.interop import param_layouts
from mmjax.interop.param_names import openclip
from mmjax.interop.param_names.rows import Row, rows, torch_norm, torch_pair

# A layer of the decoder that looks at the image, as the table of the layer before it has the rest.
_CROSSING = [
    *torch_norm("ln_1", "norm_cross"),
    *torch_norm("ln_1_kv", "norm_memory"),
    ("attn.in_proj_weight", "cross_attention/q/kernel cross_attention/kv/kernel", param_layouts.IN_PROJ),
    ("attn.in_proj_bias", "cross_attention/q/bias cross_attention/kv/bias", param_layouts.IN_PROJ_BIAS),
    *torch_pair("attn.out_proj", "cross_attention/out", param_layouts.LINEAR_OUT),
    *torch_norm("ln_2", "norm_cross_mlp"),
    *torch_pair("mlp.c_fc", "cross_mlp/fc1"),
    *torch_pair("mlp.c_proj", "cross_mlp/fc2"),
]
# An image tower as wide as the embeddings has one matrix there.
_POOL_MATRICES = {
    True: [("attn.in_proj_weight", "attention/q/kernel attention/kv/kernel", param_layouts.IN_PROJ)],
    False: [
        ("attn.q_proj_weight", "attention/q/kernel", param_layouts.LINEAR),
        ("attn.k_proj_weight attn.v_proj_weight", "attention/kv/kernel", param_layouts.QKV_LINEAR),
    ],
}


def table(*, is_as_wide: bool) -> list[Row]:
    """The table; `is_as_wide`: the image tower is as wide as the embeddings."""
    towers = [row for row in openclip.VIT if not row.ours[0].startswith("image_head/")]
    text = [row for row in openclip.text(custom_text=True, projection_bias=False) if row.ours[0].startswith("text/")]
    return [
        *towers,
        *rows(
            "visual.attn_pool.",
            "image_pool/",
            ("query", "probe", param_layouts.FIRST_OF_ONE),
            *torch_norm("ln_q", "norm_query"),
            *torch_norm("ln_k", "norm_memory"),
            *_POOL_MATRICES[is_as_wide],
            ("attn.in_proj_bias", "attention/q/bias attention/kv/bias", param_layouts.IN_PROJ_BIAS),
            *torch_pair("attn.out_proj", "attention/out", param_layouts.LINEAR_OUT),
        ),
        *rows(
            "visual.",
            "image_",
            *torch_norm("ln_post", "norm"),
            ("proj", "projection/kernel", param_layouts.COPY),
        ),
        *text,
        *rows(
            "text.",
            "text_",
            ("cls_emb", "class_token", param_layouts.COPY),
            *torch_norm("ln_final", "norm"),
            ("text_projection", "projection/kernel", param_layouts.COPY),
        ),
        *rows("text_decoder.resblocks.{i}.", "decoder/layers/", *openclip.BLOCK),
        *rows("text_decoder.cross_attn.{i}.", "decoder/layers/", *_CROSSING),
        *rows(
            "text_decoder.",
            "decoder_",
            *torch_norm("ln_final", "norm"),
            ("text_projection", "head/kernel", param_layouts.COPY),
        ),
        *openclip.LOGITS,
    ]
